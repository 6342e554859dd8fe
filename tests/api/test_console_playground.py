"""The playground's page: what it offers to whom, and what is chosen when it opens."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask

from app.ledger.accounts import Accounts, Limits
from app.web.services import service
from tests.api.test_console import HTML, sign_in

PLAYGROUND = "/console/playground"


def shown(app: Flask, limits: Limits | None = None, path: str = PLAYGROUND, name: str = "web") -> str:
    """The page, as a new client gets it, or, without limits, as everybody does in open mode."""
    client = app.test_client()
    if limits is not None:
        sign_in(client, service(Accounts, app).add(name, limits))
    answer = client.get(path, headers=HTML)
    assert answer.status_code == 200
    return answer.text


def field(page: str, name: str) -> str:
    """The tag of a field."""
    found = re.search(rf'<[^>]* name="{name}"[^>]*>', page)
    assert found, name
    return found[0]


@pytest.mark.parametrize(
    ("settings", "limits", "free"),
    [
        ({"auth_mode": "open"}, None, True),
        ({"auth_mode": "open", "openai_api_key": ""}, None, False),
        ({"auth_mode": "token"}, Limits(), True),
        ({"auth_mode": "token"}, Limits(admin=True), True),
        ({"auth_mode": "token"}, Limits(free_mode=False), False),
    ],
)
def test_free_mode_is_on_where_the_server_can_pay(
    make_app: Callable[..., Flask], settings: dict[str, Any], limits: Limits | None, free: bool
) -> None:
    """Else there is a field for a key, which no browser keeps."""
    page = shown(make_app(**settings), limits)
    assert ("checked" in field(page, "free_mode")) is free
    assert ("disabled" in field(page, "free_mode")) is (limits is not None and not limits.free_mode)
    assert ('id="own-key" class="row" hidden' in page) is free
    assert 'type="password" autocomplete="new-password"' in field(page, "key")
    assert ('"needsToken": true' in page) is (settings["auth_mode"] == "token")


def test_the_address_chooses_session_and_character(make_app: Callable[..., Flask]) -> None:
    """As text, whatever they hold; and a conversation is remembered where the server keeps sessions."""
    app = make_app()
    app.test_client().put("/api/v1/characters/mina", json={"role": "a bookseller"})
    page = shown(app, path=f"{PLAYGROUND}?session={quote('<b>&')}&character=mina%403")
    assert 'value="&lt;b&gt;&amp;"' in field(page, "session_id")
    assert re.findall(r'<option value="(\w[^"]*)"( selected)?>', page)[:2] == [("mina@3", " selected"), ("mina", "")]
    assert "checked" in field(page, "remember")
    assert "disabled" in field(shown(make_app(sessions=False)), "remember")
    assert app.test_client().get(f"{PLAYGROUND}?session={'x' * 129}", headers=HTML).status_code == 422


def test_a_client_is_offered_what_is_its_own(make_app: Callable[..., Flask]) -> None:
    """Its characters and everybody's, the models that it may use, and where its key may belong."""
    app = make_app(auth_mode="token", default_model="gpt-4o")
    other, admin = app.test_client(), app.test_client()
    for client, name, shared in ((other, "theirs", ""), (admin, "everybodys", "?shared=true")):
        token = service(Accounts, app).add(name, Limits(admin=client is admin))
        headers = {"Authorization": f"Bearer {token}"}
        assert client.put(f"/api/v1/characters/{name}{shared}", json={"role": "x"}, headers=headers).status_code == 200
    page = shown(app, Limits(models="gpt-4o-mini,claude-*"))
    assert 'value="everybodys"' in page
    assert 'value="theirs"' not in page
    datalist = re.search(r"<datalist.*</datalist>", page)
    assert datalist
    assert re.findall(r'value="([^"]+)"', datalist[0]) == ["gpt-4o-mini"]
    assert ' name="upstream"' not in page
