"""The playground in a browser: chatting, stopping, going on, and that what is shown is what is sent."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import png
import pytest

from tests.conftest import CALLER_KEY
from tests.server import ROOT, Server
from tests.streams import endless, response_events, stream
from tests.upstream import Answer, Received, Upstream, error_document, pieces, reply

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chromium import Browser

PLAYGROUND = "/console/playground"
NODE = ROOT / ".venv-clients" / "bin" / "node"
MARKUP = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
GIVE = """
const data = new DataTransfer();
data.items.add(new File([new Uint8Array(3)], "small.png", {type: "image/png"}));
const options = {bubbles: true, cancelable: true, clipboardData: data, dataTransfer: data};
const event = arguments[0] === "paste" ? new ClipboardEvent("paste", options) : new DragEvent("drop", options);
document.getElementById("message").dispatchEvent(event);
"""
ENTER, ESCAPE = "\ue007", "\ue00c"


@pytest.fixture(scope="module")
def server(start_shared: Callable[..., Server]) -> Server:
    server = start_shared()
    mina = {"nickname": "<b>미나</b>", "first_message": "{{user}}, I am {{char}} " + MARKUP}
    assert server.request("PUT", "/api/v1/characters/mina", mina).status == 200
    return server


@pytest.fixture
def page(browser: Browser, server: Server, shared_upstream: Upstream) -> Browser:
    browser.base_url = server.url
    shared_upstream.received.clear()
    shared_upstream.script_anew()
    return browser


def type_in(page: Browser, text: str) -> None:
    """Where the focus is."""
    page.driver.switch_to.active_element.send_keys(text)


def answered(page: Browser, count: int = 1) -> None:
    """Wait until so many answers are there, whole."""
    page.wait(lambda: len(page.all("#log .facts")) == count and not page.all("#log [aria-busy=true]"))


def as_sent(page: Browser) -> str:
    """What the preview shows as the exact bytes."""
    page.click("[data-form=raw]")
    return str(page.run("return document.getElementById('bytes').textContent"))


def bodies(upstream: Upstream) -> list[str]:
    return [received.body.decode() for received in upstream.received]


def held(parts: list[bytes], release: threading.Event) -> Answer:
    """A stream whose first text comes at once and the rest when it is released."""
    begin, rest = stream(parts[:2], close=False), pieces(parts[2:])

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        await begin(received, writer)
        while not release.is_set():
            await asyncio.sleep(0.01)
        await rest(received, writer)

    return answer


def test_a_first_message_is_answered_as_it_comes(page: Browser, server: Server, shared_upstream: Upstream) -> None:
    """By the keyboard alone, with nothing set; its cost is told, and what was sent is what was shown before."""
    release = threading.Event()
    shared_upstream.script(held(response_events("The capital ", "of France is Paris."), release))
    page.open(PLAYGROUND)
    type_in(page, "The capital?")
    page.wait(lambda: page.all("#parts .tokens"))
    shown = as_sent(page)
    page.run("document.getElementById('message').focus()")
    type_in(page, ENTER)
    page.wait(lambda: "The capital" in page.text("[aria-busy=true]"))
    release.set()
    answered(page)
    assert bodies(shared_upstream) == [shown]
    assert page.text("#log .answer").endswith("The capital of France is Paris.")
    request_id = page.text("#log .facts code")
    row = server.request("GET", f"/api/v1/usage/requests/{request_id}").json
    facts = page.text("#log .facts")
    assert "11 tokens in, 7 out" in facts
    assert f"cost ${row['cost_usd']}" in facts
    assert "paid by the server's key" in facts
    assert page.all(f'#log a[href$="console/usage/{request_id}"]')
    assert page.accessibility() == []
    assert page.problems() == []


def test_a_remembered_conversation_goes_on_after_a_reload(page: Browser, shared_upstream: Upstream) -> None:
    """Its address names it; the turns are shown, and sent again by the server."""
    shared_upstream.script(*[stream(response_events(text)) for text in ("Hello, Mina.", "Mina.", "Mina.")])
    page.open(f"{PLAYGROUND}?character=mina")
    page.wait(lambda: MARKUP in page.text("#log .answer"))
    type_in(page, f"My name is Mina.{ENTER}")
    answered(page, 2)
    page.wait(lambda: "session=play-" in page.path)
    page.driver.refresh()
    page.wait(lambda: "Hello, Mina." in page.text("#log"))
    type_in(page, f"What is my name?{ENTER}")
    answered(page, 3)
    said = [turn["content"] for turn in shared_upstream.received[-1].json["input"]][-4:]
    assert said == [said[0], "My name is Mina.", "Hello, Mina.", "What is my name?"]
    assert said[0].endswith(f"I am <b>미나</b> {MARKUP}")
    type_in(page, f"What is my name?{ENTER}")
    answered(page, 4)
    assert as_sent(page) == bodies(shared_upstream)[-1] != bodies(shared_upstream)[-2]
    page.click("#anew")
    page.wait(lambda: "Hello, Mina." not in page.text("#log"))
    assert page.problems() == []


@pytest.mark.parametrize("remembered", [True, False])
def test_stop_closes_the_call_to_the_upstream(
    page: Browser, server: Server, shared_upstream: Upstream, remembered: bool
) -> None:
    """Of a remembered answer what was shown is kept; else the page itself sends it with the next message."""
    shared_upstream.script(endless("Once upon ", "a time 🌊"), stream(response_events("Then.")))
    page.open(PLAYGROUND)
    if not remembered:
        page.click("[name=remember]")
    page.find("#message").send_keys(f"A story{ENTER}")
    page.wait(lambda: "a time" in page.text("#log .answer"))
    page.click("#stop") if remembered else type_in(page, ESCAPE)
    page.wait(lambda: shared_upstream.received[0].left_early)
    page.wait(lambda: "stopped" in page.text("#log .facts"))
    session = page.run("return document.querySelector('[name=session_id]').value")
    kept = server.request("GET", f"/api/v1/sessions/{session}")
    assert (kept.status == 200) is remembered
    if remembered:
        turn = kept.json["turns"][0]
        assert (turn["response_text"], turn["interrupted"]) == ("Once upon a time 🌊", True)
        assert server.request("GET", f"/api/v1/usage/requests/{turn['request_id']}").json["code"] == "turn_interrupted"
    page.find("#message").send_keys(f"And then?{ENTER}")
    answered(page, 2)
    said = [turn["content"] for turn in shared_upstream.received[1].json["input"][1:]]
    assert said == ["A story", "Once upon a time 🌊", "And then?"]
    assert page.problems() == []


@pytest.mark.parametrize(("language", "words"), [("en", "fails again"), ("ko", "다시 실패합니다")])
def test_an_error_is_told_and_tried_again(page: Browser, shared_upstream: Upstream, language: str, words: str) -> None:
    """In the page's language, with its code and id; nothing that was typed is lost, and markup in it stays text."""
    refused = error_document("invalid_value")
    refused["error"]["message"] = MARKUP
    broken = response_events("half")[:2]
    shared_upstream.script(reply(400, refused), stream(broken), stream(response_events("Good.")))
    page.set(language=language)
    page.open(PLAYGROUND)
    type_in(page, f"Question {MARKUP}{ENTER}")
    told = page.text("#log .notice")
    assert MARKUP in told
    assert words in told
    assert "upstream_rejected_request" in told
    assert ("AI 서비스" in told) is (language == "ko")
    assert page.text("#log .facts code")
    assert page.accessibility() == []
    page.click("#log .notice button")
    page.wait(lambda: "half" in page.text("#log .answer") and page.all("#log .notice"))
    page.click("#log .notice button")
    answered(page)
    assert page.text("#log .answer").endswith("Good.")
    assert [MARKUP in body for body in bodies(shared_upstream)] == [True] * 3
    assert page.problems(expected=["400"]) == []


