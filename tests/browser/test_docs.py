"""/docs in a browser: readable, below a prefix, and useful to who has a token or is signed in to the console."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from tests.browser.docs_page import DocsPage
from tests.browser.test_pages import Place, keep, place, sign_in  # noqa: F401
from tests.server import Server
from tests.unit.test_openapi import SPEC
from tests.upstream import Upstream

if TYPE_CHECKING:
    from tests.chromium import Browser

CHAT = "post-api-v1-chat"
DOORS = ("post-v1-chat-completions", "post-v1-messages")


@pytest.mark.parametrize("language", ["en", "ko"])
def test_the_page_can_be_read(browser: Browser, start_shared: Callable[..., Server], language: str) -> None:
    """In both languages, dark and light, on a desk and on a phone; with an operation open too."""
    from tests.chromium import DESKTOP, PHONE

    browser.base_url = start_shared(AUTH_MODE="open").url
    korean = language == "ko"
    browser.set(language=language, scheme="dark" if korean else "light", size=PHONE if korean else DESKTOP)
    page = DocsPage(browser)
    assert ("채팅 한 턴에 답변" if korean else "Answer one chat turn") in browser.text(f"[id$='{CHAT}']")
    assert browser.accessibility() == []
    keep(browser, "docs", language)
    browser.click(f"{page.open(CHAT)} .try-out__btn")
    assert browser.accessibility() == []
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), "wider than the window"
    assert not browser.all(".errors-wrapper"), browser.text(".errors-wrapper")
    assert browser.problems() == []


def test_each_status_shows_an_example_of_its_own(browser: Browser, start_shared: Callable[..., Server]) -> None:
    """In the shape of its routes, and of the first code that is named beside it."""
    browser.base_url = start_shared(AUTH_MODE="open").url
    page = DocsPage(browser)
    for operation in (CHAT, *DOORS):
        box = page.open(operation)
        rows = browser.run(
            """return [...document.querySelectorAll(arguments[0] + " tr.response[data-code]")].map((row) =>
                [row.dataset.code, row.querySelector("code")?.textContent, row.querySelector("pre")?.textContent])""",
            box,
        )
        assert "$ref" not in browser.text(box)
        errors = {status: (code, shown) for status, code, shown in rows if status[0] in "45"}
        assert len(errors) >= 14
        for status, (code, shown) in errors.items():
            assert f'"{code}"' in shown, (operation, status)
            assert operation != CHAT or f'"status": {status},' in shown
    assert browser.problems() == []


def test_a_token_opens_what_it_opens_elsewhere(browser: Browser, place: Place, shared_upstream: Upstream) -> None:  # noqa: F811
    """Below a prefix, behind nginx: without the token 401; with it native and OpenAI's and Anthropic's routes alike."""
    browser.base_url = place.url
    page = DocsPage(browser)
    assert page.execute("get-api-v1-sessions")[0] == 401
    page.authorize(place.token)
    before = len(shared_upstream.received)
    allowed = [page.execute(operation)[0] for operation in (CHAT, DOORS[0], "get-metrics")]
    assert allowed == [200] * 3
    assert len(shared_upstream.received) == before + 2
    # Who this is was understood: a client with a budget, which cannot cover what has no price here.
    status, answer = page.execute(DOORS[1])
    assert (status, "unauthorized" in answer) == (403, False)
    assert browser.problems(expected=["/here/api/v1/sessions?limit=100 - F", "/here/v1/messages - F"]) == []


def test_an_answer_that_has_changed_is_shown(browser: Browser, start_shared: Callable[..., Server]) -> None:
    """Texts are drawn once, and again when they are others: after the second Execute it is the second answer."""
    server = start_shared(AUTH_MODE="open")
    browser.base_url = server.url
    box = DocsPage(browser).open("get-api-v1-usage")
    shown = f"{box} .live-responses-table .response .response-col_description"
    browser.click(f"{box} .try-out__btn")
    for _ in range(2):
        asked = server.chat("hi").headers["X-Request-Id"]
        browser.click(f"{box} .execute")
        browser.wait(lambda asked=asked: browser.all(shown) and asked in browser.text(shown))
    assert browser.problems() == []


def test_who_is_signed_in_needs_no_token(browser: Browser, place: Place) -> None:  # noqa: F811
    """The page sends what the console's pages send with a write, and does not show it."""
    browser.base_url = place.url
    sign_in(browser, place.token)
    page = DocsPage(browser)
    status, _ = page.execute(CHAT)
    assert status == 200
    page.open(CHAT)
    assert "X-CSRF-Token" not in browser.text(".curl")
    assert browser.problems() == []


def test_every_operation_can_be_linked(browser: Browser, start_shared: Callable[..., Server]) -> None:
    """By its id, which is in the specification."""
    browser.base_url = start_shared(AUTH_MODE="open").url
    page = DocsPage(browser)
    known = [one["operationId"] for item in SPEC["paths"].values() for one in item.values() if "operationId" in one]
    assert sorted(page.operations) == sorted(known)
    browser.open("/docs#/usage/get-api-v1-usage")
    browser.driver.refresh()
    browser.find("[id$=get-api-v1-usage] .opblock-body")
    assert browser.problems() == []
