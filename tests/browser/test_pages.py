"""Every page of the console as a browser shows it: below a prefix behind nginx, in both languages, dark and light, on a
desktop and on a phone; and with names and texts that hold markup.

`make screenshots` keeps what the browser saw in docs/console.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.conftest import SERVER_KEY
from tests.nginx import start_nginx
from tests.programs import missing
from tests.server import ROOT, Server, free_port
from tests.upstream import Upstream, reply, response_document

if TYPE_CHECKING:
    from tests.chromium import Browser

pytestmark = pytest.mark.skipif(bool(missing("nginx")), reason="nginx is not installed")

MARKUP = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
SCREENSHOTS = os.environ.get("SCREENSHOTS", "")
SITE = """\
server {{
    listen 127.0.0.1:{port};
    location /below/here/ {{
        proxy_pass http://127.0.0.1:{server}/;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_buffering off;
    }}
}}
"""


class Place(NamedTuple):
    """A server with things in it, below a prefix, and an admin's token."""

    url: str
    token: str
    request_id: str


@pytest.fixture(scope="module")
def place(
    start_shared: Callable[..., Server], shared_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    server = start_shared(AUTH_MODE="token", OPENAI_API_KEY=SERVER_KEY)
    shared_upstream.default = reply(
        200, response_document(said("Take the white tea from Hadong: it is mild and warms."))
    )
    token = added(server, "root", "--admin", "--budget-usd", "5/day")
    added(server, "web", "--rpm", "60")
    request_id = fill(server, token)
    directory = tmp_path_factory.mktemp("nginx")
    port = free_port()
    with start_nginx(directory, SITE.format(port=port, server=server.port)) as nginx:
        yield Place(f"http://127.0.0.1:{port}/below/here", token, request_id)
        nginx.terminate()


def added(server: Server, *arguments: str) -> str:
    """The token of a client that the operator makes."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "clients", "add", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=server.environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def said(text: str) -> str:
    """The text with markup behind it, but for the documents' pictures."""
    return text if SCREENSHOTS else f"{text} {MARKUP}"


def fill(server: Server, token: str) -> str:
    """Have a conversation with a character whose every text holds markup; gives the id of one request."""
    headers = {"Authorization": f"Bearer {token}"}
    lore = [{"keywords": ["green tea"], "text": said("The green tea of the house comes from Boseong.")}]
    character = {"description": said("Keeps a tea house in Seoul."), "role": said("You are Mina."), "lore": lore}
    assert server.request("PUT", "/api/v1/characters/mina", character, headers).status == 200
    body = {"user_message": said("What is good on a cold day?"), "session_id": "tea", "character": "mina"}
    body |= {"remember": True, "free_mode": True}
    answer = server.request("POST", "/api/v1/chat", body, headers)
    assert answer.status == 200, answer.body
    change = {"title": said("A cold day"), "metadata": {"place": said("Seoul")}}
    assert server.request("PATCH", "/api/v1/sessions/tea", change, headers).status == 200
    summary = {"text": said("The guest is cold and asks for tea."), "covers": 1}
    assert server.request("PUT", "/api/v1/sessions/tea/summary", summary, headers).status == 200
    return str(answer.headers["X-Request-ID"])


PAGES = (
    *("", "console/login", "console/playground?session=tea", "console/sessions", "console/sessions/tea"),
    *("console/characters", "console/characters/mina", "console/characters/new"),
    *("console/usage", "console/usage/{request_id}", "console/clients", "console/clients/web"),
    *("console/upstreams", "console/system", "console/nowhere"),
)


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_sound(browser: Browser, place: Place, path: str) -> None:
    """No error, no broken policy, no other host, nothing that keeps people out, and markup stays text."""
    from tests.chromium import DESKTOP, PHONE

    browser.base_url = place.url
    sign_in(browser, place.token)
    not_there = ["404"] if "nowhere" in path else []
    for language, scheme, size in (("en", "light", DESKTOP), ("ko", "dark", PHONE)):
        browser.set(language=language, scheme=scheme, size=size)
        browser.open("/" + path.format(request_id=place.request_id))
        assert browser.run("return document.documentElement.lang") == language
        assert browser.find("main h1").text
        browser.wait(lambda: not browser.all("[aria-busy=true]"))
        keep(browser, path, language)
        assert browser.accessibility() == []
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
        assert browser.problems(expected=not_there) == []


def test_every_link_leads_somewhere(browser: Browser, place: Place) -> None:
    """From each page, also below a prefix."""
    browser.base_url = place.url
    sign_in(browser, place.token)
    links = set()
    for path in PAGES:
        browser.open("/" + path.format(request_id=place.request_id))
        links |= {
            (path, link) for link in browser.run("return [...document.links].filter((a) => !a.hash).map((a) => a.href)")
        }
    broken = browser.driver.execute_async_script(
        """const [links, done] = arguments;
        const asked = new Map();
        const ask = (url) => asked.get(url) ?? asked.set(url, fetch(url).then((a) => a.status)).get(url);
        Promise.all(links.map(async ([page, url]) => [page, url, await ask(url)]))
            .then((all) => done(all.filter(([, , status]) => status !== 200)));""",
        sorted(links),
    )
    assert broken == []
    assert all(link.startswith(place.url) for _, link in links)


def sign_in(browser: Browser, token: str) -> None:
    """By the page."""
    browser.open("/console/login?next=console%2Fsystem")
    browser.find("[name=token]").send_keys(token)
    browser.click("form button.main")
    browser.wait(lambda: browser.path == "/console/system")
    assert browser.problems() == []


def keep(browser: Browser, path: str, language: str) -> None:
    """A screenshot, where the documents' are made anew."""
    if SCREENSHOTS and "nowhere" not in path:
        name = path.partition("?")[0].removeprefix("console/").replace("/", "-") or "front"
        browser.screenshot(Path(SCREENSHOTS) / f"{name.replace('{request_id}', 'request')}-{language}.png")
