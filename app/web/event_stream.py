"""The native event stream: start, delta, then exactly one done or error (docs/api, "Streaming")."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from flask import Response, current_app, g

from app.calls.call import Call
from app.errors import ServiceException
from app.models import ChatRequest, ChatResponse
from app.services.turn_stream import BackgroundTurn, Keepalive, Started, StreamEvent, Text
from app.web.problems import problem
from schemas.chat import ChatResponseSchema

HEADERS = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}


def stream_chat(request: ChatRequest, *, use_cache: bool) -> Response:
    """Answer `request` as an event stream.

    The first event decides: a failure that comes before it is raised, and so answered with an ordinary status.
    """
    service, call = current_app.extensions["chat_service"], g.call
    turn = BackgroundTurn(
        lambda listener: service.process_chat_request(request, call, use_cache=use_cache, listener=listener),
        call,
        current_app.extensions["config"].keepalive_seconds,
    )
    events = iter(turn)
    first = next(events)
    if isinstance(first, ServiceException):
        raise first
    dumps = current_app.json.dumps
    session_id = request.session_id or ""

    def encoded() -> Iterator[bytes]:
        for event in itertools.chain([first], events):
            yield from _encode(event, call, session_id, dumps)

    response = Response(encoded(), mimetype="text/event-stream", headers=HEADERS)
    if isinstance(first, Started) and first.cached:
        response.headers["X-Cache"] = "hit"
    response.call_on_close(turn.close)
    return response


def _encode(event: StreamEvent, call: Call, session_id: str, dumps: Any) -> Iterator[bytes]:
    if isinstance(event, Keepalive):
        yield b": keepalive\n\n"
    elif isinstance(event, Text):
        yield _event("delta", dumps({"text": event.piece}))
    elif isinstance(event, Started):
        ids = {"request_id": call.request_id, "session_id": session_id}
        yield _event("start", dumps(ids | {"model": event.model, "api_key_source": event.api_key_source}))
    elif isinstance(event, ChatResponse):
        done = ChatResponseSchema().dump(event) | {"server_timing": call.timings()}
        yield _event("done", dumps(done))
        yield f": server-timing {call.server_timing()}\n\n".encode()
    elif event.error_code != "client_closed_request":
        call.error_code = event.error_code
        yield _event("error", dumps(problem(event, session_id=session_id, request_id=call.request_id)))
        yield f": server-timing {call.server_timing()}\n\n".encode()


def _event(name: str, data: str) -> bytes:
    return f"event: {name}\ndata: {data}\n\n".encode()
