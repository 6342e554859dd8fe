"""The OpenAI door: the routes that every OpenAI client knows. Bodies pass as they come, both ways."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import cast

from flask import Response, current_app, g, request

from app.clients.openai_client import OpenAIClient, Reply
from app.errors import ServiceException
from app.handlers import openai_error
from app.middleware import server_timing
from app.models import MODEL_MAX_LENGTH
from app.services import door
from app.services.admission import Ask
from app.services.door import DoorRequest
from app.services.ledger import Entry, NullEntry
from app.services.pricing import dollars
from blueprints.event_stream import HEADERS
from blueprints.strict import CHAT_PROBLEMS, StrictBlueprint, require_json
from schemas.openai_door import REQUEST_BODY, DoorHeadersSchema, OpenAIErrorSchema, PassedOnSchema

blp = StrictBlueprint("openai_door", __name__, url_prefix="/v1", description="OpenAI's own routes, for OpenAI clients")

PASSED_HEADERS = re.compile(r"x-request-id|retry-after|x-ratelimit-.*|openai-(?!organization|project).*", re.I)
View = Callable[..., Response]


def documented(view: View) -> View:
    """Document what every route of the door has in common: headers, errors, an answer as upstream gave it."""
    view = blp.problems(*CHAT_PROBLEMS, schema=OpenAIErrorSchema, content_type="application/json")(view)
    view = blp.response(200, PassedOnSchema, description="The answer as upstream gave it")(view)
    return cast(View, blp.arguments(DoorHeadersSchema, location="headers")(view))


@blp.post("/responses")
@blp.doc(requestBody=REQUEST_BODY)
@documented
def responses(headers: dict[str, str]) -> Response:
    """Create a model response

    As OpenAI's `POST /v1/responses`, plain or streamed.
    """
    return _create("/responses", headers)


@blp.post("/chat/completions")
@blp.doc(requestBody=REQUEST_BODY)
@documented
def chat_completions(headers: dict[str, str]) -> Response:
    """Create a chat completion

    As OpenAI's `POST /v1/chat/completions`, plain or streamed.
    """
    return _create("/chat/completions", headers)


@blp.post("/embeddings")
@blp.doc(requestBody=REQUEST_BODY)
@documented
def embeddings(headers: dict[str, str]) -> Response:
    """Create embeddings

    As OpenAI's `POST /v1/embeddings`.
    """
    return _create("/embeddings", headers)


@blp.get("/models")
@documented
def models(headers: dict[str, str]) -> Response:
    """List upstream's models

    As OpenAI's `GET /v1/models`.
    """
    with _admitted(DoorRequest(), headers) as entry:
        return _plain(_send("/models", None, headers), entry)


@blp.get("/models/<model>")
@documented
def model(headers: dict[str, str], model: str) -> Response:
    """Show one of upstream's models

    As OpenAI's `GET /v1/models/{model}`.
    """
    with _admitted(DoorRequest(model=model[:MODEL_MAX_LENGTH]), headers) as entry:
        found = door.find_model(model, lambda path: _send(path, None, headers))
        return Response(found, mimetype="application/json") if isinstance(found, bytes) else _plain(found, entry)


def _create(path: str, headers: dict[str, str]) -> Response:
    require_json(request)
    body = request.get_data()
    asked = door.read_request(body, current_app.extensions["config"].default_max_tokens)
    with contextlib.ExitStack() as resources:
        entry = resources.enter_context(_admitted(asked, headers))
        reply = _send(path, body, headers)
        # A stream's row is settled where the stream ends.
        return _stream(reply, entry, resources.pop_all()) if asked.streamed else _plain(reply, entry)


def _admitted(asked: DoorRequest, headers: dict[str, str]) -> Entry | NullEntry:
    api_key, free_mode = _key(headers)
    source = current_app.extensions["openai_client"].keys.select(api_key, free_mode).source
    ask = Ask(
        route=str(request.url_rule),
        model=asked.model,
        streamed=asked.streamed,
        prompt_tokens=asked.prompt_tokens,
        max_tokens=asked.max_tokens,
        server_pays=free_mode or source == "default",
    )
    entry: Entry | NullEntry = current_app.extensions["ledger"].open(g.call, ask)
    return entry


def _key(headers: dict[str, str]) -> tuple[str, bool]:
    """The caller's own key, and whether the server's may pay."""
    api_key = door.caller_key(request.headers.get("Authorization", ""), headers.get("openai_api_key", ""))
    free_mode = headers.get("free_mode")
    default: bool = current_app.extensions["config"].openai_door_free_mode
    return api_key, default if free_mode is None else free_mode == "true"


def _send(path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
    api_key, free_mode = _key(headers)
    client: OpenAIClient = current_app.extensions["openai_client"]
    reply, _ = client.send(path, body, g.call, api_key=api_key, free_mode=free_mode)
    return reply


def _plain(reply: Reply, entry: Entry | NullEntry) -> Response:
    raw = door.read_plain(reply, g.call)
    response = Response(raw, reply.status, mimetype="application/json", headers=_passed_on(reply))
    if (cost := dollars(entry.cost_nano())) is not None:
        response.headers["X-Cost-USD"] = cost
    return response


def _stream(reply: Reply, entry: Entry | NullEntry, resources: contextlib.ExitStack) -> Response:
    call, dumps = g.call, current_app.json.dumps

    def events() -> Iterator[bytes]:
        try:
            with resources:
                yield from door.pass_events(reply, call)
        except ServiceException as exc:
            call.error_code = exc.error_code
            error = openai_error(exc)
            members = {"type": "error", "sequence_number": 0} | error["error"] | {"type": "error"} | error
            yield f"event: error\ndata: {dumps(members)}\n\n".encode()
        yield f": server-timing {server_timing(call)}\n".encode()
        yield f": cost-usd {dollars(entry.cost_nano()) or 'unknown'}\n\n".encode()

    def close() -> None:
        # A caller that left before the first event: the generator never ran, so nothing in it cleans up.
        reply.close()
        entry.settle("cancelled", "client_closed_request")

    response = Response(events(), reply.status, mimetype="text/event-stream", headers=HEADERS | _passed_on(reply))
    response.call_on_close(close)
    return response


def _passed_on(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if PASSED_HEADERS.fullmatch(name)}
