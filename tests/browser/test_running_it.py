"""What who runs the server does in the console: signing in and out, tokens for others, upstreams."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver import Keys

from tests.browser.test_pages import added
from tests.conftest import SERVER_KEY
from tests.server import Server
from tests.streams import response_events, stream
from tests.upstream import Upstream, reply, response_document

if TYPE_CHECKING:
    from tests.chromium import Browser


@pytest.fixture(scope="module")
def server(start_shared: Callable[..., Server], shared_upstream: Upstream) -> Server:
    shared_upstream.default = reply(200, response_document("hello"))
    return start_shared(AUTH_MODE="token", OPENAI_API_KEY=SERVER_KEY)


@pytest.fixture(scope="module")
def admin(server: Server) -> str:
    return added(server, "root", "--admin")


def sign_in(browser: Browser, server: Server, token: str, then: str = "console/clients") -> None:
    browser.base_url = server.url
    browser.open("/" + then)
    browser.find("[name=token]").send_keys(token)
    browser.click("form button.main")
    browser.wait(lambda: browser.path.startswith("/" + then))


def curl(line: str) -> dict[str, object]:
    """What the line, pasted into a shell, prints."""
    done = subprocess.run(shlex.split(line), capture_output=True, text=True, check=True, timeout=30)
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


def test_a_token_for_a_friend(browser: Browser, server: Server, admin: str) -> None:
    """Made, shown once with a line that works, limited, and ended; then the line is refused."""
    sign_in(browser, server, admin)
    browser.find("[name=name]").send_keys("friend")
    browser.click("summary")
    browser.find("[name=budget_usd]").send_keys("5/fortnight")
    browser.click("form button.main")
    assert "day" in browser.text("#wrong-budget_usd")
    field = browser.find("[name=budget_usd]")
    field.clear()
    field.send_keys("5/month")
    browser.click("form button.main")
    token, line = browser.wait(lambda: [found.text for found in browser.all("dialog[open] code")])
    assert token.startswith("llms_")
    assert curl(line)["response_text"] == "hello"
    assert browser.accessibility() == []
    browser.click("dialog .main")
    browser.wait(lambda: "friend" in browser.text("table"))
    assert token not in browser.driver.page_source
    browser.click("a[href$='clients/friend']")
    assert browser.text("#spent ~ dl dd") == "5/month USD"
    browser.find("[name=rpm]").send_keys("7")
    # The page that is loaded again after the first must not cut off the second.
    browser.run(
        """window.confirm = () => true;
        const ask = fetch;
        window.fetch = async (url, options) => {
            if (url.endsWith("revoke")) await new Promise((done) => setTimeout(done, 400));
            return ask(url, options);
        };
        document.querySelector("button[data-path$=revoke]").click();
        document.querySelector("form.card > button.main").click();"""
    )
    browser.wait(lambda: "revoked" in browser.text("h1"))
    assert browser.find("[name=rpm]").get_attribute("value") == "7"
    assert curl(line)["code"] == "unauthorized"
    assert browser.problems(expected=["422"]) == []


def test_a_client_sees_no_page_for_admins(browser: Browser, server: Server, admin: str) -> None:
    """Neither in the navigation nor by its address; and who has signed out sees none at all."""
    sign_in(browser, server, added(server, "guest"), "console/playground")
    assert not browser.all("nav a[href$=clients]")
    browser.open("/console/clients")
    assert browser.text("h1").startswith("403")
    browser.click("button[data-path='console/login']")
    browser.wait(lambda: browser.path == "/")
    browser.open("/console/usage")
    assert browser.path.startswith("/console/login?next=console%2Fusage")
    assert browser.problems(expected=["403"]) == []


def test_a_wrong_token_is_told_in_the_pages_language(browser: Browser, server: Server) -> None:
    """And what was typed is not in the address."""
    browser.set(language="ko")
    browser.base_url = server.url
    browser.open("/console/login")
    browser.find("[name=token]").send_keys("llms_wrong")
    browser.click("form button.main")
    assert "인증 오류" in browser.text("#problem")
    assert "wrong" not in browser.driver.current_url
    assert browser.problems(expected=["401"]) == []


def test_a_first_character_is_one_press_away(browser: Browser, server: Server, shared_upstream: Upstream) -> None:
    """Who has none talks with an example, in the page's language."""
    browser.set(language="ko")
    sign_in(browser, server, added(server, "newcomer"), "console/playground")
    browser.click("[data-path='api/v1/characters/mina']")
    browser.wait(lambda: browser.path == "/console/playground?character=mina")
    assert browser.find("[name=character]").get_attribute("value") == "mina"
    shared_upstream.script(stream(response_events("hello")))
    browser.find("#message").send_keys("안녕하세요", Keys.ENTER)
    browser.wait(lambda: "hello" in browser.text("#log"))
    assert browser.problems() == []


def test_an_upstream_is_tried_now(browser: Browser, server: Server, shared_upstream: Upstream, admin: str) -> None:
    """What came of it is told, and the page goes on following the server."""
    sign_in(browser, server, admin, "console/upstreams")
    browser.run("document.querySelector('#states').classList.add('old')")
    shared_upstream.script(reply(200, {"object": "list", "data": []}))
    browser.click("[data-path='api/v1/upstreams/default/try']")
    assert "default: key 1: answers after" in browser.text("#tried")
    shared_upstream.script(reply(500, {}))
    browser.click("[data-path='api/v1/upstreams/default/try']")
    browser.wait(lambda: "key 1: upstream_error" in browser.text("#tried"))
    browser.wait(lambda: not browser.all("#states.old"))
    assert browser.accessibility() == []
    assert browser.problems() == []


def test_language_and_theme_are_all_that_is_kept(browser: Browser, server: Server) -> None:
    """As cookies; nothing else is stored in the browser."""
    browser.base_url = server.url
    browser.open("/")
    browser.click("[data-language=ko]")
    browser.wait(lambda: browser.run("return document.documentElement.lang") == "ko")
    browser.click("[data-theme-switch]")
    assert browser.run("return document.documentElement.dataset.theme") == "dark"
    browser.open("/docs")
    browser.open("/")
    assert browser.run("return [document.documentElement.lang, document.documentElement.dataset.theme]") == [
        "ko",
        "dark",
    ]
    assert set(browser.cookies()) == {"llm_server_language", "llm_server_theme"}
    assert browser.run("return localStorage.length + sessionStorage.length") == 0
    assert browser.problems() == []
