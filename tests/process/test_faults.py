"""Everything upstream can do wrong to a plain chat turn: faults.md, section 1, row by row, whoever's key pays."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app.failures import FAILURES
from app.upstreams.slots import Slots
from app.web.services import service
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.upstream import (
    Answer,
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
SECRET = "UPSTREAM-SECRET-TEXT"
TIMEOUT = 1.0  # Not less: the good request after a fault has this long, too, on a machine that is busy.
PATIENT = 3.0  # Leaves room for the pauses between retries.
ROOT = Path(__file__).parent.parent.parent
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

CALLER = {"openai_api_key": CALLER_KEY}
SERVER = {"free_mode": True}


class Want(NamedTuple):
    """The problem that a fault must become. `calls`: how often upstream was called."""

    status: int
    code: str
    calls: int = 1
    retry_after: str | None = None


def refusal(status: int, code: str | None = None, **members: Any) -> Answer:
    """An upstream error with words of its own."""
    return reply(status, error_document(code, **members))


def limited(retry_after: str) -> Answer:
    """429 with a `Retry-After`."""
    return reply(429, error_document("rate_limit_exceeded"), {"Retry-After": retry_after})


def drip(head: bytes) -> Answer:
    """One byte per 0.1 s behind `head`: each read is well within the deadline, their sum is not."""
    return pieces([head, *[b" "] * 50], pause=0.1)


def ok_body(content: bytes, content_type: str = "application/json") -> Answer:
    """200 with these bytes, whatever they are."""
    return reply(200, content, {"Content-Type": content_type})


def document(**changes: Any) -> Answer:
    """A finished answer with members changed."""
    return reply(200, response_document(SECRET) | changes)


REJECTED, QUOTA = "server_credentials_rejected", "server_quota_exhausted"
BAD, LOST = Want(502, "upstream_bad_response"), Want(502, "upstream_connection_error")
FAILED, SLOW = Want(502, "upstream_failed"), Want(504, "upstream_timeout")
MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": 5}]}

OTHER_REFUSALS = (405, 406, 408, 409, 410, 415, 418, 425, 451, 499)
# id, upstream's answers, the problem with the caller's key, and with the server's when that differs.
FAULTS: list[tuple[str, list[Answer], Want, Want | None]] = [
    ("429", [limited("7")], Want(429, "upstream_rate_limited", 1, "7"), None),
    ("429 no wait said", [refusal(429)], Want(429, "upstream_rate_limited", 1, "1"), None),
    ("429 wait 3600", [limited("3600")], Want(429, "upstream_rate_limited", 1, "120"), None),
    ("429 wait -1", [limited("-1")], Want(429, "upstream_rate_limited", 1, "1"), None),
    ("429 wait abc", [limited("abc")], Want(429, "upstream_rate_limited", 1, "1"), None),
    ("429 wait 1e309", [limited("1e309")], Want(429, "upstream_rate_limited", 1, "120"), None),
    ("429 wait nan", [limited("nan")], Want(429, "upstream_rate_limited", 1, "1"), None),
    ("429 past date", [limited("Wed, 21 Oct 2015 07:28:00 GMT")], Want(429, "upstream_rate_limited", 1, "1"), None),
    ("429 year 9999", [limited("Fri, 31 Dec 9999 23:59:59 GMT")], Want(429, "upstream_rate_limited", 1, "120"), None),
    ("429 date too big", [limited("Fri, 31 Dec 99999999999 1:1:1")], Want(429, "upstream_rate_limited", 1, "1"), None),
    (
        "429 quota",
        [refusal(429, "insufficient_quota")],
        Want(429, "insufficient_quota", 1, "60"),
        Want(503, QUOTA, 1, "60"),
    ),
    ("401", [refusal(401, "invalid_api_key")], Want(401, "api_key_rejected"), Want(503, REJECTED, 1, "60")),
    ("402", [refusal(402)], Want(429, "insufficient_quota", 1, "60"), Want(503, QUOTA, 1, "60")),
    ("403", [refusal(403)], Want(403, "upstream_forbidden"), None),
    ("403 of a key", [refusal(403, "invalid_api_key")], Want(403, "upstream_forbidden"), None),
    ("403 page", [reply(403, b"<html>no", {"Content-Type": "text/html"})], Want(403, "upstream_forbidden"), None),
    ("400", [refusal(400, "bad_thing")], Want(400, "upstream_rejected_request"), None),
    ("404", [refusal(404)], Want(404, "upstream_rejected_request"), None),
    ("404 model", [refusal(404, "model_not_found")], Want(404, "model_not_found"), None),
    ("422", [refusal(422)], Want(422, "upstream_rejected_request"), None),
    ("400 not JSON", [reply(400, SECRET.encode())], Want(400, "upstream_rejected_request"), None),
    ("400 list", [reply(400, [SECRET])], Want(400, "upstream_rejected_request"), None),
    ("400 deep", [reply(400, b"[" * 100_000)], Want(400, "upstream_rejected_request"), None),
    ("400 bad UTF-8", [reply(400, b'{"error":"\xff"}')], Want(400, "upstream_rejected_request"), None),
    ("413", [refusal(413)], Want(413, "upstream_rejected_request"), None),
    *[(str(status), [refusal(status)], Want(400, "upstream_rejected_request"), None) for status in OTHER_REFUSALS],
    *[(str(status), [refusal(status)], Want(502, "upstream_bad_response"), None) for status in (407, 421, 426)],
    *[(str(status), [refusal(status)], Want(502, "upstream_error"), None) for status in (501, 504, 505, 524)],
    ("500", [refusal(500)] * 3, Want(502, "upstream_error", 3), None),
    ("502", [reply(502, f"<html>{SECRET}".encode())] * 3, Want(502, "upstream_error", 3), None),
    ("503", [refusal(503)] * 3, Want(503, "upstream_unavailable", 3, "1"), None),
    (
        "529",
        [reply(529, error_document(), {"Retry-After": "3600"})],
        Want(503, "upstream_unavailable", 1, "120"),
        None,
    ),
    ("reset", [reset()], LOST, None),
    ("closed without a byte", [pieces([])], LOST, None),
    ("garbage status line", [pieces([b"\x00\xffNOT HTTP " + SECRET.encode() + b"\r\n\r\n"])], LOST, None),
    ("1,000 headers", [pieces([OK, *[b"X-A: b\r\n"] * 1000, b"\r\n"])], LOST, None),
    ("endless header", [pieces([OK, b"X-A: " + b"a" * 200_000])], LOST, None),
    ("short body", [pieces([OK + b"Content-Length: 999\r\n\r\n{"])], LOST, None),
    ("short chunked body", [pieces([OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{"])], LOST, None),
    ("bad chunk", [pieces([OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"])], LOST, None),
    ("bad gzip", [reply(200, b"not gzip", {"Content-Encoding": "gzip"})], BAD, None),
    ("silence", [silence()], SLOW, None),
    ("drip in the status line", [drip(b"HTTP/1.1 200 ")], SLOW, None),
    ("drip in the headers", [drip(OK + b"X-A: ")], SLOW, None),
    ("drip in the body", [drip(OK + b"Content-Length: 999\r\n\r\n")], SLOW, None),
    ("drip in an error's body", [drip(b"HTTP/1.1 500 X\r\nContent-Length: 999\r\n\r\n")], SLOW, None),
    ("endless 100 Continue", [pieces([b"HTTP/1.1 100 C\r\n\r\n"] * 500, pause=0.01)], SLOW, None),
    ("bad JSON", [ok_body(SECRET.encode())], BAD, None),
    ("empty", [ok_body(b"")], BAD, None),
    ("204", [pieces([b"HTTP/1.1 204 X\r\n\r\n"], close=False)], BAD, None),
    ("HTML", [ok_body(f"<html>{SECRET}</html>".encode(), "text/html")], BAD, None),
    ("null", [ok_body(b"null")], BAD, None),
    ("list", [ok_body(b"[]")], BAD, None),
    ("string", [ok_body(f'"{SECRET}"'.encode())], BAD, None),
    ("wrong shape", [reply(200, {"choices": [SECRET]})], BAD, None),
    ("output is no list", [document(output={"a": SECRET})], BAD, None),
    ("items of wrong types", [document(output=[None, 5, "x", {"type": "message", "content": 5}])], BAD, None),
    ("text is a number", [document(output=[MESSAGE])], BAD, None),
    ("no text", [document(output=[])], BAD, None),
    ("bad UTF-8", [ok_body(b'{"output":"\xff"}')], BAD, None),
    ("100,000 levels", [ok_body(b"[" * 100_000)], BAD, None),
    ("5,000-digit number", [ok_body(b'{"output":' + b"9" * 5000 + b"}")], BAD, None),
    ("status failed", [document(status="failed", error={"code": "server_error", "message": SECRET})], FAILED, None),
    ("failed without a word", [document(status="failed")], FAILED, None),
    ("status cancelled", [document(status="cancelled", error=SECRET)], FAILED, None),
]


def chat(app: Flask, payer: dict[str, Any], message: str = "hi") -> TestResponse:
    """One chat turn."""
    return app.test_client().post(CHAT, json={"user_message": message, **payer})


def slots_in_use(app: Flask) -> int:
    """The in-flight gauge."""
    return service(Slots, app).in_use


def check_good_request(app: Flask, payer: dict[str, Any]) -> None:
    """After a fault nothing is held, and the next request gets its own answer."""
    assert slots_in_use(app) == 0
    nonce = uuid.uuid4().hex
    good = chat(app, payer, nonce)
    assert (good.status_code, good.get_json()["response_text"]) == (200, nonce)
    assert slots_in_use(app) == 0


def check_problem(answer: TestResponse, want: Want) -> dict[str, Any]:
    """The answer is the wanted problem, complete; it quotes upstream for a refusal only, and in one place only."""
    problem = answer.get_json()
    assert (answer.status_code, problem["code"], problem["status"]) == (want.status, want.code, want.status)
    assert answer.mimetype == "application/problem+json"
    assert problem["error_message"].startswith(FAILURES[problem["code"]].told)
    assert problem["success"] is False
    assert answer.headers.get("Retry-After") == want.retry_after
    assert (want.retry_after is not None) == (answer.status_code in {429, 503})
    told = problem.pop("upstream_message", None)
    assert told is None or problem["status"] < 500
    seen = str(problem) + str(answer.headers)
    assert not [secret for secret in (SECRET, CALLER_KEY, SERVER_KEY) if secret in seen]
    assert answer.headers["X-Should-Retry"] == str(problem["retryable"]).lower()
    return problem


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail when the block takes longer."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.mark.parametrize("payer", [CALLER, SERVER], ids=["caller", "server"])
@pytest.mark.parametrize(
    ("answers", "want", "want_server"), [row[1:] for row in FAULTS], ids=[row[0] for row in FAULTS]
)
def test_fault(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    answers: list[Answer],
    want: Want,
    want_server: Want | None,
    payer: dict[str, Any],
) -> None:
    """A fault becomes its problem in time, holds nothing, and harms no later request."""
    want = (payer is SERVER and want_server) or want
    app = make_app(request_timeout=TIMEOUT if want.calls == 1 else PATIENT)
    upstream.script(*answers)
    with within(PATIENT if want.calls > 1 else TIMEOUT + 1):
        answer = chat(app, payer)
    check_problem(answer, want)
    assert [received.key for received in upstream.received] == [payer.get("openai_api_key", SERVER_KEY)] * want.calls
    if want.code == "api_key_rejected":
        payer = {"openai_api_key": CALLER_KEY + "-other"}
    check_good_request(app, payer)


@pytest.mark.parametrize("payer", [CALLER, SERVER], ids=["caller", "server"])
@pytest.mark.parametrize("status", [500, 502, 503, 521, 522, 523, 529])
def test_a_passing_failure_is_cured_by_a_retry(
    make_app: Callable[..., Flask], upstream: Upstream, status: int, payer: dict[str, Any]
) -> None:
    """One failure and then an answer is an answer, with the same bytes and the same key."""
    upstream.script(refusal(status))
    answer = chat(make_app(), payer, "nonce")
    assert (answer.status_code, answer.get_json()["response_text"]) == (200, "nonce")
    first, second = upstream.received
    assert (first.body, first.key) == (second.body, second.key)


@pytest.mark.parametrize(
    ("answers", "status"), [([limited("1")], 200), ([limited("1")] * 3, 429)], ids=["cured", "limited again"]
)
def test_a_rate_limit_is_retried_once_after_the_wait(
    make_app: Callable[..., Flask], upstream: Upstream, answers: list[Answer], status: int
) -> None:
    """A rate limit whose wait fits the deadline costs one more call, not before upstream wants it."""
    upstream.script(*answers)
    assert chat(make_app(request_timeout=2.5), SERVER).status_code == status
    first, second = upstream.received
    assert second.came - first.came >= 1


@pytest.mark.parametrize("answers", [[silence()], [refusal(503), silence()]], ids=["first attempt", "second attempt"])
def test_the_deadline_is_one_for_all_attempts(
    make_app: Callable[..., Flask], upstream: Upstream, answers: list[Answer]
) -> None:
    """Retries share the deadline: they do not start it anew."""
    upstream.script(*answers)
    with within(1.5):
        check_problem(chat(make_app(request_timeout=0.5), SERVER), SLOW)


@pytest.mark.parametrize("payer", [CALLER, SERVER], ids=["caller", "server"])
def test_refused_connection(make_app: Callable[..., Flask], payer: dict[str, Any]) -> None:
    """Nobody listens: a connection error after the retries; when somebody does, the same app answers."""
    with Upstream() as gone:
        pass
    app = make_app(openai_base_url=gone.base_url, request_timeout=PATIENT)
    with within(PATIENT):
        check_problem(chat(app, payer), LOST)
    with Upstream(port=gone.port):
        check_good_request(app, payer)


def test_the_log_says_once_why_there_is_no_connection(
    make_app: Callable[..., Flask], caplog: pytest.LogCaptureFixture
) -> None:
    """Refused and unknown host look alike to a caller; the operator has to know which."""
    with Upstream() as gone:
        pass
    hosts = {
        gone.base_url: "connection refused",
        "http://does-not-exist.invalid/v1": "(unknown host|name lookup failed)",
    }
    for base_url, reason in hosts.items():
        caplog.clear()
        app = make_app(openai_base_url=base_url, request_timeout=PATIENT)
        for _ in range(2):
            chat(app, SERVER)
        (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert re.fullmatch(f"cannot connect to upstream {re.escape(base_url)}: {reason}", told)


@pytest.mark.parametrize("payer", [CALLER, SERVER], ids=["caller", "server"])
def test_dns_failure(make_app: Callable[..., Flask], payer: dict[str, Any]) -> None:
    """A host nobody knows is a connection error that does not name the host."""
    app = make_app(openai_base_url="http://does-not-exist.invalid/v1", request_timeout=5)
    with within(6):
        answer = chat(app, payer)
    check_problem(answer, LOST)
    assert "invalid" not in answer.get_data(as_text=True)
    assert slots_in_use(app) == 0


@pytest.mark.parametrize("payer", [CALLER, SERVER], ids=["caller", "server"])
@pytest.mark.parametrize("filled", [False, True], ids=["half-open", "connect hangs"])
def test_peer_that_never_takes_the_connection(
    make_app: Callable[..., Flask], payer: dict[str, Any], filled: bool
) -> None:
    """A kernel that accepts for a dead process, or drops our SYN, costs no more than the deadline."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2 * filled):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        app = make_app(openai_base_url=f"http://127.0.0.1:{listener.getsockname()[1]}/v1", request_timeout=TIMEOUT)
        with within(TIMEOUT + 1):
            check_problem(chat(app, payer), SLOW)
        assert slots_in_use(app) == 0


