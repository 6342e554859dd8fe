"""Authorisation: every route of the application, walked without a token, with a client's and with an admin's."""

from __future__ import annotations

import importlib
import io
import pkgutil
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

import blueprints
from app.errors import ChatServiceException
from app.ledger.accounts import KNOWN_SECONDS, Accounts, Limits
from app.store.database import Database
from app.store.tables import clients
from app.web.access import ADMINS, FLASK_SMOREST, Access
from app.web.services import service
from tests.records import connected, settled
from tests.upstream import Upstream

DECLARED = dict(FLASK_SMOREST)
MODULES = [importlib.import_module(f"blueprints.{found.name}") for found in pkgutil.iter_modules(blueprints.__path__)]
for module in MODULES:
    for blueprint in getattr(module, "PAGES", None) or (module.blp,):
        DECLARED.update(blueprint.access)
PUBLIC, ADMIN = ({name for name, access in DECLARED.items() if access in of} for of in ({Access.PUBLIC}, ADMINS))

NOT_THERE = {"usage.one_request", "characters.show", "characters.card", "characters.delete", "characters.versions"}
NOT_THERE |= {"sessions.session", "sessions.change", "sessions.delete", "sessions.export", "sessions.interrupt"}
NOT_THERE |= {"sessions.summarise", "sessions.forget_summary", "upstreams.try_now"}
NOT_THERE |= {f"clients.{name}" for name in ("client", "change", "rotate", "revoke", "delete")}
"""Routes of something that is not there when they are walked."""
MAKING = {"characters.put", "sessions.take_in"}
LOCAL, ELSEWHERE = "127.0.0.1", "203.0.113.9"
BODIES: dict[str, dict[str, Any]] = {
    "clients.add": {"name": "made"},
    "chat.chat": {"user_message": "x", "free_mode": True},
    "chat.preview": {"user_message": "x", "free_mode": True},
    "openai.responses": {"input": [{"content": "x"}]},
    "sessions.summarise": {"text": "x", "covers": 1},
}
OTHER_BODIES: dict[str, dict[str, Any]] = {
    "others.transcriptions": {"data": {"model": "m"}, "content_type": "multipart/form-data"},
    "sessions.take_in": {
        "data": b'{"format": "llm-server-session", "version": 1}\n{"user_message": "x"}\n',
        "content_type": "application/x-ndjson",
    },
}
VALUES = {
    "name": "swagger-ui.css",
    "filename": "swagger-ui.css",
    "path": "swagger-ui.css",
    "model": "m",
    "request_id": "r-1",
    "session_id": "s-1",
}


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token")


def walk(app: Flask, token: str = "", peer: str = LOCAL) -> dict[str, set[int]]:
    """Every route's statuses over its methods, by endpoint; the console's pages are walked in test_console.py."""
    client, statuses = app.test_client(), dict[str, set[int]]()
    headers = {"X-Free-Mode": "true"} | ({"Authorization": f"Bearer {token}"} if token else {})
    # What makes something is walked last.
    routes = (rule for rule in app.url_map.iter_rules() if not rule.rule.startswith("/console"))
    for rule in sorted(routes, key=lambda rule: rule.endpoint in MAKING):
        path = app.url_map.bind("localhost").build(rule.endpoint, {name: VALUES[name] for name in rule.arguments})
        for method in sorted(rule.methods - {"OPTIONS"}):
            sent = {"json": BODIES.get(rule.endpoint, {}) if method in {"POST", "PUT", "PATCH"} else None}
            sent = OTHER_BODIES.get(rule.endpoint, sent)
            answer = client.open(path, method=method, headers=headers, environ_overrides={"REMOTE_ADDR": peer}, **sent)
            statuses.setdefault(rule.endpoint, set()).add(answer.status_code)
            answer.close()
    return statuses


def test_every_route_declares_its_access(app: Flask) -> None:
    """In its blueprint, and no declaration names a route that is not there."""
    assert sorted(DECLARED) == sorted({rule.endpoint for rule in app.url_map.iter_rules()})


