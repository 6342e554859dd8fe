"""A refusal of upstream's reaches who asked: in its own words, without secrets, and only where the caller can act."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.ledger.accounts import Accounts, Limits
from app.web.services import service
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.unit.test_refusals import NO_SUCH_MODEL
from tests.upstream import Received, Upstream, echo, reply, response_document

CHAT, COMPLETIONS = "/api/v1/chat", "/v1/chat/completions"
ROUTES = pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
OWN = {"X-OpenAI-Api-Key": CALLER_KEY}
FREE = {"X-Free-Mode": "true"}


def ask(client: FlaskClient, path: str, headers: dict[str, str], **members: Any) -> TestResponse:
    """One chat turn on either route; in free mode when the headers say so."""
    native: dict[str, Any] = {"user_message": "hi", "free_mode": headers.get("X-Free-Mode") == "true"}
    passed = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    return client.post(path, json=(native if path == CHAT else passed) | members, headers=headers)


def told(answer: TestResponse) -> tuple[Any, Any]:
    """Code and message of upstream as the answer of either route gives them."""
    document = answer.get_json()
    if "error" in document:
        return document["error"]["code"], document["error"]["message"]
    return document.get("upstream_code"), document.get("upstream_message")


def error(**members: Any) -> dict[str, Any]:
    """An error document of OpenAI's shape."""
    return {"error": members}


INPUT = {"loc": ["body", "n"], "msg": "must be 1", "type": "value_error", "input": 9}
BALANCE = error(message="Insufficient Balance", code="unknown_error")
BAD_INPUT = {"object": "error", "message": "no", "type": "BadRequestError", "code": 40001}

# upstream's status, its document, its code and its message as the caller has to see them
WORDS: list[tuple[int, Any, str | None, str]] = [
    (400, error(message="too long", type="t", code="context_length_exceeded"), "context_length_exceeded", "too long"),
    (400, error(message="flagged", type=None, code="content_filter"), "content_filter", "flagged"),
    (403, error(message="flagged", code=403, metadata={"reasons": ["violence"]}), "403", "flagged"),
    (413, error(message="too large", code="request_too_large"), "request_too_large", "too large"),
    (418, error(message="teapot", code="teapot"), "teapot", "teapot"),
    (422, {"detail": [INPUT]}, None, "n: must be 1"),
    (400, [error(code=400, message="no", status="INVALID_ARGUMENT")], "INVALID_ARGUMENT", "no"),
    (400, BAD_INPUT, "40001", "no"),
    (429, error(message="slow down", code="rate_limit_exceeded"), "rate_limit_exceeded", "slow down"),
    (402, BALANCE, "unknown_error", "Insufficient Balance"),
    (401, error(message="Incorrect API key", code="invalid_api_key"), "invalid_api_key", "Incorrect API key"),
]


@ROUTES
@pytest.mark.parametrize(("status", "document", "code", "message"), WORDS)
def test_upstreams_words_reach_who_asked(
    client: FlaskClient, upstream: Upstream, path: str, status: int, document: Any, code: str | None, message: str
) -> None:
    """Its code and its message, in every shape of error document; nobody is told to repeat what was refused."""
    upstream.default = reply(status, document)
    answer = ask(client, path, OWN)
    got_code, got_message = told(answer)
    assert got_message == message
    assert code is None or got_code == code
    assert answer.status_code in {status, 400, 429}
    if status != 429:
        assert answer.headers["X-Should-Retry"] == "false"
        assert len(upstream.received) == 1


def test_the_shape_of_openai_keeps_type_and_param(client: FlaskClient, upstream: Upstream) -> None:
    """Programs look at all four members."""
    document = error(message="m", type="image_parse_error", param="tools[0].name", code="invalid_image")
    upstream.default = reply(400, document)
    assert ask(client, COMPLETIONS, OWN).get_json() == document


@ROUTES
@pytest.mark.parametrize("document", NO_SUCH_MODEL.values(), ids=NO_SUCH_MODEL)
@pytest.mark.parametrize("status", [400, 404])
def test_no_such_model(client: FlaskClient, upstream: Upstream, path: str, status: int, document: Any) -> None:
    """Is `model_not_found` on every route, whatever upstream's code and words for it are."""
    upstream.default = reply(status, document)
    answer = ask(client, path, OWN)
    assert answer.status_code == status
    body = answer.get_json()
    assert (body["code"] if path == CHAT else body["error"]["code"]) == "model_not_found"