@pytest.mark.parametrize("payer", [CALLER, SERVER], ids=["caller", "server"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    caplog: pytest.LogCaptureFixture,
    status: int,
    payer: dict[str, Any],
) -> None:
    """A redirect is not followed: the other host gets nothing, neither the prompt nor the key."""
    app = make_app(request_timeout=TIMEOUT)
    with Upstream() as elsewhere:
        upstream.script(reply(status, headers={"Location": elsewhere.base_url + "/responses"}))
        problem = check_problem(chat(app, payer), BAD)
        assert problem["retryable"] is False
        (told,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert f"HTTP {status}, to http://127.0.0.1:{elsewhere.port}; check OPENAI_BASE_URL" in told
        assert (len(upstream.received), elsewhere.connections) == (1, 0)
    check_good_request(app, payer)


@pytest.mark.parametrize(
    ("param", "field"),
    [("max_output_tokens", "max_tokens"), ("model", "model"), ("input[0].content", None), (SECRET, None), (5, None)],
)
def test_rejected_parameter(make_app: Callable[..., Flask], upstream: Upstream, param: Any, field: str | None) -> None:
    """Upstream's `param` is passed on under our name for it, and only when it is one of our fields."""
    upstream.script(refusal(400, "bad_value", param=param))
    problem = check_problem(chat(make_app(), SERVER), Want(400, "upstream_rejected_request"))
    assert (problem.get("param"), problem["upstream_code"]) == (field, "bad_value")


def test_rejected_server_key_is_an_operators_alarm(
    make_app: Callable[..., Flask], upstream: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """That upstream refuses the server's key is logged at ERROR, without the key; a caller's is not."""
    app = make_app()
    upstream.script(refusal(401), refusal(401))
    chat(app, CALLER)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
    chat(app, SERVER)
    (alarm,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "OPENAI_API_KEY" in alarm.getMessage()
    assert SERVER_KEY not in caplog.text


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"reason": "max_output_tokens"}, "length"),
        ({"reason": "content_filter"}, "content_filter"),
        (None, "length"),
        ("?", "length"),
    ],
)
def test_incomplete(make_app: Callable[..., Flask], upstream: Upstream, details: Any, reason: str) -> None:
    """Status `incomplete` with text is an answer whose finish reason says why it ends."""
    upstream.script(text("half", status="incomplete", incomplete_details=details))
    answer = chat(make_app(), SERVER)
    assert (answer.status_code, answer.get_json()["finish_reason"]) == (200, reason)