@pytest.mark.parametrize("peer", [LOCAL, ELSEWHERE])
def test_without_a_token(app: Flask, peer: str) -> None:
    """The public routes and nothing else, wherever the caller is."""
    for endpoint, statuses in walk(app, peer=peer).items():
        if endpoint in PUBLIC:
            assert statuses <= {200, 302, 308}, endpoint
        else:
            assert statuses == {401}, endpoint


def test_with_a_clients_token(app: Flask) -> None:
    """All but what is an admin's."""
    token = service(Accounts, app).add("web", Limits())
    for endpoint, statuses in walk(app, token, ELSEWHERE).items():
        if endpoint in ADMIN:
            assert statuses == {403}, endpoint
        elif endpoint in NOT_THERE:
            assert statuses == {404}
        else:
            assert statuses <= {200, 201, 302, 308}, endpoint


def test_with_an_admins_token(app: Flask) -> None:
    """Everything, from everywhere."""
    token = service(Accounts, app).add("root", Limits(admin=True))
    for endpoint, statuses in walk(app, token, ELSEWHERE).items():
        assert statuses <= ({404} if endpoint in NOT_THERE else {200, 201, 302, 308}), endpoint


def test_in_open_mode(make_app: Callable[..., Flask]) -> None:
    """Everything on this host; elsewhere all but what is an admin's."""
    app = make_app(auth_mode="open")
    for peer in (LOCAL, ELSEWHERE):
        for endpoint, statuses in walk(app, peer=peer).items():
            if endpoint in ADMIN and peer == ELSEWHERE:
                assert statuses == {403}, endpoint
            else:
                assert statuses <= {200, 201, 204, 302, 308, 404, 409}, endpoint


def test_public_system_routes_only_tell(make_app: Callable[..., Flask]) -> None:
    """SYSTEM_API_PUBLIC opens what shows how the server does; what changes what others may do stays with this host."""
    changing = {name for name, access in DECLARED.items() if access is Access.OPERATOR}
    app = make_app(auth_mode="open", system_api_public=True)
    walked = walk(app, peer=ELSEWHERE)
    assert {name for name, statuses in walked.items() if statuses == {403}} == changing & walked.keys()


def test_a_route_that_declares_nothing_is_closed(app: Flask) -> None:
    """To admins as well: somebody has to decide first."""
    app.add_url_rule("/new", "new", lambda: "secret")
    admin = service(Accounts, app).add("root", Limits(admin=True))
    for headers in ({}, {"Authorization": f"Bearer {admin}"}):
        answer = app.test_client().get("/new", headers=headers)
        assert (answer.status_code, answer.get_json()["code"]) == (403, "forbidden")


@pytest.mark.parametrize("path", ["/nothing", "/api/v1/nothing", "/v1/nothing"])
def test_unknown_addresses_are_not_found(app: Flask, path: str) -> None:
    """What is not there is not forbidden."""
    assert app.test_client().get(path).status_code == 404
    assert app.test_client().delete("/api/v1/chat").status_code == 405


NO_KEY = {"user_message": "x"}
REFUSED_BEFORE_ADMISSION: list[tuple[str, dict[str, Any], int]] = [
    ("/api/v1/chat", {"json": NO_KEY}, 401),
    ("/api/v1/chat", {"json": NO_KEY | {"stream": True}}, 401),
    ("/api/v1/chat", {"json": NO_KEY | {"openai_api_key": "a b"}}, 422),
    ("/api/v1/chat", {"json": NO_KEY | {"max_tokens": 0}}, 422),
    ("/api/v1/chat", {"data": "{", "content_type": "application/json"}, 400),
    ("/api/v1/chat", {"data": "x", "content_type": "text/plain"}, 415),
    ("/v1/responses", {"json": {}, "headers": {"X-Free-Mode": "false"}}, 401),
    ("/v1/chat/completions", {"json": {"stream": True}, "headers": {"X-Free-Mode": "false"}}, 401),
    ("/v1/responses", {"json": {"stream": 1}, "headers": {"X-Free-Mode": "true"}}, 422),
    ("/v1/embeddings", {"data": "{", "content_type": "application/json"}, 400),
]


