"""The console's frame: signing in, what other sites can do with it, and how every page is sent."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.errors import ChatServiceException
from app.ledger.accounts import Accounts, Limits
from app.ledger.logins import LOGIN_SECONDS
from app.store.database import Database
from app.store.tables import logins
from app.units import MICROSECONDS
from app.web.access import Access
from app.web.console.pages import STATIC
from app.web.services import service
from app.web.sign_in import COOKIE, FAILURES_MAX, FAILURES_SECONDS, SignInLimit
from blueprints.console import PAGES
from tests.upstream import Upstream

LOGIN = "/console/login"
HTML = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
CHAT = {"user_message": "hi", "free_mode": True}


def forgery_token(client: FlaskClient, path: str = LOGIN) -> str:
    """What the page gives its scripts."""
    found = re.search(r'<meta name="csrf" content="([0-9a-f]{64})">', client.get(path, headers=HTML).text)
    assert found
    return found[1]


def sign_in(client: FlaskClient, token: str, **options: Any) -> Any:
    """As the page does."""
    headers = {"X-CSRF-Token": forgery_token(client), "Sec-Fetch-Site": "same-origin"}
    return client.post(LOGIN, json={"token": token}, headers=headers, **options)


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token", web_concurrency=1)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def token(app: Flask) -> str:
    return service(Accounts, app).add("web", Limits())


@pytest.fixture
def admin(app: Flask) -> str:
    return service(Accounts, app).add("root", Limits(admin=True))


@pytest.mark.parametrize(("scheme", "secure"), [("http", False), ("https", True)])
def test_a_token_is_exchanged_for_a_cookie(client: FlaskClient, token: str, scheme: str, secure: bool) -> None:
    """Which no script reads, no other site sends, and no eavesdropper sees; and which is not the token."""
    answer = sign_in(client, token, base_url=f"{scheme}://localhost")
    assert answer.status_code == 204
    name, *attributes = re.split("; *", answer.headers["Set-Cookie"])
    assert token not in name
    expected = {"HttpOnly", "Path=/", "SameSite=Strict", f"Max-Age={LOGIN_SECONDS}"} | ({"Secure"} if secure else set())
    assert {one for one in attributes if not one.startswith("Expires=")} == expected


def test_the_cookie_opens_the_native_routes(client: FlaskClient, token: str, upstream: Upstream) -> None:
    """With the page's anti-forgery token; those of OpenAI's clients it does not open."""
    sign_in(client, token)
    headers = {"X-CSRF-Token": forgery_token(client)}
    assert client.get("/api/v1/usage").status_code == 200
    assert client.post("/api/v1/chat", json=CHAT, headers=headers).status_code == 200
    assert client.get("/api/v1/usage").get_json()["rows"][0]["client"] == "web"
    assert client.post("/v1/chat/completions", json={}, headers=headers).status_code == 401
    assert client.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "headers", [{}, {"X-CSRF-Token": "0" * 64}, {"X-CSRF-Token": "é"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_another_sites_page_cannot_use_the_cookie(client: FlaskClient, token: str, headers: dict[str, str]) -> None:
    """Its request comes with the cookie, but not with what this server's pages know; nothing is done."""
    sign_in(client, token)
    if "Sec-Fetch-Site" in headers:
        headers = headers | {"X-CSRF-Token": forgery_token(client)}
    for method, path in (("POST", "/api/v1/chat"), ("DELETE", "/api/v1/sessions/s"), ("DELETE", LOGIN)):
        answer = client.open(path, method=method, json=CHAT, headers=headers)
        assert (answer.status_code, answer.get_json()["code"]) == (403, "csrf_failed")
    assert client.get("/api/v1/usage").get_json()["rows"] == []


