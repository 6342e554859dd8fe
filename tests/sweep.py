"""The canary sweep: requests that carry secrets wherever they can go, and the shapes in which one could come out."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import quote

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


@cache
def forms(canary: str) -> frozenset[str]:
    """The shapes in which a value can hide: whole, its end, URL-encoded, as JSON, in hexadecimal and in base64."""
    data = canary.encode()
    found = {canary, canary[-8:], quote(canary, safe=""), quote(canary), json.dumps(canary)[1:-1], data.hex()}
    for offset in range(3):
        # The groups at both ends depend on what stands around the value.
        coded = base64.b64encode(b"x" * offset + data + b"x" * (-(offset + len(data)) % 3)).decode()[4:-4]
        found |= {coded, coded.replace("+", "-").replace("/", "_")}
    return frozenset(found)


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
PASSED_ROUTES = ("/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/messages", "/v1/audio/speech")
ROUTES = [
    *("/v1/models", "/v1/nowhere", f"{CHAT}/preview", *PASSED_ROUTES),
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
        for path, streamed in itertools.product(PASSED_ROUTES, (False, True)):
            body = json.dumps({"model": "m", "stream": streamed, "input": PROMPT, "messages": [PROMPT]}).encode()
            own = {"Authorization": f"Bearer {next(numbers)}{CALLER_KEY}"}
            yield Try("POST", path, body, TYPE | BEARER | own, fault)
            yield Try("POST", path, body, TYPE | {"X-Free-Mode": "true"}, fault)
            if path == "/v1/messages":
                yield Try("POST", path, body, TYPE | {"x-api-key": f"{next(numbers)}{CALLER_KEY}"}, fault)
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
            # What upstream says passes as it came; what we add to it is in the errors and the headers.
            allowed = set(CANARIES)
        if 400 <= status < 500 and item.upstream is not FAULTS["answer"]:
            # Upstream's words reach who asked, and may quote what was asked; keys are taken out of them.
            allowed = CANARIES.keys() - {"caller's key", "server's key"}
        assert set(hits(body.decode(errors="replace"))) <= allowed, (item, status)
        ours = "" if item.path.startswith("/v1/") else "event: error\ndata: .*"
        assert hits(headers + "".join(re.findall(ours, body.decode(errors="replace")))) == [], item
        statuses.add(status)
    return statuses


EXPECTED = {200, 400, 401, 404, 405, 413, 415, 422, 429, 502, 503, 504}