@pytest.mark.parametrize(("path", "request_", "status"), REFUSED_BEFORE_ADMISSION)
@pytest.mark.parametrize("mode", ["token", "open"])
def test_a_token_that_opens_nothing_is_heard_first(
    make_app: Callable[..., Flask], mode: str, path: str, request_: dict[str, Any], status: int
) -> None:
    """Before the missing key or what is wrong with the body, on both routes; a client hears of those."""
    app = make_app(auth_mode=mode)
    accounts = service(Accounts, app)
    tokens = [accounts.add(name, Limits()) for name in ("web", "revoked", "removed")]
    tokens.append(accounts.add("expired", Limits(expires_at=1)))
    accounts.revoke("revoked")
    accounts.delete("removed")

    def answer(token: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} | request_.get("headers", {})
        got = app.test_client().post(path, **(request_ | {"headers": headers}))
        document = got.get_json()
        return got.status_code, (document.get("error") or document)["code"]

    assert answer(tokens[0])[0] == status
    assert answer(tokens[0])[1] != "unauthorized"
    assert [answer(token) for token in tokens[1:]] == [(401, "unauthorized")] * 3


def test_a_client_is_looked_up_once_before_its_requests_are_read(app: Flask) -> None:
    """Once in a while, whatever becomes of the requests: admission looks again in its own transaction."""
    token = service(Accounts, app).add("web", Limits(models="gpt-4o"))
    looked_up = []
    service(Accounts, app)._database = Watched(service(Database, app), looked_up)
    headers = {"Authorization": f"Bearer {token}"}
    for model, status in (("gpt-4o", 200), ("o1", 403), ("gpt-4o", 200)):
        answer = app.test_client().post("/api/v1/chat", json=BODIES["chat.chat"] | {"model": model}, headers=headers)
        assert answer.status_code == status
    assert app.test_client().post("/api/v1/chat", data="{", headers=headers).status_code == 415
    assert len(looked_up) < 4


class Watched:
    """A database that notes who reads it."""

    def __init__(self, database: Database, reads: list[Any]) -> None:
        self._database = database
        self._reads = reads

    def read(self, work: Any) -> Any:
        self._reads.append(work)
        return self._database.read(work)


@pytest.mark.parametrize("path", ["/api/v1/chat", "/api/v1/chat/preview", "/v1/responses", "/v1/embeddings"])
def test_who_calls_is_known_before_the_body_is_read(app: Flask, path: str) -> None:
    """A body is not touched where the token opens nothing."""
    for headers in ({}, {"Authorization": "Bearer llms_unknown"}):
        body = io.BytesIO(b'{"user_message": "x"}')
        answer = app.test_client().post(
            path, input_stream=body, content_length=21, content_type="application/json", headers=headers
        )
        assert (answer.status_code, body.tell()) == (401, 0)


def test_a_client_that_was_remembered_is_confirmed_by_admission(app: Flask, database_url: str) -> None:
    """A token that another process has just revoked opens nothing, although this worker still remembers it."""
    token = service(Accounts, app).add("web", Limits())
    headers = {"Authorization": f"Bearer {token}"}

    def status() -> int:
        return app.test_client().post("/api/v1/chat", json=BODIES["chat.chat"], headers=headers).status_code

    assert status() == 200
    with connected(database_url) as connection:
        connection.execute(clients.update().values(revoked_at=1))
    assert status() == 401
    assert len(settled(database_url)) == 1


