"""The documents list the routes of the app."""

from __future__ import annotations

import json
import re
from pathlib import Path

from flask import Flask

from tests.server import ROOT
from tests.unit.test_documents import both


@both
def test_every_route_is_listed(app: Flask, page: Path) -> None:
    """Each route stands there as method and path, and no other does; the console's pages have their own document."""
    listed = re.findall(r"`((?:GET|POST|PUT|DELETE|PATCH) /\S*)`", page.read_text())
    routes = {
        f"{method} {rule.rule}"
        for rule in app.url_map.iter_rules()
        if not rule.rule.startswith("/console")
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert sorted(listed) == sorted(routes)


def test_the_korean_character_is_shown_as_it_is(app: Flask) -> None:
    """The page shows the example's request, and what the preview of it says."""
    page = (ROOT / "docs/overview/README.md").read_text()
    section = page.partition("## A character that speaks Korean")[2].partition("## From Python")[0]
    shown, script = (
        json.loads(re.search(r"-d '(\{.*?\n *\})'", text, re.DOTALL)[1])  # type: ignore[index]
        for text in (section, (ROOT / "examples/korean-character.sh").read_text())
    )
    assert shown == script
    preview = app.test_client().post("/api/v1/chat/preview", json=shown).get_json()
    unpacked = re.sub(r"^ {4}", "", section, flags=re.MULTILINE)
    system, *turns = json.loads(preview["upstream_body"])["input"]
    assert system["content"] in unpacked
    assert "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns) in unpacked
    tokens = json.dumps(preview["tokens"], separators=(",", ":"))
    assert f'"tokens":{tokens},"total_tokens":{preview["total_tokens"]}\n' in unpacked