def test_markup_stays_text(page: Browser, shared_upstream: Upstream) -> None:
    """Of a session's name, an answer with segments, and a name of a character in the address."""
    shared_upstream.script(stream(response_events(f"[happy] Yes {MARKUP}! ", f"And {MARKUP}")))
    page.open(f"{PLAYGROUND}?character={MARKUP[:60]}&session={MARKUP[:28].replace(' ', '%20')}")
    page.click("#more summary")
    page.click("[name=segments]")
    page.find("[name=segment_tags]").send_keys("happy, [sad]")
    page.run("document.querySelector('[name=character]').value = ''")
    page.find("#message").send_keys(f"hi{ENTER}")
    answered(page)
    assert [piece.text for piece in page.all("#log .piece")] == [f"happy Yes {MARKUP}! ", f"And {MARKUP}"]
    assert page.text("#log .tag") == "happy"
    page.driver.refresh()
    page.wait(lambda: MARKUP in page.text("#log .answer"))
    assert not page.all("main img, main script:not([type='application/json'])")
    assert page.problems(expected=["404", "404"]) == []


def test_pictures_and_a_schema_reach_the_upstream(page: Browser, shared_upstream: Upstream, tmp_path: Path) -> None:
    """A large picture is made smaller, what is no picture is left out, a schema that is no JSON is not sent."""
    shared_upstream.script(*[stream(response_events('{"city":"서울"}'))] * 2)
    noise = [random.randbytes(1200) for _ in range(700)]
    with open(tmp_path / "large.png", "wb") as file:
        png.Writer(1200, 700, greyscale=True).write(file, noise)
    (tmp_path / "text.txt").write_text("no picture")
    page.open(PLAYGROUND)
    page.run("document.getElementById('files').classList.remove('unseen')")
    page.all("#files")[0].send_keys(f"{tmp_path}/large.png\n{tmp_path}/text.txt")
    page.wait(lambda: page.all("#pictures img"))
    assert "PNG, JPEG" in page.text("#pictures")
    for count, event in enumerate(("paste", "drop"), start=2):
        page.run(GIVE, event)
        page.wait(lambda count=count: len(page.all("#pictures img")) == count)
    page.click("#pictures span:last-of-type button")
    page.click("#more summary")
    page.find("[name=response_schema]").send_keys('{"type": ')
    page.find("#message").send_keys(f"Which city?{ENTER}")
    assert page.text("#wrong-response_schema")
    page.find("[name=response_schema]").send_keys('"object"}')
    page.wait(lambda: not page.all("#wrong-response_schema"))
    page.click("[name=remember]")
    page.wait(lambda: '"response_schema"' in page.text("#code") and '"remember"' not in page.text("#code"))
    code = page.run("return document.getElementById('code').textContent")
    assert subprocess.run(["bash"], input=code, capture_output=True, text=True, timeout=30).returncode == 0
    page.find("#message").send_keys(ENTER)
    answered(page)
    assert bodies(shared_upstream)[0] == bodies(shared_upstream)[1]
    sent = shared_upstream.received[0].json
    text, picture, pasted = sent["input"][-1]["content"]
    assert text["text"] == "Which city?"
    assert picture["image_url"].startswith("data:image/jpeg;base64,")
    assert pasted["image_url"] == "data:image/png;base64,AAAA"
    assert sent["text"]["format"]["schema"] == {"type": "object"}
    assert page.text("#log .answer pre") == '{\n  "city": "서울"\n}'
    assert not page.all("#pictures img")
    assert page.problems() == []


