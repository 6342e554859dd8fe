"""Clients and tokens: what a token is, what is stored of it, when it opens nothing, and the operator's commands."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.ledger.accounts import Accounts, Limits
from app.ledger.tokens import is_token, new_token
from app.store.database import Database
from app.store.tables import clients
from app.web.services import service
from tests.conftest import CALLER_KEY, EVERY_STORE, SERVER_KEY
from tests.records import connected, settled
from tests.upstream import Upstream, reply

TURN = {"user_message": "hi", "free_mode": True}


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def chat(app: Flask, token: str) -> Any:
    """One chat turn that the server's key pays."""
    return app.test_client().post("/api/v1/chat", json=TURN, headers=bearer(token))


def run(app: Flask, command: str, *, fails: bool = False) -> str:
    """What `flask COMMAND` prints: its output, or its error when it `fails`."""
    result = app.test_cli_runner().invoke(args=command.split())
    assert result.exit_code == int(fails), result.output
    return result.stderr if fails else result.stdout


@EVERY_STORE
class TestTokens:
    """What of a token is kept."""

    def test_only_a_keyed_digest_is_stored(self, app: Flask, database_url: str) -> None:
        """The database tells neither the token nor a digest that could be made without the key."""
        token = service(Accounts, app).add("web", Limits())
        with connected(database_url) as connection:
            (row,) = connection.execute(clients.select()).all()
        assert token not in str(row)
        assert token[5:32] not in str(row)
        other = Accounts(service(Database, app), b"another key")
        assert row.token_digest == service(Accounts, app).digest(token) != other.digest(token)


@EVERY_STORE
class TestAuthentication:
    """Whose token opens what."""

    def test_a_token_is_required(self, app: Flask, upstream: Upstream) -> None:
        """401 with what to send; the same answer whatever is wrong."""
        token = service(Accounts, app).add("web", Limits())
        altered = token[:-1] + ("-" if token.endswith("_") else "_")
        answers = [chat(app, wrong) for wrong in (new_token(), "llms_x", altered, CALLER_KEY)]
        answers.append(app.test_client().post("/api/v1/chat", json=TURN))
        answers.append(app.test_client().post("/v1/responses", data=b"{", headers=bearer("llms_x")))
        for answer in answers:
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert {answer.get_json()["detail"] for answer in answers[:-1]} == {answers[0].get_json()["detail"]}
        assert answers[-1].get_json()["error"]["code"] == "unauthorized"
        assert not upstream.received
        assert chat(app, token).status_code == 200

    def test_in_open_mode_a_token_still_names_its_client(
        self, make_app: Callable[..., Flask], database_url: str
    ) -> None:
        """And a wrong one is refused: its caller meant something by it."""
        app = make_app(auth_mode="open")
        token = service(Accounts, app).add("web", Limits())
        assert app.test_client().post("/api/v1/chat", json=TURN).status_code == 200
        assert chat(app, token).status_code == 200
        assert chat(app, new_token()).status_code == 401
        assert [row["client_name"] for row in settled(database_url)] == [None, "web"]

    def test_expired(self, app: Flask) -> None:
        """From its moment on."""
        now = int(time.time() * 1_000_000)
        accounts = service(Accounts, app)
        assert chat(app, accounts.add("over", Limits(expires_at=now))).status_code == 401
        assert chat(app, accounts.add("not-yet", Limits(expires_at=now + 60_000_000))).status_code == 200

    def test_revoked_rotated_deleted(self, app: Flask, database_url: str) -> None:
        """At once; the ledger keeps the name."""
        accounts = service(Accounts, app)
        first = accounts.add("web", Limits())
        assert chat(app, first).status_code == 200
        second = accounts.rotate("web")
        assert [chat(app, token).status_code for token in (first, second)] == [401, 200]
        accounts.revoke("web")
        assert chat(app, second).status_code == 401
        third = accounts.rotate("web")
        assert chat(app, third).status_code == 200
        settled(database_url)
        accounts.delete("web")
        assert chat(app, third).status_code == 401
        assert [(row["client_name"], row["client_id"]) for row in settled(database_url)] == [("web", None)] * 3

    def test_the_token_beside_the_callers_own_key(self, app: Flask, upstream: Upstream) -> None:
        """On `/v1` the key then comes in a header of its own; the token never reaches upstream."""
        token = service(Accounts, app).add("web", Limits(free_mode=False))
        headers = bearer(token) | {"X-OpenAI-Api-Key": CALLER_KEY}
        answer = app.test_client().post("/v1/responses", json={"input": [{"content": "x"}]}, headers=headers)
        assert answer.status_code == 200
        assert upstream.received[0].key == CALLER_KEY
        assert token not in str(upstream.received[0])