@ROUTES
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429])
@pytest.mark.parametrize("headers", [OWN, FREE], ids=["caller", "server"])
def test_no_secret_leaves_with_them(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    caplog: pytest.LogCaptureFixture,
    path: str,
    status: int,
    headers: dict[str, str],
) -> None:
    """Upstream repeats the key, an organization and a token; neither the answer nor the log does, at any level."""
    secrets = [CALLER_KEY, SERVER_KEY, "org-ours", "proj_Ab12Cd34", "llms_abcdefgh12", "plain-project-7"]

    async def tell(received: Received, writer: Any) -> None:
        words = f"Look at https://x.example: {' '.join(secrets)} {received.key[-9:]} WORDS"
        document = error(message=words, type=received.key, code=received.key, param=received.key)
        await reply(status, document, {"Retry-After": "9"})(received, writer)

    upstream.default = tell
    caplog.set_level(logging.DEBUG)
    client = make_app(openai_org_id="org-ours", openai_project_id="plain-project-7").test_client()
    answer = ask(client, path, headers)
    seen = answer.text + str(answer.headers)
    assert not [secret for secret in [*secrets, CALLER_KEY[-9:]] if secret in seen + caplog.text]
    assert ("WORDS" in seen) == (answer.status_code < 500)
    assert "WORDS" not in caplog.text


@ROUTES
@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_a_failure_of_upstreams_is_not_told_in_its_words(
    client: FlaskClient, upstream: Upstream, path: str, status: int
) -> None:
    """A 5xx is no caller's business: its text may be anything."""
    upstream.default = reply(status, {"error": {"message": "WORDS", "type": "t", "code": "c", "param": "p"}})
    answer = ask(client, path, OWN)
    assert answer.status_code >= 500
    assert "WORDS" not in answer.text
    assert '"c"' not in answer.text


@ROUTES
def test_what_upstream_says_of_the_servers_account_is_the_operators(
    client: FlaskClient, upstream: Upstream, path: str
) -> None:
    """A refusal of the server's key is a 503 without upstream's words."""
    for status in (401, 402):
        upstream.script(reply(status, {"error": {"message": "WORDS", "code": "c"}}))
        answer = ask(client, path, FREE)
        assert (answer.status_code, "WORDS" in answer.text) == (503, False)
        assert answer.headers["X-Should-Retry"] == "false"


@ROUTES
def test_the_words_can_be_turned_off(make_app: Callable[..., Flask], upstream: Upstream, path: str) -> None:
    """UPSTREAM_MESSAGES=false leaves the codes, which programs need."""
    upstream.default = reply(
        400, {"error": {"message": "WORDS", "type": "t", "code": "content_filter", "param": "model"}}
    )
    answer = ask(make_app(upstream_messages=False).test_client(), path, OWN)
    assert "WORDS" not in answer.text
    assert told(answer)[0] == "content_filter"


