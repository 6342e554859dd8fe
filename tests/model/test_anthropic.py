"""Anthropic's dialect with the local model: llama.cpp speaks it, and an unmodified SDK uses it through the server."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.ledger.accounts import Limits
from tests.model.test_clients import BIN, NOT_ISSUED, SCRIPTS, TOKENS
from tests.records import add_client, rows, settled
from tests.server import Server

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
STORY = "Tell me a long story of a dog."
HI = {"model": "local", "max_tokens": TOKENS, "temperature": 0, "messages": [{"role": "user", "content": STORY}]}
CHAT = "/api/v1/chat"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/llm_server.db"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[Server]:
    """Every caller needs a token; the native route asks in Anthropic's dialect as well."""
    settings: dict[str, Any] = {"LOCAL_MODEL": "demo", "UPSTREAM_API": "messages", "DATABASE_URL": database}
    with Server(tmp_path_factory.mktemp("server"), patience_seconds=90, AUTH_MODE="token", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def token(server: Server, database: str) -> str:
    return add_client(database, Limits())


def events(body: str) -> list[Any]:
    """The data of the events."""
    return [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line.startswith("data: ")]


def test_a_message_plain_and_streamed(server: Server, database: str, token: str) -> None:
    """The same tokens either way, and in the ledger."""
    plain = server.request("POST", MESSAGES, HI, {"x-api-key": token})
    assert plain.status == 200
    document = plain.json
    assert (document["type"], document["stop_reason"]) == ("message", "max_tokens")
    assert document["usage"]["output_tokens"] == TOKENS
    streamed = server.request("POST", f"{MESSAGES}?beta=true", HI | {"stream": True}, {"x-api-key": token})
    told = events(streamed.body.decode())
    assert (told[0]["type"], told[-1]["type"]) == ("message_start", "message_stop")
    text = "".join(event["delta"]["text"] for event in told if event["type"] == "content_block_delta")
    assert text
    counted = [row for row in settled(database) if row["route"] == MESSAGES][-2:]
    assert [(row["status"], row["output_tokens"], row["estimated"]) for row in counted] == [("ok", TOKENS, False)] * 2
    assert counted[0]["input_tokens"] == counted[1]["input_tokens"] > 10


def test_tokens_are_counted_before(server: Server, database: str, token: str) -> None:
    """As many as the request then has."""
    asked = {name: value for name, value in HI.items() if name != "max_tokens"}
    counted = server.request("POST", COUNT, asked, {"x-api-key": token}).json["input_tokens"]
    server.request("POST", MESSAGES, HI, {"x-api-key": token})
    assert settled(database)[-1]["input_tokens"] == counted
    assert [row["cost_nano"] for row in rows(database) if row["route"] == COUNT] == [0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_turn_is_answered_by_messages(server: Server, database: str, token: str, stream: bool) -> None:
    """The native route in Anthropic's dialect, with the turns of a conversation."""
    history = ["user: My name is Kim.", "assistant: Hello, Kim."]
    turn = {
        "user_message": STORY,
        "conversation_history": history,
        "max_tokens": 3,
        "temperature": 0,
        "free_mode": True,
    }
    answer = server.request("POST", CHAT, turn | {"stream": stream}, {"Authorization": f"Bearer {token}"})
    assert answer.status == 200
    given = events(answer.body.decode())[-1] if stream else answer.json
    assert given["response_text"]
    assert (given["finish_reason"], given["output_tokens"]) == ("length", 3)
    assert settled(database)[-1]["output_tokens"] == 3


def test_anthropics_sdk(server: Server, token: str, tmp_path: Path) -> None:
    """Plain, streamed, by the helper, at once and by bearer; a token of ours is its key."""
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "ANTHROPIC_BASE_URL": server.url,
        "ANTHROPIC_API_KEY": token,
        "WRONG_KEY": NOT_ISSUED,
        "MODEL": "local",
        "MAX_TOKENS": str(TOKENS),
    }
    command = [BIN / "python", SCRIPTS / "anthropic_sdk.py"]
    seen = len(server.log())
    ran = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    plain, streamed, helped = found["plain"], found["streamed"], found["helped"]
    assert plain["text"]
    assert (plain["reason"], plain["usage"]) == ("max_tokens", [found["count"], TOKENS])
    assert f"request_id={plain['request_id']} " in server.log()[seen:]
    assert (streamed["types"], streamed["usage"]) == (["message_start", "message_stop"], TOKENS)
    assert streamed["text"]
    assert streamed["pieces"] > 1
    assert (helped["same"], helped["reason"]) == (True, "max_tokens")
    assert all([helped["text"], found["bearer"], *found["at once"]])
    assert "api_key_source=user_provided" not in server.log()[seen:]
    refused = found["refusals"]
    assert refused["a wrong token"] == ["AuthenticationError", "authentication_error", "unauthorized", True]
    assert refused["no such route"][:3] == ["NotFoundError", "not_found_error", "not_found"]
    assert refused["too long"][:2] == refused["too long, streamed"][:2] == ["BadRequestError", "invalid_request_error"]