@EVERY_STORE
class TestCommands:
    """`flask clients …` and `flask usage report`."""

    def test_a_clients_life(self, app: Flask) -> None:
        """Its token is printed once; every limit shows; every command does what it says."""
        assert run(app, "clients list") == "nothing yet\n"
        token = run(
            app,
            "clients add web --budget-usd 5/day --rpm 60 --concurrency 20 --models gpt-4o*,o1 --no-free-mode "
            "--per-user-rpm 6 --per-user-budget-usd 0.5/month --admin --expires 90d",
        ).strip()
        assert is_token(token)
        shown = dict(line.split(None, 1) for line in run(app, "clients show web").splitlines())
        created, expires = shown.pop("created"), shown.pop("expires")
        assert created < expires
        assert shown == {
            "name": "web",
            "state": "active",
            "rpm": "60",
            "concurrency": "20",
            "budget_usd": "5/day",
            "per_user_rpm": "6",
            "per_user_budget_usd": "0.5/month",
            "models": "gpt-4o*,o1",
            "free_mode": "no",
            "admin": "yes",
            "spent_usd": "0",
            "reserved_usd": "0",
        }
        rotated = run(app, "clients rotate web").strip()
        assert is_token(rotated)
        assert rotated != token
        header, row = run(app, "clients list").splitlines()
        assert header.split()[0] == "name"
        assert row.split()[:2] == ["web", "active"]
        assert dict(zip(header.split(), row.split(), strict=True)).items() >= {
            ("per_user_rpm", "6"),
            ("per_user_budget_usd", "0.5/month"),
        }
        run(app, "clients revoke web")
        assert " revoked " in run(app, "clients list")
        for printed in (run(app, "clients list"), run(app, "clients show web")):
            assert token not in printed
            assert rotated not in printed
        run(app, "clients delete web")
        assert run(app, "clients list") == "nothing yet\n"

    def test_limits_can_be_changed(self, app: Flask) -> None:
        """What is named changes at once, `none` takes a limit away, and the rest and the token stay."""
        token = run(app, "clients add web --budget-usd 5/day --rpm 60 --models o1").strip()
        run(app, "clients set web --rpm 7 --budget-usd 0.01/month --no-free-mode --concurrency 3")
        shown = dict(line.split(None, 1) for line in run(app, "clients show web").splitlines())
        assert {name: shown[name] for name in ("rpm", "budget_usd", "models", "free_mode", "concurrency")} == {
            "rpm": "7",
            "budget_usd": "0.01/month",
            "models": "o1",
            "free_mode": "no",
            "concurrency": "3",
        }
        run(app, "clients set web --rpm none --budget-usd none --models none --concurrency none --expires none")
        (account,) = service(Accounts, app).all()
        assert (account.requests_per_minute, account.budget_nano, account.models) == (None, None, "")
        assert not account.limits_users
        run(app, "clients set web --per-user-rpm 3 --per-user-budget-usd 2/total")
        assert service(Accounts, app).show("web").limits_users
        run(app, "clients set web --per-user-rpm none --per-user-budget-usd none")
        assert service(Accounts, app).principal(token).account == account

    def test_spending_shows(self, app: Flask, upstream: Upstream, database_url: str) -> None:
        """What the budget has spent in the present period, and what is reserved."""
        token = run(app, "clients add web --budget-usd 5/day").strip()
        headers = {"Authorization": f"Bearer {token}"}
        chat = {"user_message": "hi", "free_mode": True}
        assert app.test_client().post("/api/v1/chat", json=chat, headers=headers).status_code == 200
        settled(database_url)
        shown = [line.split() for line in run(app, "clients show web").splitlines()]
        assert shown[-2:] == [["spent_usd", "0.00000585"], ["reserved_usd", "0"]]

    def test_a_changed_key_shows(self, make_app: Callable[..., Flask], database_url: str) -> None:
        """A client whose token is of another digest key is not called active, and the list says how to mend it."""
        old, new = "key-of-before-0123456789", "key-of-now-0123456789"

        def state(name: str, **keys: str) -> str:
            app = make_app(auth_mode="token", **keys)
            listed = app.test_cli_runner().invoke(args=["clients", "list"])
            assert ("TOKEN_DIGEST_KEY_OLD" in listed.stderr) == ("key changed" in listed.stdout)
            (row,) = [line for line in listed.stdout.splitlines() if line.startswith(name)]
            found = run(app, f"clients show {name}").splitlines()[1].removeprefix("state").strip()
            assert f" {found} " in row
            return found

        before = make_app(auth_mode="token", token_digest_key=old)
        kept, idle = (service(Accounts, before).add(name, Limits()) for name in ("kept", "idle"))
        assert state("kept", token_digest_key=old) == "active"
        assert state("kept", token_digest_key=new) == "key changed"
        assert state("kept", token_digest_key=new, token_digest_key_old=old) == "active"
        assert (
            chat(make_app(auth_mode="token", token_digest_key=new, token_digest_key_old=old), kept).status_code == 200
        )
        after = make_app(auth_mode="token", token_digest_key=new)
        assert [chat(after, token).status_code for token in (kept, idle)] == [200, 401]
        assert [state(name, token_digest_key=new) for name in ("kept", "idle")] == ["active", "key changed"]
        service(Accounts, after).rotate("idle")
        assert state("idle", token_digest_key=new) == "active"
        service(Accounts, after).revoke("idle")
        assert state("idle", token_digest_key=old) == "revoked"

    def test_clients_of_before_are_not_known_by_their_key(self, app: Flask, database_url: str) -> None:
        """A row that was written by a version that did not note the key."""
        service(Accounts, app).add("web", Limits())
        with connected(database_url) as connection:
            connection.execute(clients.update().values(key_fingerprint=None))
        assert " active " in run(app, "clients list")

    @pytest.mark.parametrize(
        "option",
        [
            *("--budget-usd", "--rpm", "--concurrency", "--models", "--expires"),
            *("--per-user-rpm", "--per-user-budget-usd"),
        ],
    )
    @pytest.mark.parametrize("command", ["add", "set"])
    def test_an_empty_value_is_an_error(self, app: Flask, command: str, option: str) -> None:
        """A variable that was not set must not mean: no limit."""
        result = app.test_cli_runner().invoke(args=["clients", command, "web", option, ""])
        assert result.exit_code == 2
        assert "must not be empty" in result.output
        assert run(app, "clients list") == "nothing yet\n"

    @pytest.mark.parametrize(
        ("command", "told"),
        [
            ("clients set nobody --rpm 1", "is not the name of a client"),
            ("clients show nobody", "is not the name of a client"),
            ("clients rotate nobody", "is not the name of a client"),
            ("clients revoke nobody", "is not the name of a client"),
            ("clients delete nobody", "is not the name of a client"),
            ("clients add taken", "is the name of another client"),
            ("clients add -- -x", "must be 1 to 64 letters"),
            ("clients add x --budget-usd 5/hour", "budget_usd must be like 5/day"),
            ("clients add x --per-user-budget-usd 5", "per_user_budget_usd must be like 5/day"),
            (f"clients add x --models {'m' * 1025}", "must be at most 1024 characters"),
            (f"clients set taken --models {'m' * 1025}", "must be at most 1024 characters"),
        ],
    )
    def test_mistakes(self, app: Flask, command: str, told: str) -> None:
        """One line that says what is wrong, exit status 1, nothing changed."""
        run(app, "clients add taken")
        error = run(app, command, fails=True)
        assert told in error
        assert len(error.splitlines()) == 1
        assert len(run(app, "clients list").splitlines()) == 2

    def test_report(self, app: Flask, database_url: str) -> None:
        """A table, and the same as CSV."""
        assert run(app, "usage report") == "nothing yet\n"
        for name, calls in (("web", 2), ("app", 1)):
            token = service(Accounts, app).add(name, Limits())
            for _ in range(calls):
                assert chat(app, token).status_code == 200
        settled(database_url)
        rows = list(csv.DictReader(io.StringIO(run(app, "usage report --since 7d --by client --csv"))))
        assert [(row["client"], row["requests"], row["input_tokens"], row["cost_usd"]) for row in rows] == [
            ("app", "1", "11", "0.00000585"),
            ("web", "2", "22", "0.0000117"),
        ]
        header, *lines = run(app, "usage report --since 7d --by client").splitlines()
        assert [line.split() for line in lines] == [list(row.values()) for row in rows]
        assert header.split() == list(rows[0])
        assert run(app, "usage report --by day --csv").splitlines()[0].startswith("day,requests")


