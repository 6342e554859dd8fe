"""What a client does with what the server keeps for it: reading and changing a session, and making a character."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.test_pages import MARKUP, added
from tests.browser.test_running_it import sign_in
from tests.cards import V3, coded, compressed, international, png
from tests.conftest import SERVER_KEY
from tests.server import Server
from tests.upstream import Upstream, reply, response_document

if TYPE_CHECKING:
    from tests.chromium import Browser

DROP = """
const [name, type, coded] = arguments;
const bytes = Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], name, {type}));
for (const kind of ["dragover", "drop"])
    document.body.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
"""
FETCH = "const [url, done] = arguments; fetch(url).then((answer) => answer.text()).then(done)"


@pytest.fixture(scope="module")
def server(start_shared: Callable[..., Server], shared_upstream: Upstream) -> Server:
    shared_upstream.default = reply(200, response_document(f"It said {MARKUP}"))
    return start_shared(AUTH_MODE="token", OPENAI_API_KEY=SERVER_KEY)


@pytest.fixture(scope="module")
def token(server: Server) -> str:
    return added(server, "web")


def drop(browser: Browser, name: str, kind: str, content: bytes) -> None:
    """Let a file fall onto the middle of the page."""
    browser.run(DROP, name, kind, base64.b64encode(content).decode())


def write(browser: Browser, selector: str, text: str) -> None:
    """In the place of what stands in the field."""
    field = browser.find(selector)
    field.clear()
    field.send_keys(text)


def values(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run("return [...document.querySelectorAll(arguments[0])].map((f) => f.value)", selector)
    return found


def told(server: Server, token: str, path: str) -> Any:
    return server.request("GET", f"/api/v1/{path}", headers={"Authorization": f"Bearer {token}"}).json


def test_a_session_is_read_changed_exported_and_deleted(browser: Browser, server: Server, token: str) -> None:
    """And what was exported is taken in again under another id, by letting the file fall onto the page."""
    headers = {"Authorization": f"Bearer {token}"}
    for message in ("one", "two", MARKUP):
        assert server.chat(message, session_id="tea", remember=True, headers=headers).status == 200
    sign_in(browser, server, token, "console/sessions")
    browser.click("a.name")
    assert [one.text.splitlines()[1] for one in browser.all(".said.user")] == ["one", "two", MARKUP]
    assert browser.text(".said:not(.user)") == f"Answer\nIt said {MARKUP}"

    write(browser, "[name=title]", MARKUP)
    browser.click("[data-add]")
    browser.find("[data-part=name]").send_keys("place")
    browser.find("[data-part=value]").send_keys("Seoul\nHan river")
    browser.click("#change .main")
    browser.wait(lambda: browser.text("h1") == MARKUP)
    write(browser, "[name=title]", "Tea")
    browser.click("#change .main")
    browser.wait(lambda: browser.text("h1") == "Tea")
    kept = told(server, token, "sessions/tea")
    assert (kept["title"], kept["metadata"]) == ("Tea", {"place": "Seoul\nHan river"})

    write(browser, "[name=text]", "  ")
    write(browser, "[name=covers]", "2")
    browser.click("[data-api=PUT] .main")
    assert "not blank" in browser.text("#wrong-text")
    assert browser.accessibility() == []
    write(browser, "[name=text]", MARKUP)
    browser.click("[data-api=PUT] .main")
    browser.wait(lambda: "turns 1 to 2 of 3" in browser.text("main"))
    assert len(browser.all(".turns .state")) == 2
    assert told(server, token, "sessions/tea")["summary"]["text"] == MARKUP

    link = browser.find("[download]").get_attribute("href")
    exported = browser.driver.execute_async_script(FETCH, link)
    assert exported == server.request("GET", "/api/v1/sessions/tea/export", headers=headers).body.decode()
    assert browser.find("[download]").get_attribute("download") == "tea.jsonl"
    browser.open("/console/sessions")
    drop(browser, "tea.jsonl", "", exported.encode())
    browser.wait(lambda: values(browser, "[name=session_id]") == ["tea"])
    browser.click("#take-in .main")
    browser.wait(lambda: "session of this name" in browser.text("#problem"))
    write(browser, "[name=session_id]", "tea? #2")
    browser.click("#take-in .main")
    browser.wait(lambda: browser.path == "/console/sessions/tea%3F%20%232")
    assert (browser.text("h1"), len(browser.all(".said"))) == ("Tea", 6)

    browser.click(".head .danger")
    browser.wait(lambda: browser.driver.switch_to.alert).accept()
    browser.wait(lambda: browser.path == "/console/sessions")
    assert [one.text for one in browser.all("table code")] == ["tea"]
    assert browser.problems(expected=["422", "409"]) == []


CARD = V3 | {"data": V3["data"] | {"name": "<b>Mi/na</b>", "nickname": "", "creator_notes": MARKUP}}


@pytest.mark.parametrize(
    "picture",
    [
        png(compressed(b"ccv3", coded(CARD))),
        png(international(b"chara", coded(CARD), is_compressed=True)),
        json.dumps(CARD, ensure_ascii=False).encode(),
    ],
)
def test_a_dropped_card_is_a_character(browser: Browser, server: Server, token: str, picture: bytes) -> None:
    """Under a name made of the card's own; what has no use here is told."""
    sign_in(browser, server, token, "console/characters")
    is_json = picture[:1] == b"{"
    drop(browser, "card.json" if is_json else "card.png", "application/json" if is_json else "image/png", picture)
    browser.wait(lambda: values(browser, "#take-in [name=name]") == ["b Mi na b"])
    write(browser, "#take-in [name=name]", "Mi/na")
    browser.click("#take-in .main")
    assert "begin with a letter" in browser.text("#wrong-name")
    write(browser, "#take-in [name=name]", "Seraphina")
    browser.click("#take-in .main")
    taken = browser.text("#taken")
    assert "Seraphina is here, in version " in taken
    assert "creator_notes" in taken
    assert browser.accessibility() == []
    browser.click("#taken-open")
    browser.wait(lambda: browser.path == "/console/characters/Seraphina")
    assert values(browser, "[name=nickname]") == ["<b>Mi/na</b>"]
    assert values(browser, "#lore textarea") == ["용", "용은 산에 산다."]
    browser.click(".head .danger")
    browser.wait(lambda: browser.driver.switch_to.alert).accept()
    browser.wait(lambda: browser.path == "/console/characters")
    assert browser.problems() == []


