"""Nothing secret leaves a real server, in its log, its answers or its store."""

from __future__ import annotations

import itertools
import json
import logging.config
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.config import Config
from app.ledger.accounts import Accounts, Limits
from app.logging import log_config
from app.services.chat import ChatService
from app.services.exchange import Exchange
from app.web.services import service
from tests.process.test_input import raw_chat, send_raw
from tests.server import Server
from tests.sweep import (
    CALLER_KEY,
    CHAT,
    EXPECTED,
    FAULTS,
    PASSED_ROUTES,
    PROMPT,
    SERVER_KEY,
    TYPE,
    Try,
    forms,
    hits,
    sweep,
)
from tests.upstream import (
    Upstream,
)


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize(
    ("level", "log_format"),
    [
        ("DEBUG", "text"),
        ("DEBUG", "json"),
        ("INFO", "json"),
        ("WARNING", "text"),
        ("ERROR", "json"),
        ("CRITICAL", "text"),
    ],
)
def test_in_process(
    upstream: Upstream,
    make_app: Callable[..., Flask],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    level: str,
    log_format: str,
) -> None:
    """No canary is in an answer, a header, a log line, the cache, or a table of keys, whatever the level and format.

    With DEBUG every line is written, so each format has had all; the other levels only leave lines out.
    """
    settings: dict[str, Any] = {"log_level": level, "log_format": log_format, "log_file": str(tmp_path / "app.log")}
    logging.config.dictConfig(log_config(Config(openai_api_key=SERVER_KEY, **settings)))
    settings["max_request_bytes"] = 1_048_576
    app = make_app(openai_api_key=SERVER_KEY, request_timeout=0.1, cache_enabled=True, **settings)
    client = app.test_client()

    def send(item: Try) -> tuple[int, str, bytes]:
        with client.open(item.path, method=item.method, data=item.body, headers=item.headers) as answer:
            return answer.status_code, str(answer.headers), answer.get_data()

    assert sweep(send, upstream) >= EXPECTED
    logged = (tmp_path / "app.log").read_text()
    assert hits(logged) == []
    assert hits("".join(capfd.readouterr())) == []
    assert ("status=200" in logged or '"status": 200' in logged) == (level in {"DEBUG", "INFO"})
    assert "caller's key" not in hits(str(vars(service(ChatService, app)._cache)))
    assert hits(str(vars(service(Exchange, app).keys)["_refused"])) == []
    assert hits(str(vars(service(Accounts, app))["_known"])) == []


@pytest.mark.parametrize(("level", "log_format"), [("DEBUG", "text"), ("DEBUG", "json"), ("CRITICAL", "text")])
def test_under_gunicorn(upstream: Upstream, start_server: Callable[..., Server], level: str, log_format: str) -> None:
    """Nor does standard output, error output, or the log file of a real server show one."""
    server = start_server(
        MAX_REQUEST_BYTES=2**20,
        OPENAI_API_KEY=SERVER_KEY,
        LOG_LEVEL=level,
        LOG_FORMAT=log_format,
        REQUEST_TIMEOUT=0.1,
        CACHE_ENABLED=True,
    )

    def send(item: Try) -> tuple[int, str, bytes]:
        answer = server.request(item.method, item.path, item.body, item.headers)
        return answer.status, str(answer.headers), answer.body

    assert sweep(send, upstream) >= EXPECTED
    body = json.dumps(PROMPT).encode()
    for header in (
        b"Host: localhost",
        b"X-OpenAI-Api-Key : " + CALLER_KEY.encode(),
        b"X-OpenAI-Api-Key: " + CALLER_KEY.encode() * 1000,
        b"Transfer-Encoding: chunked",
        CALLER_KEY.encode(),
    ):
        length = b"Content-Length: %d" % len(body)
        status, answer = send_raw(server, raw_chat(b"Host: localhost", header, length, body=body))
        assert status in {400, 431}
        assert hits(answer.decode()) == []
    assert hits(server.output() + server.log()) == []
    assert ("app.request" in server.log()) == (level == "DEBUG")
    server.stop()
    assert hits(server.output() + server.log()) == []


def test_the_server_does_not_tell_its_version(start_server: Callable[..., Server]) -> None:
    """gunicorn's own header names no version."""
    assert not re.search(r"\d", start_server().request("GET", "/livez").headers.get("Server", ""))


def test_tokens_and_records(
    upstream: Upstream, start_server: Callable[..., Server], make_app: Callable[..., Flask], sqlite_url: str
) -> None:
    """A client's token is nowhere but with its client; the database holds no key, prompt or answer either."""
    server = start_server(
        OPENAI_API_KEY=SERVER_KEY, AUTH_MODE="token", LOG_LEVEL="DEBUG", REQUEST_TIMEOUT=0.3, MAX_REQUEST_BYTES=2**20
    )
    token = service(Accounts, make_app()).add("web", Limits())
    bearer = {"Authorization": f"Bearer {token}"}
    typo = {"Authorization": f"Bearer {token[:-1]}{'a' if token[-1] != 'a' else 'b'}"}
    for fault, headers in itertools.product(FAULTS.values(), (bearer, typo)):
        upstream.default = fault
        for path, streamed in itertools.product((CHAT, *PASSED_ROUTES), (False, True)):
            native = PROMPT | {"free_mode": True, "stream": streamed}
            body = native if path == CHAT else {"model": "m", "stream": streamed, "input": PROMPT}
            server.request("POST", path, body, TYPE | {"X-Free-Mode": "true"} | headers)
    for path in ("/api/v1/usage", "/api/v1/usage?by=client", "/api/v1/system/info", "/metrics"):
        answer = server.request("GET", path, headers=bearer)
        assert token not in answer.body.decode()
        assert hits(answer.body.decode()) == []
    server.stop()
    directory = Path(sqlite_url.removeprefix("sqlite:///")).parent
    held = b"".join(path.read_bytes() for path in directory.iterdir()).decode("latin-1")
    for place in (server.output(), server.log(), held, held.encode("latin-1").decode(errors="replace")):
        assert [form for form in forms(token) if form in place] == []
        assert hits(place) == []
    assert "requests" in held