def test_usage_is_each_clients_own(app: Flask, database_url: str) -> None:
    """Another client's request is not found, and neither counted nor listed; an admin sees all."""
    accounts, client = service(Accounts, app), app.test_client()
    tokens = {name: accounts.add(name, Limits(admin=name == "root")) for name in ("web", "app", "root")}
    bearers = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
    for name in ("web", "app"):
        headers = bearers[name] | {"X-Request-ID": f"of-{name}"}
        assert client.post("/api/v1/chat", json=BODIES["chat.chat"], headers=headers).status_code == 200
    settled(database_url)

    def get(who: str, path: str) -> Any:
        return client.get(f"/api/v1/usage{path}", headers=bearers[who])

    assert get("web", "/requests/of-web").get_json()["client"] == "web"
    missing, foreign = get("web", "/requests/of-none"), get("web", "/requests/of-app")
    hidden = {"request_id"}
    assert (missing.status_code, foreign.status_code) == (404, 404)
    assert {name: value for name, value in missing.get_json().items() if name not in hidden} == {
        name: value for name, value in foreign.get_json().items() if name not in hidden
    }
    assert [row["request_id"] for row in get("web", "").get_json()["rows"]] == ["of-web"]
    assert [total["key"] for total in get("web", "?by=client").get_json()["totals"]] == ["web"]
    assert get("web", "?client=app").status_code == get("web", "?client=nobody").status_code == 403
    assert get("web", "?client=web").status_code == 200
    assert [row["request_id"] for row in get("root", "").get_json()["rows"]] == ["of-app", "of-web"]
    assert [row["request_id"] for row in get("root", "?client=app").get_json()["rows"]] == ["of-app"]
    assert get("root", "?client=nobody").status_code == 404
    assert get("root", "/requests/of-app").status_code == 200


def test_a_client_is_not_remembered_longer_because_it_calls(app: Flask, database_url: str) -> None:
    """Each use would else put the next look-up off, and a revoked client that keeps calling would stay known."""
    token = service(Accounts, app).add("web", Limits())
    accounts, give_up = service(Accounts, app), time.monotonic() + 4 * KNOWN_SECONDS
    accounts.principal(token, remembered=True)
    with connected(database_url) as connection:
        connection.execute(clients.update().values(revoked_at=1))

    def is_known() -> bool:
        try:
            return accounts.principal(token, remembered=True) is not None
        except ChatServiceException:
            return False

    while (known := is_known()) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not known