def test_the_log_has_the_code_alone(client: FlaskClient, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    """The operator sees which refusal it was."""
    caplog.set_level(logging.INFO)
    upstream.default = reply(400, {"error": {"message": "WORDS", "code": "context_length_exceeded"}})
    ask(client, CHAT, OWN)
    assert "HTTP 400, upstream_code=context_length_exceeded" in caplog.text
    assert "WORDS" not in caplog.text


FORBIDDEN = {
    "moderation": reply(403, {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"]}}}),
    "page": reply(403, b"<html>blocked</html>", {"Content-Type": "text/html"}),
    "model": reply(403, {"error": {"code": "model_not_allowed"}}),
    "empty": reply(403, b""),
}


@ROUTES
@pytest.mark.parametrize("refusal", FORBIDDEN.values(), ids=FORBIDDEN)
@pytest.mark.parametrize("headers", [OWN, OWN | FREE, FREE], ids=["caller", "caller in free mode", "server"])
def test_a_403_condemns_no_key(
    client: FlaskClient, upstream: Upstream, path: str, refusal: Any, headers: dict[str, str]
) -> None:
    """It is about this request: it is not sent with another key, and the next one goes with the same key."""
    upstream.script(refusal)
    answer = ask(client, path, headers)
    assert answer.status_code == 403
    assert answer.headers["X-Should-Retry"] == "false"
    code = answer.get_json().get("code") or answer.get_json()["error"]["code"]
    assert code in {"upstream_forbidden", "model_not_allowed", "403"}
    assert ask(client, path, headers).status_code == 200
    assert [received.key for received in upstream.received] == [headers.get("X-OpenAI-Api-Key", SERVER_KEY)] * 2


BAD_KEY = {
    "Gemini": reply(
        400,
        [{"error": {"code": 400, "message": "API key not valid", "details": [{"reason": "API_KEY_INVALID"}]}}],
    ),
    "xAI": reply(400, {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: x***y."}),
    "OpenAI": reply(401, {"error": {"code": "invalid_api_key"}}),
}


@ROUTES
@pytest.mark.parametrize("refusal", BAD_KEY.values(), ids=BAD_KEY)
def test_what_vendors_say_in_the_place_of_401(client: FlaskClient, upstream: Upstream, path: str, refusal: Any) -> None:
    """The key is refused: alone it is 401 and remembered, in free mode the server's key pays."""

    async def answer(received: Received, writer: Any) -> None:
        await (refusal if received.key == CALLER_KEY else echo)(received, writer)

    upstream.default = answer
    assert ask(client, path, OWN).status_code == 401
    assert ask(client, path, OWN).status_code == 401
    assert ask(client, path, OWN | FREE).status_code == 200
    assert [received.key for received in upstream.received] == [CALLER_KEY, SERVER_KEY]


@ROUTES
@pytest.mark.parametrize(
    ("status", "retryable"),
    [
        *[(status, False) for status in (301, 400, 401, 402, 403, 404, 405, 408, 409, 413, 422, 426, 451, 501, 505)],
        *[(status, True) for status in (429, 500, 502, 503, 504, 520, 529)],
    ],
)
def test_whether_to_repeat(client: FlaskClient, upstream: Upstream, path: str, status: int, retryable: bool) -> None:
    """The header that SDKs ask and the member that people read agree, and are true only where it can help."""
    upstream.default = reply(status)
    answer = ask(client, path, OWN)
    assert answer.headers["X-Should-Retry"] == str(retryable).lower()
    assert answer.get_json().get("retryable", retryable) is retryable


@ROUTES
@pytest.mark.parametrize(
    ("status", "told"),
    [
        *[(status, status) for status in (400, 401, 403, 404, 413, 422, 429)],
        *[(status, 400) for status in (405, 406, 408, 409, 410, 415, 418, 423, 424, 425, 431, 451, 499)],
        *[(402, 429), (407, 502), (421, 502), (426, 502)],
    ],
)
def test_the_status_of_a_refusal(client: FlaskClient, upstream: Upstream, path: str, status: int, told: int) -> None:
    """A 4xx stays one, and is none that SDKs repeat by its number alone (408, 409)."""
    upstream.default = reply(status)
    assert ask(client, path, OWN).status_code == told


def test_our_own_refusals_say_it_too(client: FlaskClient) -> None:
    """Every failure has the header, whoever found it."""
    for path in (CHAT, COMPLETIONS, "/nowhere", "/v1/nowhere"):
        answer = client.post(path, data=b"{", content_type="application/json")
        assert answer.headers["X-Should-Retry"] == "false"
        assert json.loads(answer.data)


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        *[(code, True) for code in ("server_error", "rate_limit_exceeded", None)],
        *[(code, False) for code in ("invalid_prompt", "image_too_small", "content_filter", "unsupported_image")],
    ],
)
def test_whether_to_repeat_what_failed_with_a_200(
    client: FlaskClient, upstream: Upstream, code: str | None, retryable: bool
) -> None:
    """A failed answer says in its code whether the request is at fault."""
    upstream.default = reply(200, response_document("", status="failed", error={"code": code, "message": "WORDS"}))
    answer = ask(client, CHAT, OWN)
    assert (answer.get_json()["code"], answer.get_json()["retryable"]) == ("upstream_failed", retryable)
    assert answer.headers["X-Should-Retry"] == str(retryable).lower()


@ROUTES
def test_a_used_up_budget_is_not_to_be_repeated(make_app: Callable[..., Flask], path: str) -> None:
    """SDKs would send it twice more in vain, and each time write into the database."""
    app = make_app()
    token = service(Accounts, app).add("web", Limits(budget_nano=1, budget_period="day"))
    answer = ask(app.test_client(), path, FREE | {"Authorization": f"Bearer {token}"}, model="gpt-4o-mini")
    assert answer.status_code == 429
    assert answer.headers["X-Should-Retry"] == "false"
