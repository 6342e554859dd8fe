"""The prompt as upstream receives it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Config
from tests.unit.test_prompt import BAD_ENTRIES, COMBINATIONS, PARTS, expected
from tests.upstream import Upstream

CHAT = "/api/v1/chat"


@pytest.mark.parametrize("given", COMBINATIONS, ids=lambda given: "+".join(sorted(given)) or "nothing")
def test_system_message_on_the_wire(make_app: Callable[..., Flask], upstream: Upstream, given: set[str]) -> None:
    """What upstream receives is that text; `instructions` travel besides as they were given, or not at all."""
    fields = {name: value for name, (value, _) in PARTS.items() if name in given}
    make_app().test_client().post(CHAT, json={"user_message": " 안녕\n", "free_mode": True, **fields})
    sent = upstream.received[0].json
    assert sent["input"] == [
        {"role": "system", "content": expected(given)},
        {"role": "user", "content": " 안녕\n"},
    ]
    assert sent.get("instructions") == fields.get("instructions")
    assert ("instructions" in sent) == ("instructions" in given)


@pytest.mark.parametrize("api", ["responses", "chat_completions"])
@pytest.mark.parametrize("given", [{}, {"system_message": " "}, {"role": "a cat"}])
def test_no_system_message(
    make_app: Callable[..., Flask], upstream: Upstream, monkeypatch: pytest.MonkeyPatch, api: str, given: dict[str, str]
) -> None:
    """DEFAULT_SYSTEM_MESSAGE=none: a request without parts of its own has none, on the wire and in the preview."""
    none = Config.from_env({"DEFAULT_SYSTEM_MESSAGE": " None "}).default_system_message
    client = make_app(default_system_message=none, upstream_api=api).test_client()
    previewed = client.post(f"{CHAT}/preview", json={"user_message": "hi", "free_mode": True, **given}).get_json()
    assert previewed["tokens"]["system"] == 0
    client.post(CHAT, json={"user_message": "hi", "free_mode": True, **given})
    sent = upstream.received[0].json["input" if api == "responses" else "messages"]
    assert sent == json.loads(previewed["upstream_body"])["input" if api == "responses" else "messages"]
    system = [{"role": "system", "content": "#역할\na cat"}] if "role" in given else []
    assert sent == [*system, {"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("entry", "role", "content"),
    [
        ("user: 안녕", "user", "안녕"),
        ("user:안녕", "user", "안녕"),
        ("ASSISTANT: hi", "assistant", "hi"),
        ("aSSistant:  two spaces", "assistant", " two spaces"),
        ("user: 시간은 10:30: 맞지?", "user", "시간은 10:30: 맞지?"),
        ("user: assistant: no", "user", "assistant: no"),
        ("user: https://example.org/?a:b", "user", "https://example.org/?a:b"),
        ("user: line 1\nassistant: line 2\n", "user", "line 1\nassistant: line 2\n"),
        ("user:", "user", ""),
        ("assistant: ", "assistant", ""),
        ({"role": "User", "content": "a: b"}, "user", "a: b"),
        ({"role": "assistant", "content": ""}, "assistant", ""),
    ],
)
def test_history_entry(client: FlaskClient, upstream: Upstream, entry: Any, role: str, content: str) -> None:
    """Both forms become a message: the role in lower case, one space after the colon gone, all else kept."""
    client.post(CHAT, json={"user_message": "hi", "free_mode": True, "conversation_history": [entry]})
    (sent,) = upstream.received[0].json["input"][1:-1]
    assert (sent["role"], sent["content"]) == (role, content)


def test_history_keeps_its_order(client: FlaskClient, upstream: Upstream) -> None:
    """Turns stand between the system message and the user's message as they came, repeated roles too."""
    history = ["user: 1", "user: 2", {"role": "assistant", "content": "3"}, "user: 4"]
    client.post(CHAT, json={"user_message": "5", "free_mode": True, "conversation_history": history})
    assert [message["content"] for message in upstream.received[0].json["input"][1:]] == list("12345")


@pytest.mark.parametrize("entry", BAD_ENTRIES, ids=str)
def test_bad_history_entry(client: FlaskClient, upstream: Upstream, entry: Any) -> None:
    """An entry of neither form is an error that names its index; nothing is dropped and nothing is sent."""
    history = ["user: 1", entry, "assistant: 2", entry]
    answer = client.post(CHAT, json={"user_message": "hi", "free_mode": True, "conversation_history": history})
    assert answer.status_code == 422
    errors = answer.get_json()["errors"]["json"]
    assert (list(errors), list(errors["conversation_history"])) == (["conversation_history"], ["1", "3"])
    assert "evil" not in answer.get_data(as_text=True)
    assert upstream.received == []
