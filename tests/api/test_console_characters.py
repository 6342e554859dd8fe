"""The pages of characters: whose they show, who may change them, and that nothing of one becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from urllib.parse import quote, urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.store.tables import characters
from tests.api.test_characters import VERSIONS, bearer
from tests.api.test_console_sessions import MARKUP, count, shown
from tests.records import connected

PAGE = "/console/characters"
API = "/api/v1/characters"
FULL = {
    **dict.fromkeys(("description", "role", "speech_style", "system_message", "instructions", "first_message"), MARKUP),
    "nickname": MARKUP[:64],
    "model": MARKUP,
    "examples": [{"role": "assistant", "content": MARKUP}],
    "lore": [{"keywords": [MARKUP.partition("\x01")[0]], "text": MARKUP}],
    "lore_turns": 7,
    "max_tokens": 77,
    "temperature": 0.3,
}
__all__ = ["count"]


def test_a_form_has_all_that_a_character_has(client: FlaskClient) -> None:
    """As text; what the page's script sends back for what nobody touched is what is stored."""
    assert client.put(f"{API}/mina", json=FULL).status_code == 200
    page = shown(client, f"{PAGE}/mina")
    assert "<script>alert" not in page + shown(client, PAGE)
    assert "<img src=x" not in page + shown(client, PAGE)
    fields = set(re.findall(r'(?:name|data-part)="(\w+)"', page))
    assert fields >= FULL.keys() - {"lore", "examples"} | {"keywords", "text", "role", "content", "lore_max_tokens"}
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert data
    assert json.loads(data[1]) == FULL


def test_every_name_has_a_page(client: FlaskClient) -> None:
    """In every script, and `new`, which is the address of the form for a new one."""
    for name in ("Dr. Who", "미나", "✨Luna✨", "new"):
        client.put(f"{API}/{quote(name)}", json={"role": f"is {name}"})
    page = shown(client, PAGE)
    links = re.findall(r'<a class="name" href="([^"]*)">([^<]*)', page)
    assert len(links) == 4
    for link, name in links:
        assert f"is {name}" in shown(client, urljoin(f"http://x{PAGE}", link)[8:])
    assert "is new" not in shown(client, f"{PAGE}/new")
    assert shown(client, f"{PAGE}/a%2Fb", 404)


def test_versions_are_listed_and_an_old_one_is_only_read(client: FlaskClient) -> None:
    """It can be taken again."""
    for role in ("first", "second"):
        client.put(f"{API}/mina", json={"role": role})
    page = shown(client, f"{PAGE}/mina")
    assert "second" in page
    assert 'id="again"' not in page
    old = shown(client, f"{PAGE}/mina?version=1")
    assert "first" in old
    assert 'id="again"' in old
    assert re.findall(r"<textarea(?![^>]*readonly)", old) == []
    assert "data-add" not in old
    assert [re.findall(r'mina\?version=(\d)"', one) for one in (page, old)] == [["2", "1"]] * 2
    shown(client, f"{PAGE}/mina?version=3", 404)


def test_a_client_changes_its_own_only(make_app: Callable[..., Flask]) -> None:
    """Everybody's is an admin's to change; another client's is the same page as one that never was."""
    app = make_app(auth_mode="token")
    client = app.test_client()
    root, web, other = (bearer(app, name, admin=name == "root") for name in ("root", "web", "other"))
    client.put(f"{API}/mina", json={"shared": True}, headers=root)
    client.put(f"{API}/secret", json={}, headers=web)
    client.put(f"{API}/yuna", json={}, headers=root)
    page = shown(client, f"{PAGE}/mina", headers=web)
    assert "Save as my own" in page
    assert 'data-api="DELETE" data-path="api/v1/characters' not in page
    assert 'data-shared=""' in page
    page = shown(client, f"{PAGE}/mina", headers=root)
    assert 'data-path="api/v1/characters/mina?shared=true"' in page
    assert 'data-shared="true"' in page
    assert 'data-path="api/v1/characters/secret"' in shown(client, f"{PAGE}/secret", headers=web)
    hidden, never = (shown(client, f"{PAGE}/{name}", 404, headers=other) for name in ("secret", "never"))
    assert re.sub(r"[0-9a-f]{32,}|secret|never", "", hidden) == re.sub(r"[0-9a-f]{32,}|secret|never", "", never)
    assert "secret" not in shown(client, PAGE, headers=other)
    assert ['name="shared"' in shown(client, f"{PAGE}/new", headers=who) for who in (root, web)] == [True, False]


def test_a_list_of_ten_thousand_takes_two_queries(
    client: FlaskClient, database_url: str, count: Callable[[], int]
) -> None:
    """A page at a time, each once."""
    client.put(f"{API}/mina", json={"description": "{{char}} likes tea."})
    with connected(database_url) as connection:
        made = [{"client_id": None, "name": f"c{n:04d}", "version": 1} for n in range(9_999)]
        connection.execute(characters.insert(), made)
        connection.exec_driver_sql(VERSIONS)
    count()
    page = shown(client, PAGE)
    assert count() == 2
    found = re.search(r'rel="next" href="([^"]*)"', page)
    assert found
    page += shown(client, urljoin(f"http://x{PAGE}", found[1].replace("&amp;", "&"))[8:])
    assert re.findall(r'<a class="name"[^>]*>([^<]*)', page) == [f"c{n:04d}" for n in range(100)]
    assert "likes tea." in shown(client, f"{PAGE}?search=min")


@pytest.mark.parametrize("language", ["en", "ko"])
def test_an_empty_list_says_what_to_do(client: FlaskClient, language: str) -> None:
    """In the language of the page."""
    page = shown(client, PAGE, headers={"Accept-Language": language})
    assert {"en": "drop a character card", "ko": "캐릭터 카드(PNG 또는 JSON)를"}[language] in page
