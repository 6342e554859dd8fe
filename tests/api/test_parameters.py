"""Parameters that nobody asked for and upstream does not take: left out, asked once more, and remembered."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.conftest import CALLER_KEY
from tests.records import settled
from tests.streams import completion_events, read_events, response_events, stream
from tests.upstream import Answer, Received, Upstream, delayed, error_document, reply, text

CHAT = "/api/v1/chat"


def openais(name: str, code: str = "unsupported_parameter") -> dict[str, Any]:
    """A refusal as OpenAI words it, without its words."""
    return error_document(code, param=name)


def fastapis(name: str) -> dict[str, Any]:
    """A refusal of a server made with FastAPI."""
    return {"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "x", "input": 1}]}


def words(message: str) -> dict[str, Any]:
    """A refusal in words alone."""
    return {"object": "error", "message": message, "type": "BadRequestError", "code": 400}


def plain(received: Received) -> Answer:
    """A good answer of the API that was asked."""
    if received.path.endswith("/responses"):
        return stream(response_events("ok")) if received.json.get("stream") else text("ok", temperature=None)
    if received.path.endswith("/messages"):
        return reply(200, {"content": [{"type": "text", "text": "ok"}], "stop_reason": "end_turn"})
    message = {"message": {"content": "ok"}, "finish_reason": "stop"}
    return stream(completion_events("ok")) if received.json.get("stream") else reply(200, {"choices": [message]})


def refusing(refusals: dict[str, tuple[int, Any]]) -> Answer:
    """Upstream refuses a body that has one of these members; the first of them, one at a time."""

    async def answer(received: Received, writer: Any) -> None:
        refusal = next((told for name, told in refusals.items() if name in received.json), None)
        await (plain(received) if refusal is None else reply(*refusal))(received, writer)

    return answer


def of_roles(is_taken: Callable[[list[str]], bool], message: str) -> Answer:
    """Upstream refuses messages whose roles its template does not take."""

    async def answer(received: Received, writer: Any) -> None:
        roles = [item["role"] for item in received.json.get("messages") or received.json["input"]]
        await (plain(received) if is_taken(roles) else reply(400, words(message)))(received, writer)

    return answer


def ask(client: FlaskClient, **fields: Any) -> Any:
    return client.post(CHAT, json={"user_message": "hi", "free_mode": True, "model": "m"} | fields)


REFUSALS = [
    ("responses", "temperature", 400, openais("temperature")),
    ("responses", "temperature", 400, openais("temperature", "unsupported_value")),
    ("responses", "temperature", 400, {"error": {"message": "Unsupported parameter: 'temperature'", "code": 400}}),
    ("responses", "store", 422, fastapis("store")),
    ("chat_completions", "temperature", 400, openais("temperature")),
    ("chat_completions", "max_tokens", 400, openais("max_tokens")),
    (
        "chat_completions",
        "max_tokens",
        400,
        words("'max_tokens' is not supported. Use 'max_completion_tokens' instead."),
    ),
    ("chat_completions", "stream_options", 422, fastapis("stream_options")),
    ("chat_completions", "stream_options", 400, words("Unrecognized request argument supplied: stream_options")),
    ("chat_completions", "stream_options", 422, {"message": fastapis("stream_options")}),
]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("api", "name", "status", "document"), REFUSALS)
def test_what_nobody_asked_for_is_left_out(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    database_url: str,
    api: str,
    name: str,
    status: int,
    document: dict[str, Any],
    streamed: bool,
) -> None:
    """One more attempt of the same request, in one row; the model's next request is right at once."""
    upstream.default = refusing({name: (status, document)})
    client = make_app(upstream_api=api).test_client()
    for _ in range(2):
        answer = ask(client, stream=streamed)
        given = read_events(answer.data)[-1][1] if streamed else answer.get_json()
        assert given["response_text"] == "ok"
    is_sent = name != "stream_options" or streamed
    assert len(upstream.received) == (3 if is_sent else 2)
    assert name not in upstream.received[-1].json
    assert [row["status"] for row in settled(database_url)] == ["ok", "ok"]
    assert (name == "max_tokens") == ("max_completion_tokens" in upstream.received[-1].json)


def test_what_was_left_out_stays_out_when_the_attempt_is_repeated(client: FlaskClient, upstream: Upstream) -> None:
    """Upstream fails for a moment behind its refusal: the next attempt is made without what it has refused."""
    upstream.script(reply(400, openais("temperature")), reply(503), text("ok"))
    assert ask(client).get_json()["response_text"] == "ok"
    assert ["temperature" in received.json for received in upstream.received] == [True, False, False]