def test_composing_a_syllable_does_not_send(page: Browser, shared_upstream: Upstream) -> None:
    """Enter ends the syllable; the next one sends. With Shift it begins a line."""
    page.open(PLAYGROUND)
    page.find("#message").click()
    devtools: Any = page.driver.execute_cdp_cmd
    enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    devtools("Input.imeSetComposition", {"text": "안녕", "selectionStart": 2, "selectionEnd": 2})
    devtools("Input.dispatchKeyEvent", {"type": "rawKeyDown"} | enter)
    devtools("Input.insertText", {"text": "안녕"})
    assert page.run("return document.getElementById('message').value") == "안녕"
    type_in(page, "\ue008\ue007\ue000하세요")
    assert page.run("return document.getElementById('message').value") == "안녕\n하세요"
    assert not shared_upstream.received
    type_in(page, ENTER)
    answered(page)
    assert shared_upstream.received[0].json["input"][-1]["content"] == "안녕\n하세요"


def test_copied_code_runs_as_it_is_pasted(page: Browser, shared_upstream: Upstream) -> None:
    """In each language it sends what the page would send, quotes and all, and prints the answer. A key is not in it."""
    message = """It's "$HOME" `id` \\n %s {x} !! 안녕 😀"""
    page.open(PLAYGROUND)
    page.click("[name=remember]")
    page.click("#more summary")
    page.find("[name=instructions]").send_keys("It's brief\nand 'true'")
    page.run(
        "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
        page.find("#message"),
        message,
    )
    page.wait(lambda: "It's" in page.text("#bytes"))
    shown = as_sent(page)
    runners = {"curl": ["bash"], "python": [sys.executable, "-"], "javascript": [NODE, "--input-type=module"]}
    for name, command in runners.items():
        shared_upstream.script(stream(response_events("Good ", "answer")))
        page.click(f"[data-code={name}]")
        code = page.run("return document.getElementById('code').textContent")
        done = subprocess.run(command, input=code, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, (name, done.stderr)
        assert ("answer" if name == "curl" else "Good answer") in done.stdout
        assert bodies(shared_upstream)[-1] == shown, name
    for has_clipboard in (True, False):
        if not has_clipboard:
            page.run("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        page.click(f"[data-code={'curl' if has_clipboard else 'python'}]")
        page.click("section:has(#code) .copy")
        page.wait(lambda: page.text("section:has(#code) .copy") == "Copied")
        page.find("[name=user]").send_keys("\ue009a\ue000\ue009v\ue000")
        pasted = page.run("return document.querySelector('[name=user]').value")
        assert pasted.startswith("curl" if has_clipboard else "import json")
    page.run("document.querySelector('[name=user]').value = ''")
    page.click("[name=free_mode]")
    type_in(page, CALLER_KEY)
    page.wait(lambda: "YOUR_KEY" in page.text("#code"))
    page.find("#message").send_keys(ENTER)
    answered(page)
    assert shared_upstream.received[-1].key == CALLER_KEY
    assert "paid by your key" in page.text("#log .facts")
    source, stored = "document.documentElement.outerHTML + location", "JSON.stringify([localStorage, sessionStorage])"
    assert CALLER_KEY not in page.run(f"return {source} + document.cookie + {stored}")
    assert page.problems() == []
