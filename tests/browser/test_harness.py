"""What the browser of the tests notices: a test that sees no problem means that there is none."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlsplit

import png
import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chromium import Browser

GOOD = "<!doctype html><html lang=en><title>Good</title><main><h1>Good</h1><p>Nothing is wrong.</p></main>"


class Page(http.server.BaseHTTPRequestHandler):
    """Answers with the body that the query holds, under a strict policy, and sets a cookie."""

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        body = parse_qs(asked.query).get("body", [""])[0].encode()
        self.send_response(404 if asked.path == "/missing" else 200)
        self.send_header("Content-Type", "text/javascript" if asked.path == "/script" else "text/html; charset=utf-8")
        self.send_header("Content-Security-Policy", "default-src 'self'; connect-src *; img-src 'self' data:")
        self.send_header("Set-Cookie", "seen=yes; HttpOnly; SameSite=Strict")
        self.send_header("X-Language", self.headers["Accept-Language"])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def at_page(browser: Browser, page: str) -> Browser:
    browser.base_url = page
    return browser


def opened(browser: Browser, body: str) -> Browser:
    browser.open(f"/?body={quote(body)}")
    return browser


def test_a_good_page_has_no_problems(at_page: Browser) -> None:
    opened(at_page, GOOD + "<link rel=icon href=data:,>")
    assert at_page.text("h1") == "Good"
    assert at_page.accessibility() == []
    assert at_page.problems() == []


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("<script>let a</script>", "policy violated: script-src-elem inline"),
        ("<p style='color: red'>", "policy violated: style-src-attr inline"),
        ("<script src='/script?body=console.error(%22said%22)'></script>", '"said"'),
        ("<script src='/script?body=throw Error(%22thrown%22)'></script>", "Uncaught Error: thrown"),
        ("<script src='/script?body=Promise.reject(Error(%22late%22))'></script>", "Uncaught Error: late"),
        ("<img src='/missing'>", "/missing"),
        (
            "<script src='/script?body=fetch(%22http://127.0.0.1:9/x%22)'></script>",
            "to another server: http://127.0.0.1:9/x",
        ),
    ],
)
def test_it_notices(at_page: Browser, body: str, problem: str) -> None:
    """Each in words that say what it was, and once it was told it is gone."""
    opened(at_page, GOOD + "<link rel=icon href=data:,>" + body)
    assert any(problem in found for found in at_page.problems())
    assert at_page.problems() == []


def test_what_a_test_expects_is_no_problem_but_has_to_happen(at_page: Browser) -> None:
    opened(at_page, GOOD + "<link rel=icon href=data:,><img alt='' src='/missing'>")
    assert at_page.problems(expected=["/missing"]) == []
    assert at_page.problems(expected=["/missing"]) == ["expected, but did not happen: /missing"]


def test_it_finds_what_keeps_people_out(at_page: Browser) -> None:
    opened(at_page, "<!doctype html><html><title>x</title><main><h1>x</h1><img src='data:,'></main>")
    assert {line.split()[0] for line in at_page.accessibility()} == {"html-has-lang", "image-alt"}


def test_it_is_what_a_test_asks_for(at_page: Browser) -> None:
    """Language, size and colours, and the next test's browser is an ordinary one with no cookie."""
    from tests.chromium import PHONE

    look = """
        const asked = new XMLHttpRequest();
        asked.open("GET", "/", false);
        asked.send();
        return [asked.getResponseHeader("X-Language").split(",")[0], navigator.language, innerWidth, innerHeight,
                matchMedia("(prefers-color-scheme: dark)").matches, Intl.DateTimeFormat().resolvedOptions().locale];
    """
    at_page.set(size=PHONE, language="ko", scheme="dark")
    opened(at_page, GOOD + "<meta name=viewport content='width=device-width'>")
    assert at_page.run(look) == ["ko-KR", "ko-KR", 390, 844, True, "ko-KR"]
    assert (at_page.cookies()["seen"]["httpOnly"], at_page.cookies()["seen"]["sameSite"]) == (True, "Strict")
    page = at_page.base_url
    at_page.reset()
    at_page.base_url = page
    opened(at_page, GOOD)
    assert at_page.run(look) == ["en-US", "en-US", 1280, 800, False, "en-US"]


def test_an_element_that_is_replaced_meanwhile_is_looked_for_again(browser: Browser) -> None:
    """Also where Chromium has no kind of its own for that; whatever else it says is the test's failure."""
    from selenium.common.exceptions import StaleElementReferenceException, WebDriverException

    def told(*faults: Exception) -> str:
        left = list(faults)

        def condition() -> str:
            if left:
                raise left.pop()
            return "found"

        return str(browser.wait(condition))

    replaced = "unknown error: unhandled inspector error: Node with given id does not belong to the document"
    assert told(StaleElementReferenceException(), WebDriverException(replaced)) == "found"
    with pytest.raises(WebDriverException, match="crashed"):
        told(WebDriverException("tab crashed"))


def test_a_screenshot_is_a_small_png(at_page: Browser, tmp_path: Path) -> None:
    opened(at_page, GOOD + "<div><svg width=1280 height=3000 /></div>")
    at_page.screenshot(tmp_path / "seen.png")
    at_page.screenshot(tmp_path / "whole.png", whole=True)
    assert png.Reader(bytes=(tmp_path / "seen.png").read_bytes()).read()[:2] == (1280, 800)
    assert png.Reader(bytes=(tmp_path / "whole.png").read_bytes()).read()[1] > 3000
    assert (tmp_path / "seen.png").stat().st_size < 20_000