def test_what_was_left_out_stays_out_with_the_next_key(client: FlaskClient, upstream: Upstream) -> None:
    """The caller's key is refused behind the refusal of a parameter; free mode goes on with the server's."""
    upstream.script(reply(400, openais("temperature")), reply(401), text("ok"))
    assert ask(client, openai_api_key=CALLER_KEY).get_json()["response_text"] == "ok"
    assert ["temperature" in received.json for received in upstream.received] == [True, False, False]


def test_several_refusals_after_each_other(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Each is learned; other models are asked as before."""
    document = {name: (400, openais(name)) for name in ("temperature", "max_tokens")}
    upstream.default = refusing(document)
    client = make_app(upstream_api="chat_completions").test_client()
    assert ask(client).status_code == 200
    assert len(upstream.received) == 3
    assert ask(client, max_tokens=77).status_code == 200
    assert upstream.received[-1].json["max_completion_tokens"] == 77
    upstream.default = refusing({})
    ask(client, model="other")
    assert {"temperature", "max_tokens"} <= set(upstream.received[-1].json)


@pytest.mark.parametrize(
    "model", ["o1", "o3-mini", "o4-mini-2025-04-16", "gpt-5", "gpt-5.1-codex", "openai/gpt-5-mini"]
)
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_reasoning_models_need_no_setting(
    make_app: Callable[..., Flask], upstream: Upstream, api: str, model: str
) -> None:
    """And no second attempt. No temperature was sent, so none is told."""
    upstream.default = refusing({name: (400, openais(name)) for name in ("temperature", "max_tokens")})
    given = ask(make_app(upstream_api=api).test_client(), model=model)
    assert (given.status_code, len(upstream.received)) == (200, 1)
    assert given.get_json()["temperature"] is None


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-50", "o", "ollama", "o3rion", "foo-o3"])
def test_other_models_are_asked_as_ever(make_app: Callable[..., Flask], upstream: Upstream, model: str) -> None:
    """What looks like a reasoning model's name and is none."""
    upstream.default = refusing({})
    ask(make_app(upstream_api="chat_completions").test_client(), model=model)
    assert {"temperature", "max_tokens"} <= set(upstream.received[0].json)


def test_a_server_that_does_not_know_the_new_name(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """A model that is called as a reasoning model is asked with the old name again, and that is remembered."""
    upstream.default = refusing({"max_completion_tokens": (422, fastapis("max_completion_tokens"))})
    client = make_app(upstream_api="chat_completions").test_client()
    assert [ask(client, model="gpt-5").status_code for _ in range(2)] == [200, 200]
    assert len(upstream.received) == 3
    assert "max_tokens" in upstream.received[-1].json


@pytest.mark.parametrize("model", ["m", "o3-mini"])
def test_what_the_caller_gave_is_not_left_out(client: FlaskClient, upstream: Upstream, model: str) -> None:
    """Upstream's refusal is the answer, and it names the field."""
    upstream.default = refusing({"temperature": (400, openais("temperature"))})
    problem = ask(client, model=model, temperature=0.7)
    assert (problem.status_code, problem.get_json()["param"]) == (400, "temperature")
    assert problem.get_json()["code"] == "upstream_rejected_request"
    assert len(upstream.received) == 1


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (400, error_document("invalid_value", param="max_tokens")),
        (400, words("max_tokens is too large: 1000. At most 512 are possible")),
        (400, words("Please reduce the length of the messages")),
        (400, b"<html>temperature unsupported</html>"),
        (400, [[["temperature"]] * 9]),
        (404, openais("temperature")),
        (500, openais("temperature")),
    ],
)
def test_other_refusals_are_not_asked_again(
    make_app: Callable[..., Flask], upstream: Upstream, status: int, document: Any
) -> None:
    """What is not about a name is upstream's answer."""
    upstream.default = reply(status, document)
    client = make_app(upstream_api="chat_completions").test_client()
    assert ask(client).status_code >= 400
    assert {frozenset(received.json) for received in upstream.received} == {frozenset(upstream.received[0].json)}


