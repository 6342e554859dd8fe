"""The pages of sessions: whose they show, whatever their ids and texts are, and how many queries that takes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import escape
from typing import Any
from urllib.parse import quote, unquote, urljoin

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.ledger.accounts import Accounts, Limits
from app.store.database import Database
from app.store.tables import sessions
from app.web.services import service
from tests.api.test_console import HTML
from tests.api.test_sealed_sessions import FIRST, SECOND
from tests.api.test_sessions import say
from tests.records import connected

PAGE = "/console/sessions"
API = "/api/v1/sessions"
MARKUP = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{7*7}}\x01\x1b[31m"
ODD = "a b?c#d%2F&\"<i>'é…한"


def shown(client: FlaskClient, path: str, status: int = 200, **options: Any) -> str:
    answer = client.get(path, headers=HTML | options.pop("headers", {}), **options)
    assert answer.status_code == status, path
    return answer.text


def take_in(client: FlaskClient, name: str, turns: int = 1, **header: Any) -> None:
    """A session of so many turns, each with every text that a turn may have."""
    head = {"format": "llm-server-session", "version": 1, "character": "mina@2"} | header
    said = [{"user_message": f"q{n}", "response_text": f"a{n} {MARKUP}", "interrupted": n == 2} for n in range(turns)]
    lines = [head, *({"turn": n, "character": MARKUP, "model": MARKUP} | one for n, one in enumerate(said, start=1))]
    body = "".join(f"{json.dumps(line)}\n" for line in lines)
    answer = client.post(f"{API}/{quote(name, safe='')}/import", data=body, content_type="application/x-ndjson")
    assert answer.status_code == 201, answer.get_json()


@pytest.fixture
def count(app: Flask) -> Callable[[], int]:
    """How many queries there were since it was asked last."""
    database = service(Database, app)
    database.read(lambda connection: None)
    seen: list[str] = []

    @sa.event.listens_for(database._reading, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            seen.append(statement)

    def asked() -> int:
        number = len(seen)
        seen.clear()
        return number

    return asked


def test_any_id_and_any_text_is_shown_as_it_is(client: FlaskClient) -> None:
    """Every link of the list and of the page leads to it; no text becomes markup or another's link."""
    summary = {"text": f"\n{MARKUP}", "covers": 1}
    title = MARKUP.replace("\x01\x1b[31m", "")
    take_in(client, ODD, 3, title=title, metadata={MARKUP[:64]: MARKUP}, summary=summary)
    listed = shown(client, PAGE)
    (link,) = {link for link in re.findall(r'href="([^"]*)"', listed) if unquote(link).endswith(ODD)}
    path = urljoin(f"http://x{PAGE}", link).removeprefix("http://x")
    page = shown(client, path)
    for text in (listed, page):
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert escape(title).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in text
    for wanted in (
        f"api/v1/sessions/{quote(ODD, safe='')}/export",
        f"console/playground?session={quote(ODD, safe='')}",
    ):
        assert f'"../../{wanted}"' in page
    stored = re.findall(r"<textarea[^>]*>\n(.*?)</textarea>", page, re.DOTALL)
    assert stored[-1].startswith("\n&lt;/script"), "a browser leaves out the line behind the tag, and no other"
    assert page.count("interrupted</span>") == 1
    assert 'href="../../console/characters/mina?version=2"' in page


def test_turns_are_read_in_order_from_either_end(client: FlaskClient) -> None:
    """A page has the last turns, as they were said; its links lead to all others, each once."""
    take_in(client, "s-1", 45)
    for order in ("newest", "oldest"):
        seen, link = [], f"{PAGE}/s-1?order={order}"
        while link:
            page = shown(client, link)
            numbers = [int(number) for number in re.findall(r'<p class="about"><b>(\d+)</b>', page)]
            assert numbers == sorted(numbers)
            seen.append(numbers)
            found = re.search(r'rel="next" href="([^"]*)"', page)
            link = urljoin(f"http://x{PAGE}/s-1", found[1].replace("&amp;", "&"))[8:] if found else ""
        assert sorted(number for numbers in seen for number in numbers) == list(range(1, 46))
        assert [len(numbers) for numbers in seen] == [20, 20, 5]
    assert seen[0][0] == 1
    assert "<b>45</b>" in shown(client, f"{PAGE}/s-1")


def test_a_client_sees_its_own_only(make_app: Callable[..., Flask]) -> None:
    """Another's session is the same page as one that never was, for an admin too."""
    app = make_app(auth_mode="token")
    client = app.test_client()
    web, root = (service(Accounts, app).add(name, Limits(admin=name == "root")) for name in ("web", "root"))
    assert say(client, "secret", "s-1", web).get_json()["turn"] == 1

    def seen(token: str, path: str, status: int) -> str:
        page = shown(client, path, status, headers={"Authorization": f"Bearer {token}"})
        return re.sub(r"[0-9a-f]{32,}|s-1|s-2", "", page)

    assert "secret" in seen(web, f"{PAGE}/s-1", 200)
    assert seen(root, f"{PAGE}/s-1", 404) == seen(root, f"{PAGE}/s-2", 404)
    assert "No conversation is kept yet" in seen(root, PAGE, 200)
    assert "has an id that begins like this" in seen(root, f"{PAGE}?search=s-1", 200)


def test_a_list_takes_one_query_and_finds_the_one_that_is_meant(
    client: FlaskClient, database_url: str, count: Callable[[], int]
) -> None:
    """Of ten thousand; the session whose id is what was searched for stands above those that begin like it."""
    rows = [
        {"owner": 0, "name": f"s-{n}", "created_at": n, "updated_at": n, "turns": 1, "title": f"Title {n}"}
        for n in range(1, 10_001)
    ]
    with connected(database_url) as connection:
        connection.execute(sessions.insert(), rows)
    count()
    page = shown(client, PAGE)
    assert count() == 1
    assert re.findall(r'<a class="name"[^>]*>([^<]*)', page) == [f"Title {n}" for n in range(10_000, 9_950, -1)]
    found = re.search(r'rel="next" href="([^"]*)"', page)
    assert found
    page = shown(client, urljoin(f"http://x{PAGE}", found[1].replace("&amp;", "&"))[8:])
    assert "Title 9950<" in page
    page = shown(client, f"{PAGE}?search=s-77")
    names = re.findall(r'<a class="name"[^>]*>([^<]*)', page)
    assert names[:3] == ["Title 77", "Title 7799", "Title 7798"]
    assert names.count("Title 77") == 1


def test_a_session_that_cannot_be_read_can_be_deleted(make_app: Callable[..., Flask]) -> None:
    """Its page says which settings it is about, and nothing of it that is sealed."""
    take_in(make_app(session_key=FIRST).test_client(), "s-1", title="Tea")
    client = make_app(session_key=SECOND).test_client()
    assert "cannot be read" in shown(client, PAGE)
    page = shown(client, f"{PAGE}/s-1")
    assert "SESSION_KEY_OLD" in page
    assert 'data-api="DELETE" data-path="api/v1/sessions/s-1"' in page
    assert "Tea" not in page


def test_without_sessions_the_page_says_which_setting(make_app: Callable[..., Flask]) -> None:
    """In the language of the page."""
    client = make_app(sessions=False).test_client()
    assert "SESSIONS=true" in shown(client, PAGE)
    assert "세션이 꺼져 있습니다" in shown(client, PAGE, headers={"Accept-Language": "ko"})
    assert "Sessions are off" in shown(client, f"{PAGE}/s-1", 422)
