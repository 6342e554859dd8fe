"""Bad input through the API: each is refused with a problem document that repeats nothing of what was refused."""

from __future__ import annotations

import gzip
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from backports import zstd
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.config import Config
from app.failures import FAILURES
from app.store.database import Database
from app.web.services import service
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.records import rows
from tests.upstream import Upstream

CHAT = "/api/v1/chat"
MARK = "Zq7rejectedZq7"
PROBLEM_FIELDS = {
    *("type", "title", "status", "detail", "code", "success", "session_id", "error_message"),
    *("origin", "retryable", "request_id"),
}
NEW_REQUEST_ID = re.compile(r"[0-9a-f]{32}")


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Flask, Upstream]]:
    """One app for all: what is refused leaves nothing behind in it, and making one takes longer than a test."""
    with Upstream() as upstream:
        store = f"sqlite:///{tmp_path_factory.mktemp('input')}/llm_server.db"
        settings = Config(openai_api_key=SERVER_KEY, openai_base_url=upstream.base_url, database_url=store)
        app = create_app(settings)
        yield app, upstream
        service(Database, app).close()


@pytest.fixture
def upstream(refusing: tuple[Flask, Upstream]) -> Upstream:
    _, upstream = refusing
    upstream.received.clear()
    return upstream


@pytest.fixture
def client(refusing: tuple[Flask, Upstream], upstream: Upstream) -> FlaskClient:
    app, _ = refusing
    return app.test_client()


def assert_problem(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    """The answer is a whole problem document of this status and code; give the document."""
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json"), answer.get_data()
    problem: dict[str, Any] = json.loads(answer.get_data())
    assert set(problem) >= PROBLEM_FIELDS
    assert (problem["status"], problem["code"], problem["success"]) == (status, code, False)
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert problem["error_message"].startswith(FAILURES[code].told)
    assert ("errors" in problem) == (code == "validation_error")
    return problem


def assert_nothing_echoed(answer: TestResponse) -> None:
    """Neither the refused value nor a trace of our code is in the body or a header."""
    everything = answer.get_data(as_text=True) + str(answer.headers)
    assert MARK not in everything
    assert "Traceback" not in everything
    assert ".py" not in everything


def post(client: FlaskClient, body: bytes | str, **options: Any) -> TestResponse:
    return client.post(CHAT, data=body, **({"content_type": "application/json"} | options))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(f'{{"user_message": {MARK}'.encode(), id="not JSON"),
        pytest.param(f'{{"user_message": "{MARK}"}} trailing'.encode(), id="more than JSON"),
        pytest.param(f'{{"user_message": "{MARK}'.encode() + b'\xff\xfe"}', id="bad UTF-8"),
        pytest.param(f'{{"user_message": "{MARK}"}}'.encode("utf-16"), id="UTF-16"),
        pytest.param(f'{{"user_message": "{MARK}"}}'.encode("utf-8-sig"), id="byte order mark"),
        pytest.param(f'{{"user_message": "{MARK}\n"}}'.encode(), id="control character in a string"),
        pytest.param(b"[" * 100_000, id="100,000 levels of lists"),
        pytest.param(b'{"a":' * 100_000, id="100,000 levels of objects"),
        pytest.param(b'{"user_message": "hi", "max_tokens": ' + b"9" * 5000 + b"}", id="5,000 digits"),
    ],
)
def test_a_body_that_is_not_json(client: FlaskClient, upstream: Upstream, body: bytes) -> None:
    """What cannot be read as JSON in UTF-8 is 400."""
    answer = post(client, body)
    problem = assert_problem(answer, 400, "invalid_json")
    assert problem["session_id"] == ""
    assert_nothing_echoed(answer)
    assert upstream.received == []