def test_another_cookies_forgery_token_is_refused(app: Flask, token: str, admin: str) -> None:
    """One's own page does not tell what another's browser would have to send."""
    mine, other = app.test_client(), app.test_client()
    sign_in(mine, token)
    sign_in(other, admin)
    answer = other.post("/api/v1/chat", json=CHAT, headers={"X-CSRF-Token": forgery_token(mine)})
    assert answer.get_json()["code"] == "csrf_failed"


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_in_open_mode_another_sites_page_can_write_nothing(make_app: Callable[..., Flask], site: str) -> None:
    """The browser of who runs the server reaches it, whatever page it shows; CORS_ORIGINS lets some."""
    client = make_app(auth_mode="open", cors_origins=("https://mine.example",)).test_client()
    headers = {"Sec-Fetch-Site": site, "Origin": "https://evil.example"}
    for path in ("/api/v1/chat", "/v1/chat/completions", "/api/v1/sessions/s/import"):
        assert client.post(path, json=CHAT, headers=headers).status_code == 403, path
    assert (
        client.post("/api/v1/chat", json=CHAT, headers=headers | {"Origin": "https://MINE.example"}).status_code == 200
    )
    assert client.get("/api/v1/usage", headers=headers).status_code == 200


def test_signing_out_ends_the_login(app: Flask, client: FlaskClient, token: str) -> None:
    """Also for a copy of the cookie."""
    sign_in(client, token)
    copied, headers = client.get_cookie(COOKIE), {"X-CSRF-Token": forgery_token(client)}
    answer = client.delete(LOGIN, headers=headers)
    assert answer.status_code == 204
    assert client.get_cookie(COOKIE) is None
    thief = app.test_client()
    assert copied is not None
    thief.set_cookie(COOKIE, copied.value)
    assert thief.get("/api/v1/usage").status_code == 401


@pytest.mark.parametrize("act", ["rotate", "revoke", "delete"])
def test_a_login_ends_with_its_token(app: Flask, client: FlaskClient, token: str, act: str) -> None:
    """At once."""
    sign_in(client, token)
    assert client.get("/api/v1/usage").status_code == 200
    getattr(service(Accounts, app), act)("web")
    assert client.get("/api/v1/usage").status_code == 401


def test_a_login_ends_with_its_time(app: Flask, client: FlaskClient, token: str) -> None:
    """And its row goes with the next one."""
    sign_in(client, token)
    database = service(Database, app)
    past = int(database.clock() * MICROSECONDS) - 1
    database.write(lambda connection: connection.execute(logins.update().values(expires_at=past)))
    assert client.get("/api/v1/usage").status_code == 401
    sign_in(client, token)
    count = sa.select(sa.func.count()).select_from(logins)
    assert database.read(lambda connection: connection.execute(count).scalar()) == 1


def test_nothing_that_opens_anything_is_stored(app: Flask, client: FlaskClient, token: str) -> None:
    """Neither the cookie nor the token."""
    sign_in(client, token)
    cookie = client.get_cookie(COOKIE)
    rows = service(Database, app).read(lambda connection: connection.execute(logins.select()).all())
    assert cookie is not None
    assert len(rows) == 1
    assert cookie.value not in str(rows)
    assert token not in str(rows)


