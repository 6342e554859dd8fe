"""What the native route makes of answers that are cut, empty, or wrapped in what models put around JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from tests.records import settled
from tests.streams import completion_events, event, read_events, stream, typed
from tests.upstream import Answer, Upstream, reply, response_document

CHAT = "/api/v1/chat"
SCHEMA = {"response_schema": {"type": "object"}}
COUNTED = {"input_tokens": 20, "output_tokens": 1000, "total_tokens": 1020}
COUNTED_CHAT = {"prompt_tokens": 20, "completion_tokens": 1000, "total_tokens": 1020}
CUT = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
DIALECTS = ["responses", "chat_completions"]


def answer(api: str, text: str, *, streamed: bool, cut: bool = False) -> Answer:
    """An answer with `text` of either API, whole or streamed; `cut` at the limit."""
    if api == "responses":
        document = response_document(text, usage=COUNTED, **(CUT if cut else {}))
        kind = "response.incomplete" if cut else "response.completed"
        return stream([typed(kind, response=document)]) if streamed else reply(200, document)
    choice = {"index": 0, "finish_reason": "length" if cut else "stop"}
    told = {"model": "gpt-4o-mini", "usage": COUNTED_CHAT}
    if not streamed:
        return reply(200, told | {"choices": [choice | {"message": {"content": text, "reasoning_content": "hm"}}]})
    delta = {"content": text, "reasoning_content": "hm"}
    return stream([event(told | {"choices": [choice | {"delta": delta}]}), event("[DONE]")])


def ask(app: Flask, *, streamed: bool, **fields: Any) -> dict[str, Any]:
    """The answer, or the problem, to one turn."""
    sent = {"user_message": "hi", "free_mode": True, "stream": streamed} | fields
    given = app.test_client().post(CHAT, json=sent)
    read: dict[str, Any] = read_events(given.data)[-1][1] if streamed else given.get_json()
    return read


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", DIALECTS)
@pytest.mark.parametrize(("cut", "code", "retryable"), [(True, "max_tokens_too_small", False), (False, None, True)])
def test_an_answer_without_text_keeps_its_usage(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    database_url: str,
    api: str,
    streamed: bool,
    cut: bool,
    code: str | None,
    retryable: bool,
) -> None:
    """All reasoning, or nothing: an error, and upstream's counts are in the row."""
    upstream.script(answer(api, "", streamed=streamed, cut=cut))
    problem = ask(make_app(upstream_api=api), streamed=streamed)
    assert (problem["code"], problem["retryable"]) == (code or "upstream_bad_response", retryable)
    (row,) = settled(database_url)
    assert (row["input_tokens"], row["output_tokens"], row["estimated"]) == (20, 1000, 0)
    assert row["status"] == "error"


def test_only_tools_are_no_answer_and_cost(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """The native route has no tools; what they cost is in the row."""
    message = {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    choices = [{"message": message, "finish_reason": "tool_calls"}]
    upstream.script(reply(200, {"choices": choices, "usage": COUNTED_CHAT}))
    assert ask(make_app(upstream_api="chat_completions"), streamed=False)["code"] == "upstream_bad_response"
    assert [row["output_tokens"] for row in settled(database_url)] == [1000]


WRAPPED = {
    "bare": "{}",
    "white space": " \r\n\t{}\n\n",
    "BOM": "\ufeff{}",
    "BOM behind white space": "\n\ufeff {}",
    "BOM in a fence": "```json\n\ufeff{}\n```",
    "invisible spaces": "\u200b{}\u200b",
    "fence": "```json\n{}\n```",
    "fence in capitals": "```JSON\n{}\n```\n",
    "fence without a word": "```\n{}\n```",
    "fence on one line": "```json {} ```",
    "fence that was never closed": "```json\n{}",
    "fence behind a sentence": "Here it is:\n```json\n{}\n```\nDone.",
    "thoughts": "<think>\nthe {user} wants JSON\n</think>\n\n{}",
    "thoughts and a fence": "<think>a ```b``` c</think>\n```json\n{}\n```",
    "thoughts that begin in the prompt": "so be it</think>{}",
    "everything": "\ufeff<think>x</think>\n\ufeff```json\n{}\n```",
}
VALUE = {"text": "a ```fence``` and </think> inside"}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("around", WRAPPED.values(), ids=WRAPPED)
def test_what_is_around_the_json_is_taken_off(
    make_app: Callable[..., Flask], upstream: Upstream, around: str, streamed: bool
) -> None:
    """And nothing inside it. The text stays as the model wrote it."""
    value = VALUE if around == "{}" else {"text": "plain"}
    text = around.replace("{}", json.dumps(value))
    upstream.script(answer("responses", text, streamed=streamed))
    given = ask(make_app(), streamed=streamed, **SCHEMA)
    assert (given["response_json"], given["response_text"]) == (value, text)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", DIALECTS)
@pytest.mark.parametrize("text", ['{"a": [1, 2', '```json\n{"a": 1', "<think>let me", "{"])
def test_json_that_was_cut_says_length(
    make_app: Callable[..., Flask], upstream: Upstream, text: str, api: str, streamed: bool
) -> None:
    """It is no failure of upstream's, and asking again would not help."""
    upstream.script(answer(api, text, streamed=streamed, cut=True))
    given = ask(make_app(upstream_api=api), streamed=streamed, **SCHEMA)
    assert (given["success"], given["finish_reason"], given["response_json"]) == (True, "length", None)
    assert (given["response_text"], given["output_format"]) == (text, "json_schema")


@pytest.mark.parametrize("text", ["no", '{"a": 1', "``````", "<think>{}", '```{"a": NaN}```', "[" * 100_000])
def test_what_is_no_json(make_app: Callable[..., Flask], upstream: Upstream, text: str) -> None:
    """Upstream said that it had finished, so this is its failure."""
    upstream.script(answer("responses", text, streamed=False))
    assert ask(make_app(), streamed=False, **SCHEMA)["code"] == "upstream_bad_response"


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", DIALECTS)
def test_a_bom_before_an_answer(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, api: str, streamed: bool
) -> None:
    """Some servers and gateways put one before JSON and events: natively it is nothing, and the doors pass it on."""
    if api == "responses":
        whole = response_document("text")
        events = [event({"type": "response.completed", "response": whole})]
    else:
        choice = {"message": {"content": "text"}, "finish_reason": "stop"}
        whole = {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 11, "completion_tokens": 7}}
        events = completion_events("text")[1:]
    body = BOM + (b"".join(events) if streamed else json.dumps(whole).encode())
    upstream.default = stream([body]) if streamed else reply(200, body)
    app = make_app(upstream_api=api)
    assert ask(app, streamed=streamed)["response_text"] == "text"
    path = "/v1/" + api.replace("_", "/")
    asked = {"stream": streamed, "stream_options": {"include_usage": True}}
    passed = app.test_client().post(path, json=asked, headers={"X-Free-Mode": "true"})
    assert passed.data.startswith(body)
    assert [(row["status"], row["output_tokens"]) for row in settled(database_url)] == [("ok", 7)] * 2