ONE_FIELD = [
    *[("user_message", value) for value in ["", "   ", "\\n\\t", "\\u3000", "\\ud800" + MARK, f"{MARK}\\u0000"]],
    *[(name, f"{MARK}\\ud83d") for name in ("system_message", "role", "instructions", "model", "session_id")],
    *[(name, f"{MARK}\\u0000") for name in ("system_message", "role", "instructions", "model", "session_id")],
    ("session_id", MARK + "s" * 115),
    ("model", MARK + "m" * 243),
    ("openai_api_key", f"{MARK}\\r\\nX-Evil: 1"),
    ("openai_api_key", f"{MARK}\\n"),
    ("openai_api_key", f"{MARK} {MARK}"),
    ("openai_api_key", f"{MARK}열쇠"),
    ("openai_api_key", "a key"),
    ("openai_api_key", MARK + "k" * 100_000),
    ("openai_api_key", f"{MARK}\\ud800"),
]
RAW_VALUES = [
    *[("max_tokens", raw) for raw in ["NaN", "Infinity", "-Infinity", "1e999", "true", '"5"', "5.5", "0", "-1"]],
    *[("max_tokens", raw) for raw in ["1000000001", "9" * 4000, "[]", "{}", f'"{MARK}"', "1e300"]],
    *[("temperature", raw) for raw in ["NaN", "Infinity", "-Infinity", "1e999", "true", '"0.5"', "-0.1", "2.1"]],
    *[("temperature", raw) for raw in ["9" * 4000, "[]", f'"{MARK}"']],
    *[("free_mode", raw) for raw in ["1", "0", '"true"', '"yes"', "[]", f'"{MARK}"']],
    *[(name, "5") for name in ("user_message", "session_id", "role", "model", "openai_api_key", "instructions")],
    *[("user_message", raw) for raw in ["null", "true", "NaN", f'["{MARK}"]', f'{{"a": "{MARK}"}}']],
    *[(name, raw) for name in ("conversation_history", "memory_context") for raw in (f'"{MARK}"', "{}", "1", "true")],
]


@pytest.mark.parametrize(
    ("field", "raw"),
    [*[(name, f'"{value}"') for name, value in ONE_FIELD], *RAW_VALUES],
    ids=lambda value: value[:24],
)
def test_a_field_that_breaks_a_rule(client: FlaskClient, upstream: Upstream, field: str, raw: str) -> None:
    """JSON that breaks a rule is 422 and names exactly the field that breaks it; upstream is not called."""
    members = {"user_message": '"hi"', "free_mode": "true"} | {field: raw}
    answer = post(client, "{" + ", ".join(f'"{name}": {value}' for name, value in members.items()) + "}")
    problem = assert_problem(answer, 422, "validation_error")
    assert list(problem["errors"]["json"]) == [field]
    assert_nothing_echoed(answer)
    assert upstream.received == []


@pytest.mark.parametrize(
    ("field", "entry"),
    [
        *[("conversation_history", f'"{entry}"') for entry in [MARK, f"system: {MARK}", "", "user", "\\u0000user: hi"]],
        *[("conversation_history", raw) for raw in ["null", "5", "[]", "{}", f'{{"role": "user", "x": "{MARK}"}}']],
        ("conversation_history", f'{{"role": "system", "content": "{MARK}"}}'),
        ("conversation_history", f'{{"role": ["user"], "content": "{MARK}"}}'),
        ("conversation_history", f'{{"role": "user", "content": "{MARK}\\u0000"}}'),
        ("conversation_history", f'"user: {MARK}\\ud800"'),
        *[("memory_context", raw) for raw in ["null", "5", "[]", f'"{MARK}\\u0000"', f'"{MARK}\\ud800"']],
    ],
)
def test_a_list_entry_that_breaks_a_rule(client: FlaskClient, upstream: Upstream, field: str, entry: str) -> None:
    """A bad entry is named by its index; none is dropped silently."""
    good = '"user: hi"'
    answer = post(client, f'{{"user_message": "hi", "free_mode": true, "{field}": [{good}, {entry}, {good}]}}')
    problem = assert_problem(answer, 422, "validation_error")
    assert list(problem["errors"]["json"][field]) == ["1"]
    assert_nothing_echoed(answer)
    assert upstream.received == []


@pytest.mark.parametrize("root", ["[]", f'["{MARK}"]', f'"{MARK}"', "1", "null", "true", "NaN", "Infinity", "1e999"])
def test_a_root_that_is_not_an_object(client: FlaskClient, upstream: Upstream, root: str) -> None:
    """JSON that is not an object is 422."""
    answer = post(client, root)
    assert_problem(answer, 422, "validation_error")
    assert_nothing_echoed(answer)
    assert upstream.received == []


