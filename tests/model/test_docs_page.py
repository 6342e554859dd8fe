"""/docs with the local model: a person who presses Execute on everything, from top to bottom, sees it succeed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.docs_page import DocsPage
from tests.server import Server

if TYPE_CHECKING:
    from tests.chromium import Browser

BEYOND_THE_MODEL = {
    *("post-v1-audio-speech", "post-v1-audio-transcriptions", "post-v1-images-generations"),
    *("post-v1-moderations", "post-v1-rerank"),
}
"""Routes that a model of text does not have. What llama.cpp says of them is told."""
ROW = "get-api-v1-usage-requests-request-id"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    command = (sys.executable, "-m", "app")
    with Server(tmp_path_factory.mktemp("docs"), command=command, WEB_CONCURRENCY=1, patience_seconds=90) as server:
        yield server


def test_every_first_execute_succeeds(browser: Browser, demo: Server) -> None:
    """In open mode, with what the page offers; where an id is known from another answer only, with that one."""
    browser.base_url = demo.url
    page, statuses = DocsPage(browser), {}
    offered = page.operations
    for section in page.sections:
        page.fold(section)
    for section in page.sections:
        page.fold(section)
        browser.find(".opblock")
        for operation in page.operations:
            row = demo.request("GET", "/api/v1/usage?limit=1").json["rows"] if operation == ROW else []
            values = {"request_id": row[0]["request_id"]} if row else {}
            statuses[operation], _ = page.execute(operation, **values)
        page.fold(section)
        browser.wait(lambda: not browser.all(".opblock"))
    assert list(statuses) == offered
    failed = {operation for operation, status in statuses.items() if status >= 300}
    assert failed == BEYOND_THE_MODEL
    assert len(browser.problems()) == len(failed)
