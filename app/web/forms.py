"""Forms with files (RFC 7578) that pass through: what of their fields is decided on is read, and nothing else kept."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Iterator

import flask
from werkzeug.sansio.multipart import Data, Epilogue, Event, Field, File, MultipartDecoder, NeedData

from app.errors import ValidationException
from app.services.passed_request import FormField

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


def form_fields(request: flask.Request, body: bytes) -> dict[str, FormField]:
    """The fields of DECIDING in a form; raises ValidationException for what is no form, or is one in two ways."""
    found: dict[str, slice] = {}
    name = ""
    for event, position in _events(body, request.mimetype_params["boundary"]):
        if isinstance(event, Field | File):
            name = _checked(event, found)
            if name:
                begin = position + (2 if body[position : position + 2] == b"\r\n" else 1)
                found[name] = slice(begin, begin)
        elif isinstance(event, Data) and name:
            found[name] = slice(found[name].start, found[name].stop + len(event.data))
    return {name: _field(body, place.start, place.stop) for name, place in found.items()}


def _field(body: bytes, start: int, stop: int) -> FormField:
    # Where a piece ends within the last boundary, the decoder takes half of the line break before it for data.
    if stop > start and body[stop - 1 : stop + 1] == b"\r\n":
        stop -= 1
    text = body[start : min(stop, start + FIELD_MAX_BYTES)].decode("utf-8", "replace")
    return FormField(text, slice(start, stop))


def _checked(event: Field | File, found: Container[str]) -> str:
    """The name of a part that is decided on and not `found` yet; empty for any other."""
    given = event.headers.getlist("Content-Disposition")
    told = DISPOSITION.fullmatch(given[0]) if len(given) == 1 else None
    if told is None:
        raise ValidationException("Each part of the form must have one plain name")
    name, lower = told[1], told[1].lower()
    if lower not in DECIDING:
        return ""
    if name != lower or name in found or isinstance(event, File) or "Content-Transfer-Encoding" in event.headers:
        raise ValidationException(f"must be one field, spelled {lower}", lower)
    return name


def _events(body: bytes, boundary: str) -> Iterator[tuple[Event, int]]:
    """The events of a form, each with where the body goes on behind it: before the break of a line, where that is a
    part's value."""
    decoder = MultipartDecoder(boundary.encode(), max_parts=PARTS_MAX)
    try:
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            decoder.receive_data(piece)
            yield from _ready(decoder, start + len(piece))
            # Under gevent the other requests have a turn.
            time.sleep(0)
        decoder.receive_data(None)
        yield from _ready(decoder, len(body))
    except ValueError:
        message = "The body is not a form that can be read"
        raise ValidationException(message, error_code="bad_request", status=400) from None


def _ready(decoder: MultipartDecoder, received: int) -> Iterator[tuple[Event, int]]:
    while not isinstance(event := decoder.next_event(), NeedData):
        # What the decoder has not made an event of yet stands in its buffer.
        yield event, received - len(decoder.buffer)
        if isinstance(event, Epilogue):
            return