def test_several_broken_rules_are_named_at_once(client: FlaskClient) -> None:
    """A caller need not send again to learn of the second mistake."""
    problem = assert_problem(client.post(CHAT, json={"max_tokens": "5", "role": 5}), 422, "validation_error")
    assert set(problem["errors"]["json"]) == {"max_tokens", "role", "user_message"}
    body = {"user_message": " ", "max_tokens": 0, "temperature": 3}
    problem = assert_problem(client.post(CHAT, json=body), 422, "validation_error")
    assert set(problem["errors"]["json"]) == {"max_tokens", "temperature", "user_message"}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("colour", "colour"),
        ("User_message", "User_message"),
        ("n" * 10_000, "n" * 64),
        ("\\ud800", "?"),
        ("", ""),
    ],
    ids=lambda value: value[:12],
)
def test_an_unknown_field(client: FlaskClient, upstream: Upstream, name: str, shown: str) -> None:
    """An unknown field is an error that names it, cut at 64 characters, and not its value."""
    answer = post(client, f'{{"user_message": "hi", "free_mode": true, "{name}": "{MARK}"}}')
    problem = assert_problem(answer, 422, "validation_error")
    assert list(problem["errors"]["json"]) == [shown]
    assert_nothing_echoed(answer)
    assert upstream.received == []


def test_many_unknown_fields_make_no_huge_answer(client: FlaskClient) -> None:
    """An answer does not grow with the number of wrong names."""
    body = {f"{number}-{'n' * 70}": number for number in range(10_000)}
    answer = client.post(CHAT, json=body)
    assert_problem(answer, 422, "validation_error")
    assert len(answer.get_data()) < 10_000


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ('"images": [%s1]' % ("1," * 490_000), 422),
        ('"memory_context": ["x"%s]' % (',"x"' * 490_000), 422),
        ('"conversation_history": ["user:x"%s]' % (',"user:x"' * 490_000), 422),
        ('"conversation_history": [{}%s]' % (",{}" * 490_000), 422),
        (",".join(f'"{number}":1' for number in range(190_000)), 422),
        ('"response_schema": {"a": [1%s]}' % (",1" * 490_000), 422),
        ('"response_schema": ' + '{"a":' * 300 + "1" + "}" * 300, 422),
        ('"images": [%s1]' % ("1," * 500_001), 413),
        ('"system_message": "%s"' % ("," * 500_001), 413),
        (",".join(f'"{number}":1' for number in range(200_001)), 413),
        ('"role": "%s"' % ("가" * 1_000_000), 200),
    ],
    ids=lambda value: str(value)[:24],
)
@pytest.mark.parametrize("route", [CHAT, "/v1/chat/completions"])
def test_a_body_of_many_values_is_refused_at_once(client: FlaskClient, route: str, members: str, status: int) -> None:
    """However many there are, they keep the worker for a fraction of a second, in any list and any object."""
    body = f'{{"user_message": "hi", "free_mode": true, {members}}}'
    began = time.process_time()
    answer = client.post(route, data=body.encode(), content_type="application/json", headers={"X-Free-Mode": "true"})
    seconds = time.process_time() - began
    assert answer.status_code == (status if route == CHAT or status == 413 else 200)
    assert seconds < 1


OPTIONAL = {
    *("session_id", "system_message", "role", "instructions", "conversation_history", "memory_context"),
    *("max_tokens", "temperature", "model", "openai_api_key"),
}


def test_null_means_not_given(client: FlaskClient, upstream: Upstream) -> None:
    """Every optional field may be null, which is the same as leaving it out."""
    plain = client.post(CHAT, json={"user_message": "hi", "free_mode": True})
    nulls = client.post(CHAT, json={"user_message": "hi", "free_mode": True} | dict.fromkeys(OPTIONAL))
    assert (plain.status_code, nulls.status_code) == (200, 200)
    assert upstream.received[0].body == upstream.received[1].body
    answer = client.post(CHAT, json={"user_message": "hi", "openai_api_key": CALLER_KEY, "free_mode": None})
    assert answer.get_json()["api_key_source"] == "user_provided"


