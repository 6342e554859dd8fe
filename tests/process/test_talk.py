"""The client of the guide, examples/talk.py, as it is: ten turns by segments, one of them interrupted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from tests.server import ROOT, Server
from tests.streams import delta, response_events, stream
from tests.upstream import Upstream

TALK = ROOT / "examples" / "talk.py"
ANSWERS = [response_events(f"[{turn}] 어서 와요! ", "오늘은 바람이 세네요.") for turn in range(1, 11)]
HEARD = "[3] 어"
"""Half of the sentence that was being spoken when the listener interrupted it."""


def test_ten_turns_are_remembered_as_they_were_heard(start_server: Callable[..., Server], upstream: Upstream) -> None:
    """Each sentence is spoken; the third answer is cut at the upstream, and later turns know what was heard of it."""
    endless = stream([*ANSWERS[2][:2], *[delta("음") for _ in range(200)]], pause=0.1, close=False)
    upstream.script(*(endless if turn == 2 else stream(events) for turn, events in enumerate(ANSWERS)))
    server = start_server()
    environ = {"PATH": os.environ["PATH"], "LLM_SERVER_URL": server.url}
    ran = subprocess.run([sys.executable, TALK], env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr

    spoken = [line.removeprefix("미나: ") for line in ran.stdout.splitlines() if line.startswith("미나")]
    assert spoken == [
        sentence
        for turn in range(1, 11)
        for sentence in (f"[{turn}] 어서 와요!", "오늘은 바람이 세네요.")
        if turn != 3 or "어서" in sentence
    ]
    assert f"  remembered: {HEARD}\n" in ran.stdout
    assert upstream.received[2].left_early is not None

    session = server.request("GET", f"/api/v1/sessions/{ran.stdout.splitlines()[-1].partition(':')[0]}").json
    assert session["turn_count"] == 10
    assert [turn["turn"] for turn in session["turns"] if turn["interrupted"]] == [3]
    assert session["turns"][2]["response_text"] == HEARD
    sent = [message["content"] for message in upstream.received[-1].json["input"] if message["role"] == "assistant"]
    assert sent == [turn["response_text"] for turn in session["turns"][:-1]]