def test_what_is_everybodys_is_saved_as_ones_own(browser: Browser, server: Server, token: str) -> None:
    """By who may not change it for everybody, in version 1 like the other; from then on that is the one it sees."""
    headers = {"Authorization": f"Bearer {added(server, 'root', '--admin')}"}
    yuna = {"role": "for all", "shared": True}
    assert server.request("PUT", "/api/v1/characters/yuna", yuna, headers).status == 200
    sign_in(browser, server, token, "console/characters/yuna")
    assert "everybody's" in browser.text("h1")
    browser.click(".save .main")
    browser.wait(lambda: "Saved as version 1" in browser.text("#done"))
    assert browser.text("h1") == "yuna @1"
    assert not told(server, token, "characters/yuna")["shared"]
    assert told(server, token, "characters/yuna?shared=true")["role"] == "for all"
    assert browser.problems() == []


def test_a_character_is_made_changed_and_taken_back(browser: Browser, server: Server, token: str) -> None:
    """By keyboard; a broken rule stands beside its field, and what nobody touched stays to the letter."""
    first = {"description": "one\r\ntwo", "lore": [{"keywords": ["a\nb"], "text": MARKUP}, {"text": "always"}]}
    sign_in(browser, server, token, "console/characters/new")
    write(browser, "#character [name=name]", "a/b")
    browser.find("#character [name=description]").send_keys("one")
    browser.click("#character .save .main")
    assert "begin with a letter" in browser.text("#wrong-name")
    write(browser, "#character [name=name]", "new")
    browser.click("#character .save .main")
    browser.wait(lambda: "Saved as version 1" in browser.text("#done"))
    assert browser.path == "/console/characters/new?version=1"

    headers = {"Authorization": f"Bearer {token}"}
    assert server.request("PUT", "/api/v1/characters/mina", first, headers).status == 200
    browser.open("/console/characters/mina")
    browser.find("[name=temperature]").send_keys("3")
    browser.click("[data-add=lore]")
    browser.driver.switch_to.active_element.send_keys("/x+/")
    browser.click("[data-add=lore]")
    browser.driver.switch_to.active_element.send_keys("용")
    browser.click(".save .main")
    assert browser.text("#wrong-temperature") == "must be from 0 to 2"
    rules = browser.wait(lambda: [one.text for one in browser.all("#lore li > .wrong")])
    assert rules == ["must not be blank", "must not be blank"]
    assert browser.all("#lore li")[2].find_elements("css selector", ".wrong")
    assert browser.accessibility() == []
    write(browser, "[name=temperature]", "0.5")
    for number, text in ((2, "third"), (3, "용은 산에 산다.")):
        browser.all("#lore [data-part=text]")[number].send_keys(text)
    browser.click(".save .main")
    browser.wait(lambda: "regular expression" in browser.text("#lore"))
    browser.all("#lore [data-remove]")[2].click()
    browser.all("#lore [data-up]")[2].click()
    browser.click(".save .main")
    browser.wait(lambda: "Saved as version 2" in browser.text("#done"))
    second = told(server, token, "characters/mina")
    entry = {"keywords": ["용"], "text": "용은 산에 산다."}
    assert second["lore"] == [first["lore"][0], entry, first["lore"][1]]
    assert (second["description"], second["temperature"], second["version"]) == (first["description"], 0.5, 2)
    browser.click(".save .main")
    browser.wait(lambda: "still version 2" in browser.text("#done"))

    browser.click(".versions a[href*='version=1']")
    browser.click("#again")
    browser.wait(lambda: "Saved as version 3" in browser.text("#done"))
    third = told(server, token, "characters/mina")
    assert {name: third.get(name) for name in first} == first
    assert "temperature" not in third
    assert len(browser.all(".versions li")) == 3
    assert browser.problems(expected=["422", "422"]) == []
