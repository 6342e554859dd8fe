"""The console's usage in a browser: plots with the ledger's sums, which one can hover or read as a table."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from app.units import MICROSECONDS
from tests.conftest import SERVER_KEY
from tests.ledgers import write_requests
from tests.server import Server

if TYPE_CHECKING:
    from tests.chromium import Browser

REQUESTS = 300
MARKUP = "<img src=x onerror=alert(1)></script>"


@pytest.fixture(scope="module")
def server(start_shared: Callable[..., Server]) -> Server:
    """In open mode, with 300 requests of the last ten hours, some of which name a model of markup."""
    server = start_shared(OPENAI_API_KEY=SERVER_KEY)
    url = server.environ["DATABASE_URL"]
    until = int(time.time()) * MICROSECONDS
    write_requests(url, REQUESTS, until=until, apart=120 * MICROSECONDS)
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE requests SET model = :model WHERE id % 10 = 0"), {"model": MARKUP})
    return server


@pytest.fixture
def usage(browser: Browser, server: Server) -> Browser:
    browser.base_url = server.url
    return at(browser, "/console/usage")


def at(browser: Browser, path: str) -> Browser:
    browser.open(path)
    browser.wait(lambda: not browser.all("[aria-busy=true]"))
    return browser


def sums(browser: Browser) -> list[str]:
    return [found.text for found in browser.all("[data-sum]")]


def test_the_plots_have_the_ledgers_sums(usage: Browser, server: Server) -> None:
    """As the API tells them, on the page, in words, and added up over the table of the values."""
    told: dict[str, Any] = server.request("GET", "/api/v1/usage/series").json["sums"]
    assert told["requests"] == REQUESTS
    shown = sums(usage)
    assert shown[0] == f"{told['requests']}, {told['failed']} failed"
    assert shown[1] == f"{told['input_tokens']:,} in, {told['output_tokens']:,} out"
    assert shown[2] == f"${told['cost_usd']}, unknown for {told['requests_of_unknown_cost']} requests"
    assert all(len(figure.find_elements("css selector", "canvas")) == 1 for figure in usage.all("[data-plot]"))
    described = [place.get_attribute("aria-label") or "" for place in usage.all("[role=img]")]
    assert all(words.startswith(line) for words, line in zip(described, shown, strict=True))
    usage.click("#values summary")
    cells = usage.run(
        "return [...document.querySelectorAll('#values tbody tr')].map((row) => row.cells[1].textContent)"
    )
    assert sum(int(cell) for cell in cells) == REQUESTS
    assert usage.accessibility() == []
    assert usage.problems() == []


def test_a_plot_is_hovered(usage: Browser) -> None:
    """The values at the pointer stand below each plot; another theme draws it anew."""
    from selenium.webdriver import ActionChains

    place = usage.find("[data-plot=requests] .u-over")
    ActionChains(usage.driver).move_to_element(place).perform()
    values = usage.wait(lambda: [found.text for found in usage.all("[data-plot=requests] .u-value")])
    assert usage.wait(lambda: all(found.text != "–" for found in usage.all("[data-plot=requests] .u-value"))), values
    assert usage.run("return document.querySelectorAll('.uplot').length") == 4
    usage.click("[data-theme-switch]")
    usage.wait(lambda: usage.run("return document.querySelectorAll('.uplot').length") == 4)
    assert usage.problems() == []


def test_filters_and_order(usage: Browser) -> None:
    """Each keeps what the others chose, and a name of markup can be chosen as any other."""
    usage.click("a[href*='period=7d']")
    usage.click("a[href*='by=session']")
    usage.click("th a[href*='sort=cost_usd']")
    usage.wait(lambda: not usage.all("[aria-busy=true]"))
    assert all(part in usage.path for part in ("period=7d", "by=session", "sort=cost_usd"))
    assert usage.text("th[aria-sort]").startswith("Cost")
    usage.find("[name=model]").send_keys(MARKUP)
    usage.click(".filters button.main")
    usage.wait(lambda: "model=%3Cimg" in usage.path and not usage.all("[aria-busy=true]"))
    assert sums(usage)[0].startswith("30,")
    assert usage.find("[name=model]").get_attribute("value") == MARKUP
    usage.click("table a[href*='console/usage/r-']")
    assert usage.path.startswith("/console/usage/r-")
    assert MARKUP in usage.text("main")
    assert usage.all(".life rect.upstream")
    assert usage.problems() == []
