"""The OpenAI door: the routes that every OpenAI client knows. Bodies pass as they come, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import cast

from flask import Response, current_app, g, request

from app.call import Call
from app.clients.openai_client import OpenAIClient, Reply
from app.errors import ServiceException
from app.handlers import openai_error
from app.middleware import server_timing
from app.services import door
from blueprints.event_stream import HEADERS
from blueprints.strict import CHAT_PROBLEMS, StrictBlueprint, require_json, whole_body
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
    return _plain(_send("/models", None, headers))


@blp.get("/models/<model>")
@documented
def model(headers: dict[str, str], model: str) -> Response:
    """Show one of upstream's models

    As OpenAI's `GET /v1/models/{model}`.
    """
    found = door.find_model(model, lambda path: _send(path, None, headers))
    return Response(found, mimetype="application/json") if isinstance(found, bytes) else _plain(found)


def _create(path: str, headers: dict[str, str]) -> Response:
    require_json(request)
    body = whole_body(request)
    streamed = door.wants_stream(body)
    reply = _send(path, body, headers)
    return _stream(reply, g.call) if streamed else _plain(reply)


def _send(path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
    free_mode = headers.get("free_mode")
    default = current_app.extensions["config"].openai_door_free_mode
    client: OpenAIClient = current_app.extensions["openai_client"]
    reply, _ = client.send(
        path,
        body,
        g.call,
        api_key=door.caller_key(request.headers.get("Authorization", ""), headers.get("openai_api_key", "")),
        free_mode=default if free_mode is None else free_mode == "true",
    )
    return reply


def _plain(reply: Reply) -> Response:
    raw = door.read_plain(reply, g.call)
    return Response(raw, reply.status, mimetype="application/json", headers=_passed_on(reply))


def _stream(reply: Reply, call: Call) -> Response:
    dumps = current_app.json.dumps
    local = bool(current_app.extensions["config"].local_model)

    def events() -> Iterator[bytes]:
        try:
            yield from door.pass_events(reply, call, local=local)
        except ServiceException as exc:
            call.error_code = exc.error_code
            error = openai_error(exc)
            members = {"type": "error", "sequence_number": 0} | error["error"] | {"type": "error"} | error
            yield f"event: error\ndata: {dumps(members)}\n\n".encode()
        yield f": server-timing {server_timing(call)}\n\n".encode()

    response = Response(events(), reply.status, mimetype="text/event-stream", headers=HEADERS | _passed_on(reply))
    response.call_on_close(reply.close)
    return response


def _passed_on(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if PASSED_HEADERS.fullmatch(name)}
