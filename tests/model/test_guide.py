"""What README and the guide have to be pasted works, in order, with the local model."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ROOT, Server
from tests.unit.test_translations import code_blocks

HOME = "http://127.0.0.1:5601"
STRICT = 'curl() { command curl -S --fail-with-body --max-time 130 "$@"; }\n'
"""Before the commands: a request that fails ends them."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("guide"), LOCAL_MODEL="demo", patience_seconds=90) as server:
        yield server


def paste(server: Server, directory: Path, *blocks: str) -> str:
    """Run commands of a document as they are, but for the address and the length of the answers; give what they say."""
    commands = "\n".join(blocks).replace(HOME, server.url).replace('"max_tokens": 60', '"max_tokens": 16')
    command = ["sh", "-e", "-c", STRICT + commands]
    ran = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_ten_turns_in_korean_from_the_readme(demo: Server, tmp_path: Path) -> None:
    """A character speaks in each of them, and all ten are remembered."""
    (commands,) = [block for block in code_blocks((ROOT / "README.md").read_text()) if '"remember"' in block]
    paste(demo, tmp_path, commands)
    session = demo.request("GET", "/api/v1/sessions/s-1").json
    assert (session["turn_count"], session["character"]) == (10, "mina@1")
    assert [turn["user_message"] for turn in session["turns"]][::9] == ["안녕?", "또 올게!"]
    assert all(turn["response_text"] and not turn["interrupted"] for turn in session["turns"])


def test_the_guide_can_be_pasted(demo: Server, tmp_path: Path) -> None:
    """From the character to the end of the tour, which leaves nothing behind."""
    blocks = code_blocks((ROOT / "docs" / "guide" / "README.md").read_text())
    commands = [block for block in blocks if block.split()[0].startswith(("URL=", "curl", "for"))]
    assert len(commands) == 8
    said = paste(demo, tmp_path, *commands)
    for expected in ("event: segment", '"turn":3', '"answer_text":', '"title":"바닷가"', '"covers":3', '"notice":'):
        assert expected in said
    assert len((tmp_path / "seaside-1.jsonl").read_text().splitlines()) == 5
    left = demo.request("GET", "/api/v1/sessions").json["sessions"]
    assert [session["session_id"] for session in left if session["session_id"].startswith("seaside")] == []