def test_free_mode_null_is_false(client: FlaskClient) -> None:
    """Not given means that the caller pays."""
    assert_problem(client.post(CHAT, json={"user_message": "hi", "free_mode": None}), 401, "api_key_required")


@pytest.mark.parametrize(
    "options",
    [
        {"content_type": "text/plain"},
        {"content_type": ""},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_type": "application/json; charset=utf-16"},
        {"content_type": "application/jsonx"},
        {"content_type": "garbage"},
        {"headers": {"Content-Encoding": "br"}},
        {"headers": {"Content-Encoding": "gzip, gzip"}},
        {"headers": {"Content-Encoding": MARK}},
    ],
    ids=str,
)
def test_a_body_of_another_media_type(client: FlaskClient, upstream: Upstream, options: dict[str, Any]) -> None:
    """Only application/json in UTF-8 is read; a missing type is refused, too. The answer says what can be decoded."""
    body = json.dumps({"user_message": MARK, "free_mode": True}).encode()
    answer = post(client, gzip.compress(body) if "headers" in options else body, **options)
    assert_problem(answer, 415, "unsupported_media_type")
    assert "gzip" in answer.headers["Accept-Encoding"]
    assert_nothing_echoed(answer)
    assert upstream.received == []


@pytest.mark.parametrize(
    "content_type",
    [
        *("application/json", "application/json; charset=UTF-8", "Application/JSON", "application/json;charset=utf8"),
        'application/json; charset="utf-8"',
    ],
)
def test_json_is_accepted_however_it_is_spelt(client: FlaskClient, content_type: str) -> None:
    """The media type is read as HTTP says: any case, with or without its charset."""
    assert post(client, b'{"user_message": "hi", "free_mode": true}', content_type=content_type).status_code == 200


TURN = b'{"user_message": "hi", "free_mode": true, "model": "m", "messages": []}'
OPTIONAL_MEMBERS = {"/v1/chat/completions": TURN, CHAT: b'{"user_message": "hi", "free_mode": true, "model": "m"}'}
CODED: list[tuple[str, Callable[[bytes], bytes], int]] = [
    ("identity", lambda body: body, 200),
    ("", lambda body: body, 200),
    ("gzip", gzip.compress, 200),
    ("GZip", gzip.compress, 200),
    ("x-gzip", gzip.compress, 200),
    ("gzip", lambda body: gzip.compress(body[:9]) + gzip.compress(body[9:]), 200),
    ("gzip", lambda body: gzip.compress(body)[:-9], 400),
    ("gzip", lambda body: gzip.compress(body) + b"x", 400),
    ("gzip", lambda body: body, 400),
    ("gzip", lambda body: b"", 400),
    ("gzip", lambda body: gzip.compress(b"") * 21 + gzip.compress(body), 400),
    ("zstd", zstd.compress, 200),
    ("ZSTD", lambda body: zstd.compress(body[:9]) + zstd.compress(body[9:]), 200),
    ("zstd", lambda body: zstd.compress(body)[:-9], 400),
    ("zstd", lambda body: zstd.compress(body) + b"x", 400),
    ("zstd", lambda body: body, 400),
    ("zstd", lambda body: b"", 400),
    ("zstd", lambda body: zstd.compress(b"") * 21 + zstd.compress(body), 400),
    ("zstd", lambda body: zstd.compress(body + b" " * 33_554_432), 413),
    ("zstd", lambda body: zstd.compress(b"[" + b"1," * 600_000 + b"1]"), 413),
    ("zstd", lambda body: wide_frame(body), 400),
    ("gzip", lambda body: gzip.compress(body + b" " * 33_554_432), 413),
    ("gzip", lambda body: gzip.compress(b"[" + b"1," * 600_000 + b"1]"), 413),
]


def wide_frame(body: bytes) -> bytes:
    """A frame that asks its decoder for 16 MB to look back on."""
    return zstd.compress(body + b" " * 2**23, options={zstd.CompressionParameter.window_log: 24})