@pytest.mark.parametrize("payer", [CALLER, SERVER], ids=["caller", "server"])
def test_lone_surrogate(make_app: Callable[..., Flask], upstream: Upstream, payer: dict[str, Any]) -> None:
    """Half a character in upstream's text is replaced; whole pairs stay."""
    app = make_app()
    upstream.script(text("a\ud800b \U0001f600 \udc00", id="r\ud800", model="m\udfff"))
    body = chat(app, payer).get_json()
    assert (body["response_text"], body["response_id"], body["model"]) == (
        "a\ufffdb \U0001f600 \ufffd",
        "r\ufffd",
        "m\ufffd",
    )
    check_good_request(app, payer)


@pytest.mark.parametrize(
    "changes",
    [
        {"usage": None},
        {"usage": {"input_tokens": -1, "output_tokens": 1e309, "total_tokens": "many"}},
        {"created_at": 10**30, "temperature": 1e400, "text": 5, "model": None, "id": 5},
        {"created_at": "today", "temperature": "hot", "text": {"format": 5}, "model": []},
    ],
    ids=["no usage", "absurd usage", "absurd figures", "absurd types"],
)
def test_absurd_members_beside_a_good_text(
    make_app: Callable[..., Flask], upstream: Upstream, changes: dict[str, Any]
) -> None:
    """What is nonsense beside the text is left out of the answer; the text still counts."""
    upstream.script(reply(200, response_document("fine") | changes))
    answer = chat(make_app(), SERVER)
    body = json.loads(answer.data, parse_constant=pytest.fail)
    assert (answer.status_code, body["response_text"], body["model"] != "") == (200, "fine", True)
    assert min(body["input_tokens"], body["output_tokens"], body["total_tokens_used"]) >= 0


