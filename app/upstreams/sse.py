"""Server-sent events as upstream sends them: split into whole events without touching a byte.

Source: WHATWG HTML, "Server-sent events", 9.2.5 and 9.2.6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from app.models import Usage
from app.upstreams.errors import bad_response
from app.upstreams.json import BOM, read_json
from app.upstreams.usage import TAIL_BYTES

EVENT_MAX_BYTES = 8 * 1024 * 1024
BLANK_LINE_BYTES = 3
NAME_BYTES = 256
LAST_EVENTS = frozenset({"response.completed", "response.failed", "response.incomplete", "error"})
"""The last events of the Responses API, by their names; Chat Completions has none."""
PINGS = {"ping", "keepalive", "keep-alive", "heartbeat"}
FIELDS = {b"", b"event", b"data", b"id", b"retry"}
LINE_END = re.compile(rb"\r\n|\n|\r")
EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n|\Z))")


class Event(NamedTuple):
    """One event or run of comments: `raw` as it came, its name, and its data (None when it has none).

    An event that is too large to hold comes in parts without data. `is_part`: more of it follows; the last part has the
    `tail` of the whole.
    """

    raw: bytes
    name: str
    data: bytes | None
    is_part: bool = False
    tail: bytes = b""

    @property
    def is_empty(self) -> bool:
        """True for what says nothing, whatever its API: comments, no data, a ping. What was cut off is not empty."""
        if self.data is None or self.name in PINGS:
            return True
        return not self.data.strip() and self.raw.endswith((b"\n", b"\r"))

    @property
    def is_foreign(self) -> bool:
        """True for what no event stream holds: a body of another kind, split where it has blank lines."""
        return not all(line.partition(b":")[0] in FIELDS for line in _lines(self.raw) if line)


class StreamEvent(NamedTuple):
    """What an event means, whatever its API. `text` is the next piece of the answer, `written` all that upstream wrote
    in it, `document` the event itself; `is_end`: upstream says that the stream is over. `choices`: each choice of which
    the event tells, by its index, and whether it is finished. `service_tier`: empty for the standard one, None where it
    names none. `started`: the input as it is counted when the answer begins, where its API tells it apart."""

    text: str = ""
    written: str = ""
    usage: Usage | None = None
    model: str | None = None
    document: Mapping[str, Any] = MappingProxyType({})
    is_end: bool = False
    choices: tuple[tuple[int, bool], ...] = ()
    service_tier: str | None = None
    started: Usage | None = None


END = StreamEvent(is_end=True)
"""What `[DONE]` means, by which Chat Completions ends a stream, and some servers one of the Responses API."""


def read_document(data: bytes) -> dict[str, Any] | None:
    """The JSON object of an event; None for `[DONE]`. Raises `upstream_bad_response` for anything else."""
    if data.strip() == b"[DONE]":
        return None
    document = read_json(data)
    if not isinstance(document, dict):
        raise bad_response()
    return document


def split_events(pieces: Iterable[bytes], *, only_whole: bool = True) -> Iterator[Event]:
    """Give whole events; what follows the last blank line, if anything, is given last.

    An event larger than we hold is given in parts; with `only_whole` it raises OpenAIClientException
    `upstream_bad_response`.
    """
    buffer, pieces = bytearray(), iter(pieces)
    for piece in pieces:
        if not buffer and b"\r" not in piece:
            # So nearly every server sends them, and this takes a fifth of the time of the search.
            *whole, piece = piece.split(b"\n\n")
            for raw in whole:
                yield parse_event(raw + b"\n\n")
            if not piece:
                continue
        searched = max(0, len(buffer) - BLANK_LINE_BYTES)
        buffer += piece
        while True:
            while end := EVENT_END.search(buffer, searched):
                yield parse_event(bytes(buffer[: end.end()]))
                del buffer[: end.end()]
                searched = 0
            if len(buffer) <= EVENT_MAX_BYTES:
                break
            if only_whole:
                raise bad_response()
            yield from _parts(buffer, pieces)
            searched = 0
    if buffer:
        yield parse_event(bytes(buffer))


def _parts(buffer: bytearray, pieces: Iterator[bytes]) -> Iterator[Event]:
    """The event that begins in `buffer`, part by part; what came behind it stays there. A cut one has no last part."""
    name, tail = parse_event(bytes(buffer[:NAME_BYTES])).name, b""
    while True:
        end = EVENT_END.search(buffer)
        cut = end.end() if end else len(buffer) - BLANK_LINE_BYTES
        raw = bytes(buffer[:cut])
        del buffer[:cut]
        tail = (tail + raw)[-TAIL_BYTES:]
        yield Event(raw, name, None, is_part=not end, tail=tail if end else b"")
        piece = None if end else next(pieces, None)
        if piece is None:
            return
        buffer += piece


def _lines(raw: bytes) -> list[bytes]:
    text = raw.removeprefix(BOM)
    return LINE_END.split(text) if b"\r" in text else text.split(b"\n")


def parse_event(raw: bytes) -> Event:
    """Read the fields of one event."""
    name, data = "", []
    for line in _lines(raw):
        if not line:
            continue
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"data":
            data.append(value)
    return Event(raw, name, b"\n".join(data) if data else None)