@pytest.mark.parametrize("coded", [gzip.compress(b""), zstd.compress(b"")], ids=["gzip", "zstd"])
def test_a_coded_body_of_many_parts_takes_no_time(client: FlaskClient, coded: bytes) -> None:
    """Each part would lead to a copy of all that are left: minutes, for a body of the permitted size."""
    began = time.monotonic()
    data = coded * (33_000_000 // len(coded))
    coding = "zstd" if coded.startswith(b"\x28\xb5\x2f\xfd") else "gzip"
    answer = client.post(CHAT, data=data, content_type="application/json", headers={"Content-Encoding": coding})
    assert answer.status_code == 400
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("coding", "coded", "status"), CODED)
@pytest.mark.parametrize("route", [CHAT, "/v1/chat/completions"])
def test_a_coded_body(
    client: FlaskClient, upstream: Upstream, route: str, coding: str, coded: Callable[[bytes], bytes], status: int
) -> None:
    """It is decoded within the limit, in one member or several; upstream gets it decoded."""
    headers = {"Content-Encoding": coding, "X-Free-Mode": "true"}
    body = OPTIONAL_MEMBERS[route]
    answer = client.post(route, data=coded(body), content_type="application/json", headers=headers)
    assert answer.status_code == status, answer.get_data()
    if status == 200 and route != CHAT:
        assert upstream.received[0].body == body
        assert "content-encoding" not in {name.lower() for name in upstream.received[0].headers}
    assert len(upstream.received) == (status == 200)


def test_a_body_that_is_too_large_names_the_setting(client: FlaskClient) -> None:
    """So that an operator knows what to change."""
    for route in (CHAT, "/v1/responses"):
        answer = client.post(route, data=b" " * 33_554_433, content_type="application/json")
        assert answer.status_code == 413
        assert b"MAX_REQUEST_BYTES" in answer.get_data()


def test_a_body_over_the_limit(make_app: Any, upstream: Upstream) -> None:
    """One byte over MAX_REQUEST_BYTES is 413, by length and chunked alike; the limit itself is accepted."""
    client = make_app(max_request_bytes=2000).test_client()
    start, end = b'{"free_mode": true, "user_message": "', b'"}'
    fits = start + b"x" * (2000 - len(start) - len(end)) + end
    chunked = {"headers": {"Transfer-Encoding": "chunked"}, "environ_overrides": {"wsgi.input_terminated": True}}
    for body, status in [(fits, 200), (fits + b" ", 413)]:
        by_length = post(client, body)
        in_chunks = client.post(CHAT, input_stream=io.BytesIO(body), content_type="application/json", **chunked)
        assert (by_length.status_code, in_chunks.status_code) == (status, status)
    assert_problem(by_length, 413, "request_too_large")
    assert_problem(in_chunks, 413, "request_too_large")
    assert len(upstream.received) == 2


class BrokenStream(io.RawIOBase):
    """A body that breaks off: its caller is gone."""

    def readinto(self, buffer: Any) -> int:
        raise ConnectionResetError

    def read(self, size: int = -1) -> bytes:
        raise ConnectionResetError