def test_connections_are_used_again_and_closed_ones_are_not(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Good answers share a connection; one that upstream closed after its answer fails no later request."""
    app = make_app()
    for _ in range(5):
        check_good_request(app, SERVER)
    assert upstream.connections == 1
    body = json.dumps(response_document("bye")).encode()
    upstream.script(pieces([OK + b"Content-Length: %d\r\n\r\n" % len(body) + body]))
    assert chat(app, SERVER).status_code == 200
    time.sleep(0.05)
    check_good_request(app, SERVER)
    assert upstream.connections == 2


def test_upstreams_request_id_is_passed_on(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Good and bad answers carry upstream's own request id, one that can be a header."""
    app = make_app()
    for status, given, wanted in [(200, "req_1", "req_1"), (400, "req_2", "req_2"), (200, "x" * 200, None)]:
        upstream.script(reply(status, response_document("hi"), {"X-Request-ID": given}))
        assert chat(app, SERVER).headers.get("X-Upstream-Request-ID") == wanted


def flood(head: bytes) -> Answer:
    """50 MB behind `head`."""
    return pieces([head + b"\r\n", *[b"x" * 65536] * 800])


PROBE = """
import json, re, sys
from app.config import Config
from app.errors import ServiceException
from app.models import ChatRequest
from app.services.chat import ChatService

def resident_mb(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024

def ask():
    try:
        return service.process_chat_request(ChatRequest(user_message="hi", free_mode=True)).response_text
    except ServiceException as error:
        return error.error_code

service = ChatService(config=Config(openai_api_key="sk-server-0123456789", openai_base_url=sys.argv[1]))
ask()
before = resident_mb("VmRSS")
outcomes = [(ask(), resident_mb("VmHWM") - before, ask()) for _ in range(int(sys.argv[2]))]
print(json.dumps([outcomes, service._exchange.slots.in_use]))
"""


def test_more_than_we_hold(upstream: Upstream) -> None:
    """An answer of any size is refused while the process grows by at most 20 MB, and the next request is answered."""
    bomb = gzip.compress(bytes(100 << 20))
    floods = {
        "50 MB": flood(OK + b"Content-Length: 52428800\r\n"),
        "50 MB without length": flood(OK),
        "50 MB of an error": flood(b"HTTP/1.1 400 X\r\n"),
        "50 MB of JSON": ok_body(b'{"output":"' + b"x" * (50 << 20) + b'"}'),
        "gzip bomb": reply(200, bomb, {"Content-Encoding": "gzip"}),
        "gzip bomb in gzip": reply(200, gzip.compress(bomb), {"Content-Encoding": "gzip, gzip"}),
        "gzip bomb of an error": reply(400, bomb, {"Content-Encoding": "gzip"}),
    }
    upstream.script(text("hi"), *itertools.chain.from_iterable((answer, text("hi")) for answer in floods.values()))
    probe = subprocess.run(
        [sys.executable, "-c", PROBE, upstream.base_url, str(len(floods))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert probe.returncode == 0, probe.stderr
    outcomes, in_use = json.loads(probe.stdout)
    assert in_use == 0
    for name, (code, grown_mb, after) in zip(floods, outcomes, strict=True):
        assert (name, code, grown_mb <= 20, after) == (name, "upstream_bad_response", True, "hi"), grown_mb
