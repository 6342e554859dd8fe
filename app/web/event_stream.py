"""Event streams on their way to the caller: the native one, and upstream's own with what we have to add.

Native: start, delta and segment, then exactly one done or error (docs/api, "Streaming"). Passed through: every event as
upstream sent it, one error event where the stream breaks off, and timings and cost in comments behind it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.calls.call import Call
from app.config import Config
from app.errors import ServiceException
from app.json_bytes import dump_json
from app.models import ChatRequest, ChatResponse
from app.services.completing import Listener
from app.services.passthrough import PassedResponse
from app.services.segments import Segment, Segmenter
from app.services.turn_stream import Keepalive, Started, TurnEvent, TurnStream
from app.web.flask_app import Response
from app.web.problems import ErrorDialect, prefers_english, problem
from app.web.services import service
from schemas.chat import ChatResponseSchema

HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
BLANK_LINES = (b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n", b"\n\r", b"\r\n\r")
CHAT_RESPONSE = ChatResponseSchema()
SEGMENTED_AT_ONCE = 16 * 1024
"""Characters; under gevent the other requests have a turn between them. An answer from the cache is one piece."""


def stream_turn(request: ChatRequest, run: Callable[[Listener], ChatResponse], call: Call) -> Response:
    """Answer a chat turn, which `run` gives, as an event stream.

    The first event decides: a failure that comes before it is raised, and so answered with an ordinary status.
    """
    turn = TurnStream(run, call, service(Config).keepalive_seconds)
    events = iter(turn)
    first = next(events)
    if isinstance(first, ServiceException):
        raise first
    session_id, in_english = request.session_id or "", prefers_english()
    told: Iterator[TurnEvent | Segment] = itertools.chain([first], events)
    if request.segments:
        told = _with_segments(told, Segmenter(request.segment_tags or ()))
    encoded = (_encode(event, call, session_id, in_english) for event in told)
    response = Response(encoded, mimetype="text/event-stream", headers=HEADERS)
    if isinstance(first, Started) and first.cached:
        response.headers["X-Cache"] = "hit"
    response.call_on_close(turn.close)
    return response


def stream_passed(passed: PassedResponse, events: Iterator[bytes], call: Call, errors: ErrorDialect) -> Response:
    """Answer with upstream's own stream; `errors` says how its clients are told that it broke off."""

    def encoded() -> Iterator[bytes]:
        last = b"\n\n"
        try:
            for last in events:
                yield last
        except ServiceException as exc:
            members = errors.last_event(exc, call.request_id)
            event = _event("error", members)
            # An event that upstream did not end would take the lines of ours for its own.
            yield event if last.endswith(BLANK_LINES) else b"\n\n" + event
            last = event
        if last.endswith(BLANK_LINES):
            yield _comment("server-timing", call.server_timing())
            yield _comment("cost-usd", passed.cost_usd() or "unknown")

    response = Response(encoded(), mimetype="text/event-stream", headers=HEADERS | dict(passed.headers))
    response.call_on_close(passed.close)
    return response


def stream_answer(passed: PassedResponse, body: Iterator[bytes]) -> Response:
    """Answer with an answer of upstream's that is not held. One that breaks off ends without the end that HTTP would
    give it, so the caller sees that it was cut."""
    response = Response(body, content_type=passed.content_type, headers=HEADERS | dict(passed.headers))
    response.call_on_close(passed.close)
    return response


def _with_segments(events: Iterator[TurnEvent | Segment], segmenter: Segmenter) -> Iterator[TurnEvent | Segment]:
    """The events of a turn, and behind a piece of text the segments whose end it makes sure."""
    has_text = False
    for event in events:
        if isinstance(event, ChatResponse):
            # What came in no piece stands in the last event alone.
            yield from () if has_text else segmenter.add(event.response_text)
            yield from segmenter.finish()
        yield event
        if isinstance(event, str):
            has_text = True
            for start in range(0, len(event), SEGMENTED_AT_ONCE):
                yield from segmenter.add(event[start : start + SEGMENTED_AT_ONCE])
                if len(event) > SEGMENTED_AT_ONCE:
                    time.sleep(0)


def _encode(event: TurnEvent | Segment, call: Call, session_id: str, in_english: bool) -> bytes:
    """An event as it is written; nothing for a caller who has left."""
    if isinstance(event, str):
        return _event("delta", {"text": event})
    if isinstance(event, Segment):
        return _event("segment", vars(event))
    if isinstance(event, Keepalive):
        return b": keepalive\n"
    if isinstance(event, Started):
        ids = {"request_id": call.request_id, "session_id": session_id}
        return _event("start", ids | {"model": event.model, "api_key_source": event.api_key_source})
    if isinstance(event, ChatResponse):
        last = _event("done", CHAT_RESPONSE.dump(event) | {"server_timing": call.timings()})
    elif event.error_code == "client_closed_request":
        return b""
    else:
        last = _event("error", problem(event, session_id, call.request_id, in_english=in_english))
    return last + _comment("server-timing", call.server_timing())


def _comment(name: str, value: str) -> bytes:
    """A line that belongs to the next event, or to none: some decoders take a blank line behind it for an empty event
    and fail on that (openai-python with `id` lines, openai-go; test_comments_are_no_events)."""
    return f": {name} {value}\n".encode()


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), dump_json(data))
