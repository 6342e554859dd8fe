"""The canary sweep: keys, prompts and answers go everywhere they can go, and come out nowhere but in the answer."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import logging.config
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Config
from app.ledger.accounts import Limits
from app.logging import log_config
from app.models import ApiKey, ChatRequest
from tests.api.test_input import raw_chat, send_raw
from tests.server import Server
from tests.streams import delta, event, response_events, stream, typed
from tests.upstream import (
    Answer,
    Received,
    Upstream,
    error_document,
    pieces,
    reply,
    reset,
    response_document,
    silence,
    text,
)

CHAT = "/api/v1/chat"
# Keys that no pattern for keys recognizes: what keeps them out is that nobody writes them.
CALLER_KEY = "Wq8+caller/Jd5=Hn2Vx7Gd4"
SERVER_KEY = "Zt4+server/Mb9=Rk6Py3Fs8"
PROMPTS = {
    "system_message": "시스템 비밀 Ac5Xv8TqJm",
    "user_message": "사용자 비밀 Bd6Yw9UrKn",
    "role": "역할 비밀 Ce7Zx2VsLp",
    "memory": "기억 비밀 Df8Ay3WtMq",
    "history": "대화 비밀 Eg9Bz4XuNr",
    "instructions": "지시 비밀 Fh2Ca5YvPs",
}
ANSWER = "답변 비밀 Gj3Db6ZwQt"
CANARIES = {"caller's key": CALLER_KEY, "server's key": SERVER_KEY, "answer": ANSWER} | PROMPTS

PROMPT = {
    "system_message": PROMPTS["system_message"],
    "user_message": PROMPTS["user_message"],
    "role": PROMPTS["role"],
    "memory_context": [PROMPTS["memory"]],
    "conversation_history": ["user: " + PROMPTS["history"], {"role": "assistant", "content": PROMPTS["history"]}],
    "instructions": PROMPTS["instructions"],
}


def forms(canary: str) -> set[str]:
    """The shapes in which a value can hide: whole, its end, URL-encoded, as JSON, in hexadecimal and in base64."""
    data = canary.encode()
    found = {canary, canary[-8:], quote(canary, safe=""), quote(canary), json.dumps(canary)[1:-1], data.hex()}
    for offset in range(3):
        # The groups at both ends depend on what stands around the value.
        coded = base64.b64encode(b"x" * offset + data + b"x" * (-(offset + len(data)) % 3)).decode()[4:-4]
        found |= {coded, coded.replace("+", "-").replace("/", "_")}
    return found


def hits(haystack: str) -> list[str]:
    """The names of the canaries that show in `haystack`."""
    return [name for name, canary in CANARIES.items() if any(form in haystack for form in forms(canary))]


def telltale(received: Received) -> str:
    return f"{received.key} {received.body.decode(errors='replace')} {ANSWER}"


def telling_error(status: int, **members: Any) -> Answer:
    """An upstream that repeats all it knows, the key and the prompt, in every place of an error."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        error = {name: telltale(received) for name in ("message", "type", "code", "param")} | members
        headers = dict.fromkeys(("Retry-After", "WWW-Authenticate", "Set-Cookie", "Location"), received.key)
        await reply(status, {"error": error}, headers)(received, writer)

    return answer