@pytest.mark.parametrize("route", [CHAT, "/v1/chat/completions"])
def test_a_body_that_breaks_off(client: FlaskClient, route: str) -> None:
    """It is the caller's fault and no bug of ours."""
    environ = {"wsgi.input": BrokenStream(), "wsgi.input_terminated": True, "CONTENT_LENGTH": "20"}
    answer = client.post(route, content_type="application/json", environ_overrides=environ)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        *("/api", "/api/v2/chat", "/api/v1/chat/", f"/{MARK}", f"/docs/{MARK}.js", "/docs/%00"),
        *("/docs/../app/config.py", "/docs/%2e%2e/%2e%2e/__init__.py", "/%ff", "/api/v1/system/gpu"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a_wrong_path(client: FlaskClient, path: str, method: str) -> None:
    """Nothing is at other addresses, whatever the method; the address is not repeated."""
    answer = client.open(path, method=method)
    if answer.status_code == 405:
        assert path.startswith("/docs/")
        return
    assert_problem(answer, 404, "not_found")
    assert_nothing_echoed(answer)


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "/v1/chat/completions"),
        ("//v1/chat/completions", "/v1/chat/completions"),
        ("/v1//chat/completions", "/v1/chat/completions"),
        ("/v1/chat/completions/", "/v1/chat/completions"),
        ("/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/gpt-4o/chat/completions", "/v1/chat/completions"),
        ("/responses", "/v1/responses"),
        ("/v1/responses/", "/v1/responses"),
        ("/api/v1/embeddings", "/v1/embeddings"),
        ("/models", "/v1/models"),
        ("/completions", "/v1/completions"),
        ("/api/v1/audio/speech", "/v1/audio/speech"),
        ("/v1/v1/messages", "/v1/messages"),
        ("/messages/count_tokens", "/v1/messages/count_tokens"),
        *[(f"/v1/{name}", "") for name in ("audio/translations", "images/edits", "files", "batches", "")],
        *[(path, "") for path in ("/v1", "/v1/responses/resp_1", "/v1/responses/input_tokens", "/nope")],
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_address_that_is_nearly_right(
    client: FlaskClient, upstream: Upstream, database_url: str, path: str, meant: str, scheme: str
) -> None:
    """404 as JSON with a hint, in the shape of the route's errors; never a redirect, which would lose https. Nothing
    is recorded, and upstream is not asked."""
    headers = {"X-Forwarded-Proto": scheme, "Authorization": f"Bearer {CALLER_KEY}"}
    for method in ("POST", "GET"):
        answer = client.open(f"http://localhost{path}", method=method, json={}, headers=headers)
        assert answer.status_code == 404
        document = answer.get_json()
        assert ("error" in document) == (path == "/v1" or path.startswith("/v1/"))
        message = document["error"]["message"] if "error" in document else document["detail"]
        assert (f"Perhaps {meant} is meant: the base_url" in message) if meant else "base_url" not in message
    assert not rows(database_url)
    assert not upstream.received


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        *[
            ("/chat", "/api/v1/chat"),
            ("/api/v1/chat/", "/api/v1/chat"),
            ("/api/v2/chat/preview", "/api/v1/chat/preview"),
        ],
        *[(path, "/readyz") for path in ("/healthz", "/api/v1/health", "/readyz/")],
        *[("/swagger", "/docs"), ("/v1/openapi.json", "/openapi.json"), ("/nope", "/docs"), ("/v1/files", "/docs")],
    ],
)
def test_every_wrong_address_leads_somewhere(client: FlaskClient, path: str, meant: str) -> None:
    """To the route that was meant, or to the list of all, in both languages."""
    answer = client.get(path)
    assert answer.status_code == 404
    document = answer.get_json()
    for said in (
        [document["error"]["message"]] if "error" in document else [document["detail"], document["error_message"]]
    ):
        assert re.search(rf" {meant}( is meant$|$|인가요|에 있)", said), said


def test_the_root_needs_no_redirect(client: FlaskClient) -> None:
    """With and without its slash."""
    assert [client.get(path).status_code for path in ("/api/v1", "/api/v1/")] == [200, 200]


GET_ROUTES = [
    *("/livez", "/readyz", "/api/v1/", "/docs", "/docs/start.js", "/docs/swagger-ui.css", "/openapi.json"),
    *(f"/api/v1/system/{name}" for name in ("info", "status", "cpu", "memory", "disk")),
]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        *[(method, CHAT, {"POST", "OPTIONS"}) for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "TRACE", "FOO")],
        *[(method, path, {"GET", "HEAD", "OPTIONS"}) for path in GET_ROUTES for method in ("POST", "DELETE")],
    ],
)
def test_a_wrong_method(client: FlaskClient, method: str, path: str, allowed: set[str]) -> None:
    """The answer says in `Allow` which methods there are."""
    answer = client.open(path, method=method)
    assert set(answer.headers["Allow"].split(", ")) == allowed
    assert answer.status_code == 405
    if method != "HEAD":
        assert_problem(answer, 405, "method_not_allowed")


