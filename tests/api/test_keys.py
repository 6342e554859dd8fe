"""Whose key pays: the truth table of contract.md, section 3, row by row, and what a key may look like."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Config
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.unit.test_keys import OTHER_KEY, keys_seen, refuse
from tests.upstream import Upstream, error_document, reply

CHAT = "/api/v1/chat"


# free_mode, caller's key, server's key, keys upstream refuses; status, code or key source, keys upstream saw.
TRUTH_TABLE = [
    (False, CALLER_KEY, SERVER_KEY, [], 200, "user_provided", [CALLER_KEY]),
    (False, CALLER_KEY, "", [], 200, "user_provided", [CALLER_KEY]),
    (False, "", SERVER_KEY, [], 401, "api_key_required", []),
    (False, "", "", [], 401, "api_key_required", []),
    (False, None, SERVER_KEY, [], 401, "api_key_required", []),
    (False, CALLER_KEY, SERVER_KEY, [CALLER_KEY], 401, "api_key_rejected", [CALLER_KEY]),
    (False, CALLER_KEY, "", [CALLER_KEY], 401, "api_key_rejected", [CALLER_KEY]),
    (None, "", SERVER_KEY, [], 401, "api_key_required", []),
    (True, CALLER_KEY, SERVER_KEY, [], 200, "user_provided", [CALLER_KEY]),
    (True, CALLER_KEY, "", [], 200, "user_provided", [CALLER_KEY]),
    (True, "", SERVER_KEY, [], 200, "default", [SERVER_KEY]),
    (True, None, SERVER_KEY, [], 200, "default", [SERVER_KEY]),
    (True, CALLER_KEY, SERVER_KEY, [CALLER_KEY], 200, "default", [CALLER_KEY, SERVER_KEY]),
    (True, "", "", [], 503, "no_api_key_available", []),
    (True, CALLER_KEY, "", [CALLER_KEY], 503, "no_api_key_available", [CALLER_KEY]),
    (
        *(True, CALLER_KEY, SERVER_KEY, [CALLER_KEY, SERVER_KEY]),
        *(503, "server_credentials_rejected", [CALLER_KEY, SERVER_KEY]),
    ),
    (True, "a key", SERVER_KEY, [], 422, "validation_error", []),
    (False, "a key", "", [], 422, "validation_error", []),
    (True, "llms_0123456789", SERVER_KEY, [], 422, "validation_error", []),
    (False, "llms_0123456789", "", [], 422, "validation_error", []),
    (True, "sk-1", SERVER_KEY, [], 200, "user_provided", ["sk-1"]),
    (True, "EMPTY", SERVER_KEY, [], 200, "default", [SERVER_KEY]),
    (True, "EMPTY", "", [], 503, "no_api_key_available", []),
    (False, "EMPTY", SERVER_KEY, [], 200, "user_provided", ["EMPTY"]),
    (False, "EMPTY", SERVER_KEY, ["EMPTY"], 401, "api_key_rejected", ["EMPTY"]),
]


@pytest.mark.parametrize(("free_mode", "caller", "server", "refused", "status", "outcome", "seen"), TRUTH_TABLE)
def test_truth_table(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    free_mode: bool | None,
    caller: str | None,
    server: str,
    refused: list[str],
    status: int,
    outcome: str,
    seen: list[str],
) -> None:
    """Each row: who pays, what the caller is told, and which keys upstream got to see, in order."""
    upstream.default = refuse(*refused)
    client = make_app(openai_api_key=server).test_client()
    answer = client.post(CHAT, json={"user_message": "hi", "openai_api_key": caller, "free_mode": free_mode})
    body = answer.get_json()
    told = body["api_key_source"] if status == 200 else body["code"]
    assert (answer.status_code, told) == (status, outcome)
    assert keys_seen(upstream) == seen
    assert len({received.body for received in upstream.received}) <= 1


@pytest.mark.parametrize(
    ("code", "prefix"),
    [
        ("api_key_required", "인증 오류: "),
        ("no_api_key_available", "시스템 설정 오류: "),
        ("api_key_rejected", "인증 오류: "),
    ],
)
def test_problems_have_a_fitting_prefix(
    make_app: Callable[..., Flask], upstream: Upstream, code: str, prefix: str
) -> None:
    """A missing or refused key is about who asks, no key of the server's about settings; 503 says when to come back."""
    upstream.default = refuse(CALLER_KEY)
    caller = CALLER_KEY if code == "api_key_rejected" else ""
    client = make_app(openai_api_key="").test_client()
    free_mode = code == "no_api_key_available"
    answer = client.post(CHAT, json={"user_message": "hi", "openai_api_key": caller, "free_mode": free_mode})
    assert answer.get_json()["code"] == code
    assert answer.get_json()["error_message"].startswith(prefix)
    assert ("Retry-After" in answer.headers) == (answer.status_code == 503)