def test_a_refusal_that_repeats_is_the_answer(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """It is asked once more and not for ever; nothing is remembered, for the words may be the caller's own."""
    upstream.default = reply(400, openais("temperature"))
    client = make_app().test_client()
    assert ask(client).status_code == 400
    assert len(upstream.received) == 2
    upstream.default = refusing({})
    ask(client)
    assert "temperature" in upstream.received[-1].json


@pytest.mark.parametrize("model", ["gpt-4o", "o3"])
def test_an_upstream_that_takes_no_name_of_the_limit(
    make_app: Callable[..., Flask], upstream: Upstream, model: str
) -> None:
    """It refuses the one and then the other: it is not asked by turns for ever."""

    async def neither(received: Received, writer: Any) -> None:
        name = "max_tokens" if "max_tokens" in received.json else "max_completion_tokens"
        await reply(400, openais(name))(received, writer)

    upstream.default = neither
    client = make_app(upstream_api="chat_completions", request_timeout=5).test_client()
    assert ask(client, model=model).status_code == 400
    assert len(upstream.received) == 3


def test_a_refused_key_and_a_refused_parameter(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """The key that is left is asked without the parameter; the row is one."""
    refusal = reply(400, openais("temperature"))
    upstream.script(reply(401, error_document()), refusal, delayed(0, text("ok")))
    assert ask(client, openai_api_key=CALLER_KEY).get_json()["api_key_source"] == "default"
    assert "temperature" not in upstream.received[-1].json
    assert len(settled(database_url)) == 1


def test_a_preview_shows_what_is_sent(client: FlaskClient, upstream: Upstream) -> None:
    """Also what was learned."""
    upstream.default = refusing({"temperature": (400, openais("temperature"))})
    ask(client)
    shown = client.post(f"{CHAT}/preview", json={"user_message": "hi", "free_mode": True, "model": "m"}).get_json()
    assert json.loads(shown["upstream_body"]) == upstream.received[-1].json


TURNS = {"conversation_history": ["user: a", "user: b", "assistant: c", "user: d"], "system_message": "S"}
TEMPLATES = {
    "System role not supported": lambda roles: "system" not in roles,
    "Developer instruction is not enabled for models/gemma-3": lambda roles: "system" not in roles,
    "Only user and assistant roles are supported!": lambda roles: "system" not in roles,
    "Conversation roles must alternate user/assistant/user/assistant/...": lambda roles: all(
        role == ("user", "assistant")[place % 2] for place, role in enumerate(roles)
    ),
}


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
@pytest.mark.parametrize(("message", "is_taken"), TEMPLATES.items())
def test_a_template_without_a_system_role(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    message: str,
    is_taken: Callable[[list[str]], bool],
    api: str,
) -> None:
    """Its text stands before the user's first words; several turns of one become one where roles have to alternate."""
    upstream.default = of_roles(is_taken, message)
    client = make_app(upstream_api=api).test_client()
    assert [ask(client, **TURNS).status_code for _ in range(2)] == [200, 200]
    sent = upstream.received[-1].json.get("messages") or upstream.received[-1].json["input"]
    assert sent == upstream.received[-2].json.get("messages", upstream.received[-2].json.get("input"))
    assert is_taken([item["role"] for item in sent])
    assert "\n\n".join(item["content"] for item in sent) == "S\n\na\n\nb\n\nc\n\nd\n\nhi"
    assert "instructions" not in upstream.received[-1].json


@pytest.mark.parametrize(
    "message", ["Conversation roles must alternate user/assistant", 'messages: first message must use the "user" role']
)
@pytest.mark.parametrize("api", ["responses", "chat_completions", "messages"])
def test_a_template_that_begins_with_the_user(
    make_app: Callable[..., Flask], upstream: Upstream, message: str, api: str
) -> None:
    """Before what the model said first stands a turn of the user's that says nothing."""

    def is_taken(roles: list[str]) -> bool:
        return next(role for role in roles if role != "system") == "user"

    upstream.default = of_roles(is_taken, message)
    client = make_app(upstream_api=api).test_client()
    history = ["assistant: Welcome!"]
    assert [ask(client, conversation_history=history).status_code for _ in range(2)] == [200, 200]
    body = upstream.received[-1].json
    turns = [item for item in body.get("messages") or body["input"] if item["role"] != "system"]
    assert [item["content"] for item in turns] == ["…", "Welcome!", "hi"]


def test_trimming_leaves_no_answer_first(client: FlaskClient, upstream: Upstream) -> None:
    """A turn whose question was dropped goes with it; a history that begins with an answer stays as it was given."""
    long = "word " * 400
    history = [f"user: {long}", "assistant: one", "assistant: two", "user: three", "assistant: four"]
    given = ask(client, conversation_history=history, max_context_tokens=100).get_json()
    assert given["dropped_turns"] == 3
    assert [item["role"] for item in upstream.received[-1].json["input"]] == ["system", "user", "assistant", "user"]
    assert (
        ask(client, conversation_history=["assistant: Welcome!"], max_context_tokens=100).get_json()["dropped_turns"]
        == 0
    )


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
def test_a_stream_says_who_answers(make_app: Callable[..., Flask], upstream: Upstream, api: str) -> None:
    """`start` names the model that answers where upstream tells it first, and else the one asked for."""
    told = b'event: response.created\ndata: {"type":"response.created","response":{"model":"smol"}}\n\n'
    upstream.default = stream([told, *response_events("a")] if api == "responses" else completion_events("a"))
    answer = ask(make_app(upstream_api=api).test_client(), stream=True)
    start = read_events(answer.data)[0]
    assert start[0] == "start"
    assert start[1]["model"] == ("smol" if api == "responses" else "gpt-4o-mini-2024")
