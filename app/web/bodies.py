"""Request bodies: their media type, their content coding, and the bounds within which they are read."""

from __future__ import annotations

import io
import math
import time
import zlib
from collections.abc import Iterator

import flask
from werkzeug.exceptions import RequestEntityTooLarge

from app.errors import ValidationException
from app.web.body_room import BodyRoom, HeldBody
from app.web.services import service
from app.web.zstd import unzstd

VALUES_MAX = 500_000
"""How many values a body may have: OpenAI's largest are lists of 300,000 tokens for embeddings."""
NAMES_MAX = 200_000
"""How many members its objects may have, all together."""
SMALL_BYTES = 64 * 1024
"""Bodies up to this size are read however full the room for bodies is, so ordinary requests never wait for it."""
READ_PIECE = 64 * 1024
PIECE = 256 * 1024
"""As much is decoded at once, which takes about a millisecond."""
GZIP = zlib.MAX_WBITS | 16
PARTS_MAX = 20
"""So many members of gzip or frames of zstd may follow each other; each leads to a copy of what is left."""
CODINGS = ("gzip", "zstd", "identity")
"""The content codings that a request body may have, as they are named in `Accept-Encoding` of a 415 (RFC 9110,
section 15.5.16)."""


def require_json(request: flask.Request) -> None:
    """Raise 415 unless the body is said to be `application/json` in UTF-8, in a content coding that can be decoded."""
    if request.environ.get("CONTENT_TYPE") != "application/json":
        charset = request.mimetype_params.get("charset", "utf-8").lower()
        if request.mimetype != "application/json" or charset not in {"utf-8", "utf8"}:
            raise _unsupported("The body must be application/json in UTF-8")
    require_known_coding(request)


def require_known_coding(request: flask.Request) -> None:
    """Raise 415 unless the body is in a content coding that can be decoded."""
    if _coding(request) not in CODINGS:
        raise _unsupported("The content coding of the body must be one of " + ", ".join(CODINGS))


def whole_body(request: flask.Request, *, is_json: bool = True) -> bytes:
    """The body, decoded; 413 when it is larger than the limit, coded or decoded, or JSON of too many values.

    A large one is held in the worker's BodyRoom until the request is over; 503 `server_busy` when that is full.
    """
    length, is_coded = request.content_length, _coding(request) != "identity"
    if length is not None and length <= SMALL_BYTES and not is_coded:
        stream = request.environ["wsgi.input"]
        # A body that is there already cannot break off, so werkzeug need not watch over it.
        if isinstance(stream, io.BytesIO) and length <= (request.max_content_length or length):
            return stream.read(length)
        return request.get_data()
    held = HeldBody(service(BodyRoom), _owner(request))
    flask.after_this_request(lambda response: _give_back_with(response, held))
    try:
        raw = _read(request, held)
        if is_coded:
            raw = _decoded(request, raw, held)
        if is_json:
            _check_number_of_values(raw)
    except Exception:
        held.give_back()
        raise
    return raw


def _coding(request: flask.Request) -> str:
    coding: str = request.environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    return {"": "identity", "x-gzip": "gzip"}.get(coding, coding)


def _unsupported(message: str) -> ValidationException:
    accepted = {"Accept-Encoding": ", ".join(CODINGS)}
    return ValidationException(message, error_code="unsupported_media_type", headers=accepted)


def _owner(request: flask.Request) -> str:
    """Whose part of the room it is: the client's, or where nobody has a token, that of the address."""
    found = flask.g.get("principal")
    account = None if found is None else found.account
    return request.remote_addr or "" if account is None else f"client {account.id}"


def _give_back_with(response: flask.Response, held: HeldBody) -> flask.Response:
    response.call_on_close(held.give_back)
    return response


def _read(request: flask.Request, held: HeldBody) -> bytes:
    """The body as it came, cut at the limit; raises 413 where a chunked one goes on there."""
    # Raises 413 where what is declared is too large.
    stream, limit = request.stream, request.max_content_length or math.inf
    held.check(request.content_length or 0)
    raw = bytearray()
    while len(raw) < limit and (piece := stream.read(READ_PIECE)):
        raw += piece
        if len(raw) > SMALL_BYTES:
            held.grow_to(len(raw))
    return _uncut(request, bytes(raw))


def _uncut(request: flask.Request, raw: bytes) -> bytes:
    cut = request.content_length is None and len(raw) == request.max_content_length
    if cut and request.environ["wsgi.input"].read(1):
        raise RequestEntityTooLarge
    return raw


def _decoded(request: flask.Request, raw: bytes, held: HeldBody) -> bytes:
    decode = {"gzip": _gunzip, "zstd": unzstd}[_coding(request)]
    return _joined(decode(raw, PIECE, PARTS_MAX), request.max_content_length or len(raw), held)


def _joined(pieces: Iterator[bytes], limit: int, held: HeldBody) -> bytes:
    """What was decoded; a small body that becomes a huge one is not decoded to its end."""
    decoded = bytearray()
    try:
        for piece in pieces:
            decoded += piece
            if len(decoded) > limit:
                raise RequestEntityTooLarge
            if len(decoded) > SMALL_BYTES:
                held.grow_to(len(decoded))
            # Under gevent the other requests have a turn.
            time.sleep(0)
    except (zlib.error, ValueError, EOFError):
        message = "The body cannot be decoded by its Content-Encoding"
        raise ValidationException(message, error_code="invalid_json") from None
    return bytes(decoded)


def _gunzip(coded: bytes, piece_bytes: int, parts_max: int) -> Iterator[bytes]:
    """Decode one or more members of gzip (RFC 1952, section 2.2); raises EOFError for one that was cut, or too many."""
    for _ in range(parts_max):
        if not coded:
            return
        member = zlib.decompressobj(GZIP)
        while not member.eof:
            piece = member.decompress(coded, piece_bytes)
            if not piece and not member.eof and not member.unconsumed_tail:
                raise EOFError
            coded = member.unconsumed_tail
            yield piece
        coded = member.unused_data
    if coded:
        raise EOFError


def _check_number_of_values(raw: bytes) -> None:
    """Refuse a body whose parsing would hold the worker; values are separated by commas, names end with a colon."""
    if len(raw) > NAMES_MAX and (raw.count(b",") > VALUES_MAX or raw.count(b'":') > NAMES_MAX):
        message = f"The request body has more than {VALUES_MAX} commas or {NAMES_MAX} names"
        raise ValidationException(message, error_code="request_too_large")