@pytest.mark.parametrize("in_body", ["", OTHER_KEY, None])
def test_the_header_wins_over_the_body(client: FlaskClient, upstream: Upstream, in_body: str | None) -> None:
    """X-OpenAI-Api-Key is the caller's key, whatever the body says."""
    answer = client.post(
        CHAT, json={"user_message": "hi", "openai_api_key": in_body}, headers={"X-OpenAI-Api-Key": CALLER_KEY}
    )
    assert answer.get_json()["api_key_source"] == "user_provided"
    assert keys_seen(upstream) == [CALLER_KEY]


def test_an_empty_header_leaves_the_bodys_key(client: FlaskClient, upstream: Upstream) -> None:
    """An empty header is no key."""
    client.post(CHAT, json={"user_message": "hi", "openai_api_key": CALLER_KEY}, headers={"X-OpenAI-Api-Key": ""})
    assert keys_seen(upstream) == [CALLER_KEY]


MALFORMED = {
    "long": "k" * 8001,
    "token of ours": "llms_wxyz456789",
    "100 KB": "k" * 100_000,
    "space": "sk-wxyz 456789",
    "trailing space": "sk-wxyz456789 ",
    "tab": "sk-wxyz\t456789",
    "non-ASCII": "sk-wxyz456789é",
    "Korean": "열쇠열쇠열쇠열쇠",
    "DEL": "sk-wxyz456789\x7f",
    "CR LF": "sk-wxyz456789\r\nX-Evil: 1",
    "trailing LF": "sk-wxyz456789\n",
    "NUL": "sk-wxyz456789\x00",
    "lone surrogate": "sk-wxyz456789\ud800",
}


@pytest.mark.parametrize("free_mode", [True, False])
@pytest.mark.parametrize("key", MALFORMED.values(), ids=MALFORMED)
def test_malformed_key_in_the_body(client: FlaskClient, upstream: Upstream, key: str, free_mode: bool) -> None:
    """A key that cannot be one is a 422 that names the field and not the key; upstream hears nothing."""
    body = json.dumps({"user_message": "hi", "openai_api_key": key, "free_mode": free_mode})
    answer = client.post(CHAT, data=body, content_type="application/json")
    assert (answer.status_code, list(answer.get_json()["errors"]["json"])) == (422, ["openai_api_key"])
    assert "wxyz" not in answer.get_data(as_text=True)
    assert upstream.received == []


@pytest.mark.parametrize(
    "key",
    [MALFORMED[name] for name in ("long", "token of ours", "100 KB", "space", "tab", "DEL")] + ["sk-wxyz456789\xe9"],
)
def test_malformed_key_in_the_header(client: FlaskClient, upstream: Upstream, key: str) -> None:
    """The same for the header, also when a well-formed key is in the body."""
    environ = {"HTTP_X_OPENAI_API_KEY": key}  # as WSGI gives it: latin-1, which the test client's headers refuse
    answer = client.post(CHAT, json={"user_message": "hi", "openai_api_key": CALLER_KEY}, environ_overrides=environ)
    assert (answer.status_code, list(answer.get_json()["errors"]["headers"])) == (422, ["X-OpenAI-Api-Key"])
    assert "wxyz" not in answer.get_data(as_text=True)
    assert upstream.received == []