def telling_body(shape: Callable[[str], bytes]) -> Answer:
    """An upstream whose body, good status or not, cannot be used and repeats all it knows."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        await reply(200, shape(telltale(received)))(received, writer)

    return answer


FAULTS: dict[str, Answer] = {
    "answer": text(ANSWER),
    "cut answer": text(ANSWER, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
    "odd answer": text(ANSWER + "\ud800", usage={"input_tokens": "x"}, model=None),
    **{f"HTTP {status}": telling_error(status) for status in (307, 400, 401, 403, 404, 409, 422, 429, 500, 503)},
    "no such model": telling_error(404, code="model_not_found"),
    "no quota": telling_error(429, code="insufficient_quota"),
    "failed": text(ANSWER, status="failed", error=error_document(ANSWER)["error"]),
    "bad JSON": telling_body(lambda told: b'{"output": ' + told.encode()),
    "bad UTF-8": telling_body(lambda told: told.encode() + b"\xff"),
    "a string": telling_body(lambda told: json.dumps(told).encode()),
    "no text": telling_body(lambda told: json.dumps(response_document("") | {"note": told}).encode()),
    "short body": pieces([b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n" + ANSWER.encode()]),
    "not HTTP": pieces([ANSWER.encode() + b"\r\n\r\n"]),
    "reset": reset(),
    "silence": silence(),
    "stream": stream(response_events(ANSWER)),
    "cut stream": stream([delta(ANSWER)]),
    "stream of bad JSON": stream([delta(ANSWER), event(ANSWER)]),
    "failed stream": stream([delta(ANSWER), typed("response.failed", response={"error": {"message": ANSWER}})]),
    "stream error": stream([typed("error", message=ANSWER, code=ANSWER, param=ANSWER)]),
}


@dataclass
class Try:
    """One request of the sweep, and how upstream answers it."""

    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    upstream: Answer = FAULTS["answer"]


TYPE = {"Content-Type": "application/json"}
BEARER = {
    "Authorization": f"Bearer {CALLER_KEY}",
    "Cookie": CALLER_KEY,
    "Referer": CALLER_KEY,
    "User-Agent": CALLER_KEY,
}
DOOR = ("/v1/responses", "/v1/chat/completions", "/v1/embeddings")
ROUTES = [
    *("/v1/models", "/v1/nowhere", f"{CHAT}/preview", *DOOR),
    *("/", "/livez", "/readyz", "/docs", "/docs/start.js", "/openapi.json", "/api/v1/", CHAT, "/nowhere"),
    *(f"/api/v1/system/{name}" for name in ("info", "status", "cpu", "memory", "disk")),
]


def tries() -> Iterator[Try]:
    """Every route and fault; each with a key of its own, as a refused one is remembered."""
    numbers = itertools.count(10)

    def chat(
        given: Mapping[str, Any], headers: Mapping[str, str] | None = None, upstream: Answer = FAULTS["answer"]
    ) -> Try:
        return Try("POST", CHAT, json.dumps(PROMPT | given).encode(), TYPE | BEARER | (headers or {}), upstream)

    for fault in FAULTS.values():
        yield chat({"openai_api_key": f"{next(numbers)}{CALLER_KEY}"}, upstream=fault)
        yield chat({"free_mode": True}, upstream=fault)
        yield chat({"free_mode": True, "stream": True}, upstream=fault)
        for path, streamed in itertools.product(DOOR, (False, True)):
            body = json.dumps({"model": "m", "stream": streamed, "input": PROMPT, "messages": [PROMPT]}).encode()
            own = {"Authorization": f"Bearer {next(numbers)}{CALLER_KEY}"}
            yield Try("POST", path, body, TYPE | BEARER | own, fault)
            yield Try("POST", path, body, TYPE | {"X-Free-Mode": "true"}, fault)
        yield Try("GET", "/v1/models", b"", {"Authorization": f"Bearer {next(numbers)}{CALLER_KEY}"}, fault)
    yield chat({"free_mode": True}, {"X-OpenAI-Api-Key": f"{next(numbers)}{CALLER_KEY}"}, telling_error(401))
    yield chat({})
    yield chat({"openai_api_key": f"{CALLER_KEY} "})
    yield chat({"openai_api_key": f"{CALLER_KEY}\r\n{SERVER_KEY}"})
    yield chat({"openai_api_key": CALLER_KEY + "열쇠"})
    yield chat({"openai_api_key": CALLER_KEY * 100})
    yield chat({}, {"X-OpenAI-Api-Key": f"{CALLER_KEY} {CALLER_KEY}"})
    for name in ("max_tokens", "temperature", "free_mode", "unknown", "memory_context", "conversation_history"):
        yield chat({name: PROMPTS["history"]})
        yield chat({name: [PROMPTS["history"]]})
    for name in ("model", "session_id", "user_message", "role", "system_message", "instructions"):
        yield chat({name: PROMPTS["role"] + "\x00"})
        yield chat({name: PROMPTS["role"] + "\ud800"})
        yield chat({name: [PROMPTS["role"]]})
    whole = json.dumps(PROMPT | {"openai_api_key": CALLER_KEY}, ensure_ascii=False)
    for body in (whole[:-9].encode(), whole.encode("utf-16"), whole.encode() + b"\xff", whole.encode() * 5000):
        yield Try("POST", CHAT, body, TYPE | BEARER)
    for headers in (
        {"Content-Type": "text/plain"},
        TYPE | {"Content-Encoding": "gzip"},
        TYPE | {"X-Request-ID": f"{CALLER_KEY} "},
    ):
        yield Try("POST", CHAT, whole.encode(), BEARER | headers)
    for route, method in itertools.product(ROUTES, ("GET", "POST", "DELETE", "OPTIONS")):
        query = f"?api_key={quote(CALLER_KEY, safe='')}&q={quote(PROMPTS['user_message'])}"
        yield Try(method, route + query, b"", BEARER | {"X-OpenAI-Api-Key": CALLER_KEY})


Send = Callable[[Try], tuple[int, str, bytes]]


def sweep(send: Send, upstream: Upstream) -> set[int]:
    """Send every try; no answer may show a canary but for what a good answer is made of. Give the statuses seen."""
    statuses = set()
    for item in tries():
        upstream.default = item.upstream
        status, headers, body = send(item)
        # By contract these two are in a good answer.
        allowed = {"answer", "instructions"} if status == 200 and item.path == CHAT else set()
        if status == 200 and item.path.startswith("/v1/"):
            # What upstream says passes the door as it came; what we add to it is in the errors and the headers.
            allowed = set(CANARIES)
        assert set(hits(body.decode(errors="replace"))) <= allowed, (item, status)
        ours = "" if item.path.startswith("/v1/") else "event: error\ndata: .*"
        assert hits(headers + "".join(re.findall(ours, body.decode(errors="replace")))) == [], item
        statuses.add(status)
    return statuses


EXPECTED = {200, 400, 401, 404, 405, 413, 415, 422, 429, 502, 503, 504}


@pytest.fixture
def _logging_restored() -> Iterator[None]:
    """What dictConfig changed is put back."""
    loggers = [logging.getLogger(), *map(logging.getLogger, log_config(Config(log_file=""))["loggers"])]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    raise_exceptions = logging.raiseExceptions
    yield
    logging.raiseExceptions = raise_exceptions
    for logger, level, handlers, propagate in before:
        for handler in set(logger.handlers) - set(handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)
        logger.handlers[:], logger.propagate = handlers, propagate


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_in_process(
    upstream: Upstream,
    make_app: Callable[..., Flask],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    level: str,
    log_format: str,
) -> None:
    """No canary is in an answer, a header, a log line, the cache, or a table of keys, whatever the level and format."""
    settings = {"log_level": level, "log_format": log_format, "log_file": str(tmp_path / "app.log")}
    logging.config.dictConfig(log_config(Config(openai_api_key=SERVER_KEY, **settings)))
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
    service = app.extensions["chat_service"]
    assert "caller's key" not in hits(str(vars(service._cache)))
    assert hits(str(vars(service.openai_client.keys)["_refused"])) == []


@pytest.mark.process
@pytest.mark.parametrize(("level", "log_format"), [("DEBUG", "text"), ("DEBUG", "json"), ("CRITICAL", "text")])
def test_under_gunicorn(upstream: Upstream, start_server: Callable[..., Server], level: str, log_format: str) -> None:
    """Nor does standard output, error output, or the log file of a real server show one."""
    server = start_server(
        OPENAI_API_KEY=SERVER_KEY, LOG_LEVEL=level, LOG_FORMAT=log_format, REQUEST_TIMEOUT=0.1, CACHE_ENABLED=True
    )

    def send(item: Try) -> tuple[int, str, bytes]:
        answer = server.request(item.method, item.path, item.body, item.headers)
        return answer.status, str(answer.headers), answer.body

    assert sweep(send, upstream) >= EXPECTED
    body = json.dumps(PROMPT).encode()
    for header in (
        b"Host: x",
        b"X-OpenAI-Api-Key : " + CALLER_KEY.encode(),
        b"X-OpenAI-Api-Key: " + CALLER_KEY.encode() * 1000,
        b"Transfer-Encoding: chunked",
        CALLER_KEY.encode(),
    ):
        status, answer = send_raw(server, raw_chat(b"Host: x", header, b"Content-Length: %d" % len(body), body=body))
        assert status in {400, 431}
        assert hits(answer.decode()) == []
    assert hits(server.output() + server.log()) == []
    assert ("app.request" in server.log()) == (level == "DEBUG")
    server.stop()
    assert hits(server.output() + server.log()) == []


class FakeBug:
    """A chat service with a bug whose exception holds all there is."""

    def process_chat_request(self, request: ChatRequest, *_: Any, **__: Any) -> None:
        try:
            raise ValueError(f"{request} {request.openai_api_key} {SERVER_KEY} {ANSWER}")
        except ValueError as exc:
            exc.add_note(CALLER_KEY)
            raise RuntimeError(*PROMPTS.values()) from exc


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_bug_shows_its_place_and_not_its_text(
    make_app: Callable[..., Flask], tmp_path: Path, capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    """An exception nobody expected is logged by type and place: its text may hold a key or a prompt."""
    settings = {"log_level": "DEBUG", "log_format": log_format, "log_file": str(tmp_path / "app.log")}
    logging.config.dictConfig(log_config(Config(openai_api_key=SERVER_KEY, **settings)))
    app = make_app(**settings)
    app.extensions["chat_service"] = FakeBug()
    answer = app.test_client().post(CHAT, json=PROMPT | {"openai_api_key": CALLER_KEY})
    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_error")
    logged = (tmp_path / "app.log").read_text()
    assert "RuntimeError" in logged
    assert "process_chat_request" in logged
    assert hits(logged + "".join(capfd.readouterr()) + answer.get_data(as_text=True)) == []


def test_values_do_not_print_their_secrets() -> None:
    """Whoever prints a request or a key in a debugging session shows no key."""
    request = ChatRequest(user_message="hi", openai_api_key=CALLER_KEY)
    assert hits(f"{request!r} {ApiKey(SERVER_KEY, 'default')!r} {Config(openai_api_key=SERVER_KEY)!r}") == []


@pytest.mark.parametrize("canary", CANARIES)
def test_the_sweep_finds_what_it_looks_for(canary: str) -> None:
    """Each canary is found in each of its shapes, and in no other's."""
    value = CANARIES[canary]
    for shape in (
        value,
        value[-8:],
        quote(value),
        quote(value, safe=""),
        json.dumps({"a": value}),
        base64.b64encode(value.encode()).decode(),
        base64.b64encode(f"user:{value}!".encode()).decode(),
        base64.urlsafe_b64encode(f"{value}".encode()).decode(),
    ):
        assert hits(f"... {shape} ...") == [canary]
    assert hits("nothing to see") == []


SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


@pytest.mark.parametrize("route", [*ROUTES, "/docs/swagger-ui-bundle.js", "/docs/favicon-32x32.png", "/api/v1"])
def test_every_answer_has_safe_headers(client: FlaskClient, route: str) -> None:
    """Good, bad or redirected: no sniffing, no storing, no framing, no sign of the software's version."""
    for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
        with client.open(route, method=method) as answer:
            assert {name: answer.headers[name] for name in SAFE_HEADERS} == SAFE_HEADERS
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Request-ID"]
            assert not [
                name
                for name, _ in answer.headers
                if name == "Server" or name.startswith(("Access-Control", "Set-Cookie"))
            ]


@pytest.mark.process
def test_the_server_does_not_tell_its_version(start_server: Callable[..., Server]) -> None:
    """gunicorn's own header names no version."""
    assert not re.search(r"\d", start_server().request("GET", "/livez").headers.get("Server", ""))


ORIGIN = "https://app.example"


@pytest.mark.parametrize("origin", [ORIGIN, "null", "http://localhost:5601"])
def test_cors_is_closed(client: FlaskClient, origin: str) -> None:
    """Without CORS_ORIGINS no page of another origin may read an answer or send a JSON request."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    for method, route in itertools.product(("GET", "POST", "OPTIONS"), ROUTES):
        answer = client.open(route, method=method, headers=asked)
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_cors_opens_for_the_configured_origins_only(make_app: Callable[..., Flask]) -> None:
    """A listed origin may call and read, problems included; another may not."""
    client = make_app(cors_origins=(ORIGIN,)).test_client()
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-openai-api-key",
    }
    preflight = client.options(CHAT, headers=asked | {"Origin": ORIGIN})
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert preflight.headers["Access-Control-Allow-Headers"] == "content-type, x-openai-api-key"
    for answer in (client.get("/livez", headers={"Origin": ORIGIN}), client.post(CHAT, headers={"Origin": ORIGIN})):
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
    for origin in (
        "https://evil.example",
        ORIGIN + ".evil.example",
        "https://appxexample",
        "http://app.example",
        "null",
    ):
        assert "Access-Control-Allow-Origin" not in client.options(CHAT, headers=asked | {"Origin": origin}).headers
        assert "Access-Control-Allow-Origin" not in client.get("/livez", headers={"Origin": origin}).headers


@pytest.mark.process
def test_tokens_and_records(
    upstream: Upstream, start_server: Callable[..., Server], make_app: Callable[..., Flask], sqlite_url: str
) -> None:
    """A client's token is nowhere but with its client; the database holds no key, prompt or answer either."""
    server = start_server(OPENAI_API_KEY=SERVER_KEY, AUTH_MODE="token", LOG_LEVEL="DEBUG", REQUEST_TIMEOUT=0.3)
    token = make_app().extensions["accounts"].add("web", Limits())
    bearer = {"Authorization": f"Bearer {token}"}
    typo = {"Authorization": f"Bearer {token[:-1]}{'a' if token[-1] != 'a' else 'b'}"}
    for fault, headers in itertools.product(FAULTS.values(), (bearer, typo)):
        upstream.default = fault
        for path, streamed in itertools.product((CHAT, *DOOR), (False, True)):
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