def test_the_oldest_login_of_a_client_makes_room(
    app: Flask, client: FlaskClient, token: str, admin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of too many of one client; nobody else's ends."""
    monkeypatch.setattr("app.ledger.logins.LOGINS_MAX", 2)
    later = [app.test_client() for _ in range(2)]
    other = app.test_client()
    for signing, given in ((other, admin), (client, token), *((one, token) for one in later)):
        sign_in(signing, given)
    assert [one.get("/api/v1/usage").status_code for one in (other, client, *later)] == [200, 401, 200, 200]


def test_pages_for_everybody_are_shown_while_the_database_is_away(
    client: FlaskClient, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To who was signed in as well: the front page says what is wrong; a page that needs to know who asks is an error
    page."""
    sign_in(client, token)

    def away(*_: Any, **__: Any) -> None:
        raise ChatServiceException("The database does not answer", "store_unavailable")

    for name in ("read", "is_writable"):
        monkeypatch.setattr(Database, name, away)
    assert {path: client.get(path, headers=HTML).status_code for path in ("/", "/docs", LOGIN)} == {
        "/": 200,
        "/docs": 200,
        LOGIN: 200,
    }
    answer = client.get("/console/usage", headers=HTML)
    assert (answer.status_code, answer.mimetype) == (503, "text/html")


def test_who_signs_in_comes_back_to_a_session_of_any_name(client: FlaskClient) -> None:
    """The page takes no address with a colon, and a `#` or `?` of a name is none of the address."""
    name = "console/sessions/user%3A1%23a%3Fb%25"
    location = client.get(f"/{name}", headers=HTML).location
    assert dict(parse_qsl(location.partition("?")[2])) == {"next": name}


def test_failed_attempts_are_limited(app: Flask, token: str) -> None:
    """For the network that fails; who signs in from another is not kept waiting. A /64 is one network."""
    client = app.test_client()

    def attempt(given: str, peer: str) -> int:
        status: int = sign_in(client, given, environ_overrides={"REMOTE_ADDR": peer}).status_code
        return status

    for number in range(FAILURES_MAX):
        assert attempt("llms_wrong", f"2001:db8::{number + 1}") == 401
    answer = sign_in(client, token, environ_overrides={"REMOTE_ADDR": "2001:db8::ffff"})
    assert (answer.status_code, answer.get_json()["code"]) == (429, "sign_in_limited")
    assert answer.headers["Retry-After"] == "60"
    assert attempt(token, "2001:db8:0:1::1") == 204


def test_a_network_that_fails_now_and_then_is_not_limited() -> None:
    """Each minute begins with a failure and ends by itself, however often others follow."""
    now = 0.0
    limit = SignInLimit(1, clock=lambda: now)
    for _ in range(3 * FAILURES_MAX):
        limit.check("192.0.2.1")
        limit.failed("192.0.2.1")
        now += 2 * FAILURES_SECONDS / FAILURES_MAX


@pytest.mark.parametrize(
    ("peer", "forwarded", "allowed", "counted"),
    [
        ("127.0.0.1", "192.0.2.1", ("127.0.0.1",), "192.0.2.1"),
        ("127.0.0.1", "192.0.2.9, 192.0.2.1, 10.0.0.1", ("127.0.0.1", "10.0.0.0/8"), "192.0.2.1"),
        ("127.0.0.1", "192.0.2.9, 192.0.2.1", ("*",), "192.0.2.1"),
        ("192.0.2.1", "192.0.2.9", ("127.0.0.1",), "192.0.2.1"),
        ("127.0.0.1", "192.0.2.9, unknown", ("127.0.0.1",), "127.0.0.1"),
    ],
)
def test_who_fails_behind_a_proxy_locks_nobody_else_out(
    make_app: Callable[..., Flask], peer: str, forwarded: str, allowed: tuple[str, ...], counted: str
) -> None:
    """The network is that of whom the proxy was asked by; what a caller itself says of it counts for nothing."""
    app = make_app(auth_mode="token", web_concurrency=FAILURES_MAX, forwarded_allow_ips=allowed)
    token = service(Accounts, app).add("web", Limits())

    def attempt(given: str, from_peer: str, **said: str) -> int:
        environ = {"REMOTE_ADDR": from_peer} | said
        status: int = sign_in(app.test_client(), given, environ_overrides=environ).status_code
        return status

    assert attempt("llms_wrong", peer, HTTP_X_FORWARDED_FOR=forwarded) == 401
    assert attempt(token, peer, HTTP_X_FORWARDED_FOR=forwarded) == 429
    assert attempt(token, counted) == 429
    assert attempt(token, "127.0.0.1" if counted != "127.0.0.1" else "192.0.2.9") == 204


def test_who_is_not_signed_in_is_led_to_the_sign_in_page_and_back(client: FlaskClient) -> None:
    """From every page that is not for everybody; relative, so below a prefix as well."""
    walked = 0
    for rule in client.application.url_map.iter_rules():
        if not rule.rule.startswith("/console") or rule.arguments or "GET" not in rule.methods:
            continue
        blueprint = next(one for one in PAGES if one.name == rule.endpoint.partition(".")[0])
        answer = client.get(rule.rule + "?q=%3D", headers=HTML)
        if blueprint.access[rule.endpoint] is Access.PUBLIC:
            assert answer.status_code in {200, 303}, rule.rule
            continue
        walked += 1
        assert answer.status_code == 303
        target = urljoin(f"https://name/prefix{rule.rule}", answer.location)
        assert target == f"https://name/prefix/console/login?next={rule.rule[1:].replace('/', '%2F')}%3Fq%3D%253D"
    assert walked >= 7


def test_the_front_page_is_json_for_programs(client: FlaskClient) -> None:
    """Which do not ask for HTML."""
    assert client.get("/").get_json()["status"] == "ready"
    page = client.get("/", headers=HTML)
    assert page.mimetype == "text/html"
    assert "curl -s" in page.text


@pytest.mark.parametrize("path", ["/", LOGIN, "/console/nowhere"])
@pytest.mark.parametrize("language", ["en", "ko"])
def test_a_page_is_strict_and_speaks_the_browsers_language(client: FlaskClient, path: str, language: str) -> None:
    """Nothing runs that is not a file of this server; every link is relative; a chosen language wins."""
    page = client.get(path, headers=HTML | {"Accept-Language": language})
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert f'<html lang="{language}">' in page.text
    assert not re.search(r"<script(?![^>]*(src=|application/json))|\son\w+=|\sstyle=|javascript:", page.text)
    addresses = re.findall(r'(?:href|src)="([^"]*)"', page.text)
    assert addresses
    assert not [address for address in addresses if address.startswith(("/", "http"))]
    # As scripts import them: a module with two addresses would run twice.
    assert not [address for address in addresses if ".js?" in address]
    other = {"en": "ko", "ko": "en"}[language]
    client.set_cookie("llm_server_language", other)
    assert f'<html lang="{other}">' in client.get(path, headers=HTML | {"Accept-Language": language}).text


def test_an_encoded_slash_is_no_step(client: FlaskClient) -> None:
    """The browser's address has one segment there, and so have relative links."""
    sent = client.get("/console/a%2Fb?c=/", headers=HTML, environ_overrides={"RAW_URI": "/console/a%2Fb?c=/"})
    assert 'href="../console/static/console.css' in sent.text


def test_what_a_cookie_says_stays_text(client: FlaskClient) -> None:
    """Only known languages and themes are taken from one."""
    client.set_cookie("llm_server_language", '"><script>')
    client.set_cookie("llm_server_theme", '"><script>')
    assert "<script>" not in client.get("/", headers=HTML).text


def test_vendored_files_are_what_is_written_down() -> None:
    """Nobody has changed a script of others, and each has its licence."""
    vendor = STATIC / "vendor"
    listed = json.loads((vendor / "vendored.json").read_text())
    locked = json.loads(Path("locks/console/package-lock.json").read_text())["packages"]
    for name, told in listed.items():
        package, version = told["package"].split()
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == told["sha256"]
        assert locked[f"node_modules/{package}"]["version"] == version
        assert (vendor / f"{package}.LICENSE").is_file()
    known = {*listed, *(f"{told['package'].split()[0]}.LICENSE" for told in listed.values()), "vendored.json"}
    assert {path.name for path in vendor.iterdir()} == known


def test_static_files_are_kept_by_the_browser(client: FlaskClient) -> None:
    """For ever when named by their content; none outside of the folder can be had."""
    with client.get("/console/static/console.css?v=1") as answer:
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    with client.get("/console/static/api.js") as answer:
        assert (answer.headers["Cache-Control"], answer.mimetype) == ("no-cache", "text/javascript")
    assert client.get("/console/static/../pages.py").status_code == 404
    assert client.get("/console/static/%2e%2e/pages.py").status_code == 404