@pytest.mark.parametrize("key", ["k", "k" * 8000, "!~"], ids=["shortest", "longest", "edges of ASCII"])
def test_well_formed_key(client: FlaskClient, upstream: Upstream, key: str) -> None:
    """One to 8,000 printable ASCII characters travel unchanged."""
    assert client.post(CHAT, json={"user_message": "hi", "openai_api_key": key}).status_code == 200
    assert keys_seen(upstream) == [key]


def test_a_key_refused_without_free_mode_is_remembered_too(client: FlaskClient, upstream: Upstream) -> None:
    """The second request with a refused key is refused by us."""
    upstream.default = refuse(CALLER_KEY)
    for _ in range(3):
        answer = client.post(CHAT, json={"user_message": "hi", "openai_api_key": CALLER_KEY})
        assert answer.get_json()["code"] == "api_key_rejected"
    assert keys_seen(upstream) == [CALLER_KEY]


def test_only_a_refused_key_is_remembered(client: FlaskClient, upstream: Upstream) -> None:
    """A rate limit, a quota, a bad model or a prompt that is not permitted says nothing about the key."""
    for status, code in [(429, "insufficient_quota"), (400, "bad"), (404, "model_not_found"), (403, "flagged")]:
        upstream.script(reply(status, error_document(code)))
        body = {"user_message": "hi", "openai_api_key": CALLER_KEY}
        assert client.post(CHAT, json=body).status_code == status
        assert client.post(CHAT, json=body).status_code == 200
    assert keys_seen(upstream) == [CALLER_KEY] * 8


def test_the_servers_key_is_never_remembered_as_refused(client: FlaskClient, upstream: Upstream) -> None:
    """An operator may repair the account: the server's key is tried anew each time."""
    upstream.script(reply(401, error_document()))
    assert client.post(CHAT, json={"user_message": "hi", "free_mode": True}).status_code == 503
    assert client.post(CHAT, json={"user_message": "hi", "free_mode": True}).status_code == 200


ORGANIZATION = {"openai_org_id": "org-ours", "openai_project_id": "proj-ours"}


@pytest.mark.parametrize("from_env", [False, True], ids=["settings", "environment"])
def test_organization_and_project_travel_with_the_servers_key_only(
    make_app: Callable[..., Flask], upstream: Upstream, monkeypatch: pytest.MonkeyPatch, from_env: bool
) -> None:
    """Nothing that is ours goes upstream with a caller's key: no organization, project, admin key or custom header."""
    for name, value in [("ADMIN_KEY", "sk-admin-ours"), ("CUSTOM_HEADERS", "X-Ours: custom-ours")]:
        monkeypatch.setenv(f"OPENAI_{name}", value)
    for name, value in ORGANIZATION.items():
        monkeypatch.setenv(name.upper(), value if from_env else "wrong")
    settings = {name: getattr(Config.from_env(), name) for name in ORGANIZATION} if from_env else ORGANIZATION
    client = make_app(**settings).test_client()
    upstream.default = refuse(OTHER_KEY)
    client.post(CHAT, json={"user_message": "hi", "openai_api_key": CALLER_KEY})
    client.post(CHAT, json={"user_message": "hi", "openai_api_key": OTHER_KEY, "free_mode": True})
    with_callers, refused, with_ours = upstream.received
    assert "ours" not in str(with_callers.headers) + str(refused.headers)
    assert not [name for name in with_callers.headers if name in {"openai-organization", "openai-project", "x-ours"}]
    assert with_ours.headers["openai-organization"] == "org-ours"
    assert with_ours.headers["openai-project"] == "proj-ours"
    assert "admin" not in str(with_ours.headers)


def test_the_key_travels_once_and_in_one_place(client: FlaskClient, upstream: Upstream) -> None:
    """Upstream sees the key as a bearer token and nowhere else; the body and other headers do not hold it."""
    client.post(CHAT, json={"user_message": "hi"}, headers={"X-OpenAI-Api-Key": CALLER_KEY})
    (received,) = upstream.received
    assert received.headers.pop("authorization") == f"Bearer {CALLER_KEY}"
    assert CALLER_KEY not in str(received.headers) + received.body.decode()
