"""Forms with files (RFC 7578) that pass through: what of their fields is decided on is read, and nothing else kept."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import flask
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from app.errors import ValidationException

DECIDING = ("model", "stream", "user")
"""The fields on which something is decided here; each may be there once."""
FIELD_MAX_BYTES = 1024
"""More of such a field is not read: no name of a model is longer."""
PARTS_MAX = 200
PIECE = 256 * 1024
BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{1,200}")
"""RFC 2046, section 5.1.1, allows 70 characters; some clients write a few more."""
DISPOSITION = re.compile(
    r'form-data; ?name="([A-Za-z0-9_.\[\]-]{1,64})"'
    r'(?:; ?filename="(?:[^"\\\r\n]|\\(?!")){0,1024}")?(?:; ?filename\*=[^;"\r\n]{0,1024})?',
    re.I,
)
"""What every client writes. Of other forms two parsers may understand different names."""


def form_type(request: flask.Request) -> str:
    """The media type of a form as it came; raises 415 when the body is said to be something else."""
    given, boundary = request.headers.get("Content-Type", ""), request.mimetype_params.get("boundary", "")
    is_sendable = given.isascii() and given.isprintable()
    if request.mimetype != "multipart/form-data" or not BOUNDARY.fullmatch(boundary) or not is_sendable:
        message = "The body must be multipart/form-data with a boundary"
        raise ValidationException(message, error_code="unsupported_media_type")
    return given


def form_fields(request: flask.Request, body: bytes) -> dict[str, str]:
    """The fields of DECIDING in a form; raises ValidationException for what is no form, or is one in two ways."""
    found: dict[str, bytes] = {}
    name = ""
    for event in _events(body, request.mimetype_params["boundary"]):
        if isinstance(event, Field | File):
            name = _checked(event, found)
        elif isinstance(event, Data) and name:
            found[name] = (found[name] + event.data)[:FIELD_MAX_BYTES]
    return {name: value.decode("utf-8", "replace") for name, value in found.items()}


def _checked(event: Field | File, found: dict[str, bytes]) -> str:
    """The name of a part that is decided on, now in `found`; empty for any other."""
    given = event.headers.getlist("Content-Disposition")
    told = DISPOSITION.fullmatch(given[0]) if len(given) == 1 else None
    if told is None:
        raise ValidationException("Each part of the form must have one plain name")
    name, lower = told[1], told[1].lower()
    if lower not in DECIDING:
        return ""
    if name != lower or name in found or isinstance(event, File) or "Content-Transfer-Encoding" in event.headers:
        raise ValidationException(f"must be one field, spelled {lower}", lower)
    found[name] = b""
    return name


def _events(body: bytes, boundary: str) -> Iterator[Event]:
    decoder = MultipartDecoder(boundary.encode(), max_parts=PARTS_MAX)
    try:
        for start in range(0, len(body), PIECE):
            decoder.receive_data(body[start : start + PIECE])
            yield from _ready(decoder)
            # Under gevent the other requests have a turn.
            time.sleep(0)
        decoder.receive_data(None)
        yield from _ready(decoder)
    except ValueError:
        message = "The body is not a form that can be read"
        raise ValidationException(message, error_code="bad_request", status=400) from None


def _ready(decoder: MultipartDecoder) -> Iterator[Event]:
    while not isinstance(event := decoder.next_event(), NeedData):
        yield event
        if isinstance(event, Epilogue):
            return