LOCAL_HOSTS = [
    *("localhost", "localhost:5601", "LOCALHOST", "localhost.", "app.localhost:80", "127.0.0.1", "127.0.0.1:5601"),
    *("[::1]", "[::1]:5601", "192.0.2.7:8080", "[2001:db8::1]:443"),
]
STRANGE_HOSTS = [
    *("evil.example", "evil.example:5601", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost", "x"),
    *("evil.example#localhost", "localhost@evil.example", "0x7f.1", "127.1", "[evil.example]", "llm.example.evil"),
]


@pytest.mark.parametrize("host", STRANGE_HOSTS)
@pytest.mark.parametrize("mode", ["", "open"])
def test_a_name_that_is_not_ours(make_app: Callable[..., Flask], upstream: Upstream, mode: str, host: str) -> None:
    """In open mode a page whose name leads to this machine reads nothing and spends nothing (DNS rebinding)."""
    client = make_app(auth_mode=mode, allowed_hosts=("llm.example",)).test_client()
    headers = {"Host": host, "Origin": f"http://{host}", "X-Free-Mode": "true"}
    for method, path in (
        *[("GET", path) for path in ("/api/v1/system/info", "/metrics", "/api/v1/usage", "/openapi.json", "/nope")],
        *[("POST", path) for path in ("/api/v1/chat", "/v1/responses")],
    ):
        answer = client.open(path, method=method, json=BODIES["chat.chat"], headers=headers)
        document = answer.get_json()
        assert (answer.status_code, (document.get("error") or document)["code"]) == (421, "misdirected_request")
    assert upstream.received == []
    assert client.get("/livez", headers=headers).status_code == 200
    assert client.get("/readyz", headers=headers).status_code == 200


@pytest.mark.parametrize("host", [*LOCAL_HOSTS, "llm.example", "LLM.example:443"])
def test_a_name_that_is_ours(make_app: Callable[..., Flask], host: str) -> None:
    """Loopback names, addresses, and what ALLOWED_HOSTS lists, with any port."""
    client = make_app(auth_mode="open", allowed_hosts=("llm.example",)).test_client()
    answer = client.post("/api/v1/chat", json=BODIES["chat.chat"], headers={"Host": host})
    assert answer.status_code == 200


def test_with_tokens_every_name_is_answered(app: Flask) -> None:
    """A page cannot have a token that it was not given."""
    token = service(Accounts, app).add("web", Limits())
    headers = {"Host": "evil.example", "Authorization": f"Bearer {token}"}
    assert app.test_client().post("/api/v1/chat", json=BODIES["chat.chat"], headers=headers).status_code == 200


PROXIES = [
    *("Forwarded", "Via", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port"),
    *("X-Forwarded-Prefix", "X-Forwarded-Server", "CF-Connecting-IP", "CF-Ray", "True-Client-IP", "X-Forwarded-By"),
]


@pytest.mark.parametrize("header", PROXIES)
@pytest.mark.parametrize("value", ["127.0.0.1", "https", ""])
def test_what_a_proxy_passed_on_is_not_local(make_app: Callable[..., Flask], header: str, value: str) -> None:
    """With AUTH_MODE unset it is refused; in open mode it gets nothing that is for local callers."""
    headers = {header: value, "X-Free-Mode": "true"}
    client = make_app().test_client()
    for path in ("/api/v1/chat", "/v1/chat/completions", "/api/v1/chat/preview"):
        answer = client.post(path, json=BODIES["chat.chat"], headers=headers)
        document = answer.get_json()
        assert (answer.status_code, (document.get("error") or document)["code"]) == (403, "auth_mode_required")
    assert client.get("/livez", headers=headers).status_code == 200
    client = make_app(auth_mode="open").test_client()
    assert client.post("/api/v1/chat", json=BODIES["chat.chat"], headers=headers).status_code == 200
    for path in ("/api/v1/system/info", "/metrics"):
        assert client.get(path, headers=headers).get_json()["code"] == "system_routes_private"


def test_what_callers_send_themselves_is_no_proxy(make_app: Callable[..., Flask]) -> None:
    """Headers of applications and browsers do not look like one."""
    headers = {"X-Requested-With": "fetch", "X-Request-Start": "t=1", "Referer": "http://localhost/", "X-Title": "via"}
    client = make_app().test_client()
    assert client.post("/api/v1/chat", json=BODIES["chat.chat"], headers=headers).status_code == 200
    assert client.get("/api/v1/system/info", headers=headers).status_code == 200


@pytest.mark.parametrize(("protocol", "status"), [("HTTP/1.1", 400), ("HTTP/1.0", 200)])
def test_a_request_without_host(make_app: Callable[..., Flask], protocol: str, status: int) -> None:
    """HTTP/1.1 requires it (RFC 9112, section 3.2), in every mode; health checks of HTTP/1.0 have none."""
    for mode in ("open", "token"):
        overrides = {"HTTP_HOST": "", "SERVER_PROTOCOL": protocol}
        assert make_app(auth_mode=mode).test_client().get("/livez", environ_overrides=overrides).status_code == status


def test_usage_is_asked_for_by_names_it_knows(app: Flask) -> None:
    """Another name would be ignored, and the report would hold everything; a raw `+` in a time is understood."""
    token = service(Accounts, app).add("web", Limits())
    client, headers = app.test_client(), {"Authorization": f"Bearer {token}"}
    answer = client.get("/api/v1/usage?session=x", headers=headers)
    assert (answer.status_code, list(answer.get_json()["errors"]["query"])) == (422, ["session"])
    for since, status in (
        ("2026-01-01T00:00:00+09:00", 200),
        ("2026-01-01T00:00:00%2B09:00", 200),
        ("2026-01-01T00:00:00-0500", 200),
        ("2026-01-01T00:00:00 0900", 200),
        ("2026-01-01 00:00", 422),
        ("x 09:00", 422),
    ):
        assert client.get(f"/api/v1/usage?since={since}", headers=headers).status_code == status, since
