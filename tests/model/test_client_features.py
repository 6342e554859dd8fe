"""What unmodified clients do beyond text: tools, objects, errors. The upstream answers as OpenAI; the model cannot.

All of them have a token of ours in the place of OpenAI's key, and nothing else of ours but the base URL.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.ledger.accounts import Limits
from tests.anthropic_upstream import MODEL as CLAUDE
from tests.anthropic_upstream import AnthropicUpstream
from tests.model.test_clients import BIN, NOT_ISSUED, SCRIPTS
from tests.openai_upstream import ANSWER, MODEL, PIECES, VECTOR, OpenAIUpstream
from tests.records import add_client, settled
from tests.server import Server

CITY = {"name": "Paris", "people": 3}
REFUSED = [401, "unauthorized"]
TOO_LONG = [400, "context_length_exceeded"]
HALF = PIECES[:2]
QUESTION = {"model": MODEL, "messages": [{"role": "user", "content": "The capital of France?"}]}

Run = Callable[..., str]


@pytest.fixture(scope="module")
def upstream() -> Iterator[OpenAIUpstream]:
    with OpenAIUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def environ(upstream: OpenAIUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a client program sees: how to reach a server on which every caller needs a token, and its token."""
    home = tmp_path_factory.mktemp("home")
    database = f"sqlite:///{tmp_path_factory.mktemp('store')}/llm_server.db"
    settings = {"OPENAI_API_KEY": "sk-server-0123456789", "OPENAI_BASE_URL": upstream.base_url}
    with Server(home / "server", AUTH_MODE="token", DATABASE_URL=database, **settings) as server:
        yield {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "OPENAI_API_KEY": add_client(database, Limits()),
            "WRONG_KEY": NOT_ISSUED,
            "MODEL": MODEL,
        }


@pytest.fixture
def run(environ: dict[str, str], tmp_path: Path) -> Run:
    """Run a client; gives what it printed."""

    def run(*command: str | Path, status: int = 0) -> str:
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    return run


def of_an_sdk(**members: Any) -> dict[str, Any]:
    """What an SDK finds with one API."""
    common = {"text": ANSWER, "pieces": PIECES, "tool": [ANSWER, "Paris"], "object": CITY}
    return common | {"cut": True, "refused": REFUSED, "too_long": TOO_LONG} | members


def test_langchain(run: Run) -> None:
    """langchain-openai: text, streams, a tool, an object, errors, and that a cut stream raises."""
    found = json.loads(run(BIN / "python", SCRIPTS / "langchain_agent.py"))
    each = of_an_sdk()
    assert found == {"chat": each, "responses": each, "embedding": len(VECTOR)}


def test_pydantic_ai(run: Run) -> None:
    """pydantic-ai: the same, and an object that comes as the arguments of a tool."""
    found = json.loads(run(BIN / "python", SCRIPTS / "pydantic_ai_agent.py"))
    each = of_an_sdk(**{"object by a tool": CITY})
    assert found == {"chat": each, "responses": each}


def test_ai_sdk(run: Run) -> None:
    """Vercel's AI SDK, by both APIs and its provider for others: the same, tools and objects in streams as well."""
    found = json.loads(run(BIN / "node", SCRIPTS / "ai_sdk.mjs"))
    each = of_an_sdk(tool=[ANSWER, ANSWER, "Paris", "Paris"], **{"object in a stream": CITY})
    assert found == {"responses": each, "chat": each, "compatible": each, "embedding": len(VECTOR)}


def test_programs_without_an_sdk(run: Run) -> None:
    """requests and httpx-sse: bodies of known and unknown length, events, and the error at the end of a cut stream."""
    cut = [*HALF, "upstream_connection_error"]
    assert json.loads(run(BIN / "python", SCRIPTS / "plain_http.py")) == {
        "text": ANSWER,
        "chunked": "chat.completion",
        "requests": PIECES,
        "httpx-sse": PIECES,
        "cut": [cut, cut],
        "refused": REFUSED,
        "too_long": TOO_LONG,
    }


@pytest.mark.skipif(not shutil.which("java"), reason="needs a JDK")
def test_java(run: Run) -> None:
    """Java's HttpClient, which offers to speak HTTP/2: answered in HTTP/1.1, and no body is lost."""
    lines = run("java", SCRIPTS / "JavaClient.java").splitlines()
    assert [line.split(" {")[0] for line in lines[:3]] == [
        "plain 200 HTTP_1_1",
        "chunked 200 HTTP_1_1",
        "refused 401 HTTP_1_1",
    ]
    assert [ANSWER in line for line in lines[:2]] == [True, True]
    assert "unauthorized" in lines[2]
    assert lines[3:] == [f"events {len(PIECES) + 3}"]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
@pytest.mark.parametrize("version", ["--http1.0", "--http1.1", "--http2"])
@pytest.mark.parametrize("stream", [False, True])
def test_curl(run: Run, environ: dict[str, str], version: str, stream: bool) -> None:
    """curl, by HTTP/1.0 too, and with an offer to upgrade to HTTP/2: the body ends where the answer does."""
    head = ["-H", f"Authorization: Bearer {environ['OPENAI_API_KEY']}", "-H", "Content-Type: application/json"]
    body = json.dumps(QUESTION | {"stream": stream})
    told = ["-w", " %{http_version} %{http_code}", environ["OPENAI_BASE_URL"] + "/chat/completions"]
    answer = run("curl", "-sSN", "--max-time", "60", version, *head, "-d", body, *told)
    assert answer.endswith(f" {'1' if version == '--http1.0' else '1.1'} 200")
    assert ("data: [DONE]" if stream else ANSWER) in answer


def test_anthropic(tmp_path: Path) -> None:
    """Anthropic's SDK over an upstream that answers as Anthropic does: tools in three ways, counts, errors."""
    database = f"sqlite:///{tmp_path}/store/llm_server.db"
    settings = {"OPENAI_API_KEY": "sk-server-0123456789", "DATABASE_URL": database}
    with (
        AnthropicUpstream() as upstream,
        Server(tmp_path / "server", AUTH_MODE="token", OPENAI_BASE_URL=upstream.base_url, **settings) as server,
    ):
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "ANTHROPIC_BASE_URL": server.url,
            "ANTHROPIC_API_KEY": add_client(database, Limits()),
            "WRONG_KEY": NOT_ISSUED,
            "MODEL": CLAUDE,
        }
        command = [BIN / "python", SCRIPTS / "anthropic_tools.py"]
        done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "text": ANSWER,
        "usage": [11, 7],
        "pieces": PIECES,
        "count": 11,
        "tool": [[ANSWER, "Paris"]] * 3,
        "cut": ["APIStatusError", 200, "api_error"],
        "refused": ["AuthenticationError", 401, "authentication_error"],
        "too_long": ["BadRequestError", 400, "invalid_request_error"],
        "too_long, streamed": ["BadRequestError", 400, "invalid_request_error"],
    }
    threads = [received.json["thread"]["type"] for received in upstream.received if received.json.get("thread")]
    assert threads == ["create", "continue"]
    assert {received.headers["x-api-key"] for received in upstream.received} == {"sk-server-0123456789"}
    assert len(settled(database)) == len(upstream.received)