@pytest.mark.parametrize("path", GET_ROUTES)
def test_head_is_get_without_its_body(client: FlaskClient, path: str) -> None:
    """HEAD gives the status and the headers of GET."""
    with client.get(path) as full, client.head(path) as head:
        assert (head.status_code, head.mimetype, head.get_data()) == (200, full.mimetype, b"")
        assert head.headers["X-Request-ID"]


@pytest.mark.parametrize("path", [CHAT, *GET_ROUTES])
def test_options_tells_the_methods(client: FlaskClient, upstream: Upstream, path: str) -> None:
    """OPTIONS answers 200 with `Allow` and does nothing else."""
    answer = client.options(path)
    assert (answer.status_code, answer.get_data()) == (200, b"")
    assert "OPTIONS" in answer.headers["Allow"]
    assert upstream.received == []


BAD_KEYS = [
    *(f"{MARK} {MARK}", f"{MARK}\r\nX-Evil: 1", f"{MARK}\n", f"{MARK}\x1b", f"{MARK}\xe9", f"{MARK}열쇠"),
    *("a key", MARK + "k" * 100_000, f"{MARK}\x00"),
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: repr(key[:20]))
def test_a_malformed_key_in_the_header(client: FlaskClient, upstream: Upstream, key: str) -> None:
    """A key that cannot travel in a header is refused before anything is called, free mode or not."""
    header = {"HTTP_X_OPENAI_API_KEY": key.encode("utf-8").decode("latin-1")}
    answer = client.post(CHAT, json={"user_message": "hi", "free_mode": True}, environ_overrides=header)
    problem = assert_problem(answer, 422, "validation_error")
    assert list(problem["errors"]["headers"]) == ["X-OpenAI-Api-Key"]
    assert_nothing_echoed(answer)
    assert upstream.received == []


@pytest.mark.parametrize("key", ["a key", f"{MARK}\n", f"{MARK} "])
def test_a_malformed_key_that_is_overridden(client: FlaskClient, upstream: Upstream, key: str) -> None:
    """A good key in the header does not hide a malformed one in the body."""
    answer = client.post(
        CHAT, json={"user_message": "hi", "openai_api_key": key}, headers={"X-OpenAI-Api-Key": CALLER_KEY}
    )
    assert list(assert_problem(answer, 422, "validation_error")["errors"]["json"]) == ["openai_api_key"]
    assert_nothing_echoed(answer)
    assert upstream.received == []


@pytest.mark.parametrize(
    "given", ["", "a b", f"{MARK}\r\nX-Evil: 1", f"{MARK}\n", f"{MARK}\x1b[31m", "é", "a" * 65, MARK * 100_000, "a/b"]
)
def test_a_request_id_that_is_not_one_is_replaced(client: FlaskClient, given: str) -> None:
    """A new id is made, in the header and in the body."""
    answer = client.get("/nowhere", environ_overrides={"HTTP_X_REQUEST_ID": given})
    assert_problem(answer, 404, "not_found")
    assert NEW_REQUEST_ID.fullmatch(answer.headers["X-Request-ID"])
    assert_nothing_echoed(answer)


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "0" * 64])
def test_a_callers_request_id_is_kept(client: FlaskClient, given: str) -> None:
    """The caller's id is on the answer, good or bad."""
    assert client.get("/livez", headers={"X-Request-ID": given}).headers["X-Request-ID"] == given
    assert assert_problem(client.get("/x", headers={"X-Request-ID": given}), 404, "not_found")["request_id"] == given


@pytest.mark.parametrize(
    ("session_id", "echoed"),
    [('"s-1"', "s-1"), ('"' + "s" * 128 + '"', "s" * 128), ('"세션"', "세션"), ('"\\ud83d\\ude00"', "😀"), ('""', "")]
    + [(raw, "") for raw in ("null", "5", '["s"]', '"' + "s" * 129 + '"', '"a\\ud800"', '"a\\u0000"')],
    ids=lambda value: value[:16],
)
def test_a_problem_echoes_a_usable_session_id(client: FlaskClient, session_id: str, echoed: str) -> None:
    """The session id comes back with a problem if a good request could have had it."""
    answer = post(client, f'{{"user_message": "hi", "max_tokens": 0, "session_id": {session_id}}}')
    assert assert_problem(answer, 422, "validation_error")["session_id"] == echoed