def test_a_new_database_is_made_by_whoever_needs_it_first(tmp_path: Path) -> None:
    """A command or a read may come before any request."""
    database = Database(f"sqlite:///{tmp_path}/new/x.db")
    assert Accounts(database, b"key").all() == []
    database.close()


OPENAI_MODES = [
    # the token's client may use the server's key, headers beside the token, status, keys that upstream saw
    (True, {}, 200, [SERVER_KEY]),
    (True, {"X-Free-Mode": "true"}, 200, [SERVER_KEY]),
    (True, {"X-Free-Mode": "false"}, 401, []),
    (True, {"X-OpenAI-Api-Key": CALLER_KEY}, 200, [CALLER_KEY]),
    (True, {"X-OpenAI-Api-Key": "EMPTY"}, 200, [SERVER_KEY]),
    (True, {"X-OpenAI-Api-Key": "EMPTY", "X-Free-Mode": "false"}, 200, ["EMPTY"]),
    (False, {}, 401, []),
    (False, {"X-Free-Mode": "true"}, 403, []),
    (False, {"X-OpenAI-Api-Key": CALLER_KEY}, 200, [CALLER_KEY]),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/models"])
@pytest.mark.parametrize(("may", "headers", "status", "keys"), OPENAI_MODES)
def test_a_token_is_all_that_an_openai_client_needs(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    path: str,
    may: bool,
    headers: dict[str, str],
    status: int,
    keys: list[str],
) -> None:
    """`OpenAI(api_key="llms_…")` works where the client may use the server's key and brings none."""
    app = make_app(auth_mode="token")
    token = service(Accounts, app).add("web", Limits(free_mode=may))
    upstream.default = reply(200, {"object": "list", "data": [], "id": "x"})
    method = "GET" if path == "/v1/models" else "POST"
    body = None if method == "GET" else {"model": "gpt-4o-mini"}
    answer = app.test_client().open(
        path, method=method, json=body, headers={"Authorization": f"Bearer {token}"} | headers
    )
    if (path, status) != ("/v1/models", 403):
        assert answer.status_code == status
        assert [received.key for received in upstream.received] == keys


def test_in_open_mode_the_servers_key_is_asked_for(make_app: Callable[..., Flask]) -> None:
    """There a token says who calls, and not that the server pays."""
    app = make_app()
    headers = {"Authorization": f"Bearer {service(Accounts, app).add('web', Limits())}"}
    assert app.test_client().post("/v1/responses", json={}, headers=headers).status_code == 401


def test_a_refused_own_key_is_not_replaced_unasked(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """A client that brings its own key has chosen who pays."""
    app = make_app(auth_mode="token")
    headers = {"Authorization": f"Bearer {service(Accounts, app).add('web', Limits())}", "X-OpenAI-Api-Key": CALLER_KEY}
    upstream.default = reply(401)
    assert app.test_client().post("/v1/responses", json={}, headers=headers).status_code == 401
    assert [received.key for received in upstream.received] == [CALLER_KEY]


def test_a_server_without_a_key_asks_for_the_clients(make_app: Callable[..., Flask]) -> None:
    """What is missing is a key of the client's own, and the answer says so."""
    app = make_app(auth_mode="token", openai_api_key="")
    headers = {"Authorization": f"Bearer {service(Accounts, app).add('web', Limits())}"}
    answer = app.test_client().post("/v1/responses", json={}, headers=headers)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (401, "api_key_required")
    assert "X-Free-Mode" in answer.get_json()["error"]["message"]


def test_why_all_tokens_are_unknown_is_told_once(
    make_app: Callable[..., Flask], caplog: pytest.LogCaptureFixture
) -> None:
    """With another TOKEN_DIGEST_KEY every client is listed as active and refused; what is no token is no reason."""
    app = make_app(auth_mode="token")
    token = service(Accounts, app).add("web", Limits())
    other = make_app(auth_mode="token", token_digest_key="another-key-of-the-tests-0123456789")
    told = []
    for sent in ("llms_x", token, token):
        headers = {"Authorization": f"Bearer {sent}"}
        assert other.test_client().get("/v1/models", headers=headers).status_code == 401
        told.append(sum("TOKEN_DIGEST_KEY" in message for message in caplog.messages))
    assert told == [0, 1, 1]
    assert token not in caplog.text
