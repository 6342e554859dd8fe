"""What the guide's page, examples/talk.html, and the console's playground understand of a stream, run with Node."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest

from tests.model.test_clients import BIN
from tests.server import ROOT
from tests.streams import event, read_events

PAGE = (ROOT / "examples" / "talk.html").read_text()
PLAYGROUND = (ROOT / "app" / "web" / "console" / "static" / "playground-stream.js").read_text()
SEGMENT = {"index": 1, "text": "좋아요 😀! ", "start": 4, "end": 18, "tag": "happy"}
STREAM = (
    event({"request_id": "r-1"}, "start")
    + b": keepalive\n"
    + event({"text": '[happy] \\n: data: "좋아요'}, "delta")
    + event(SEGMENT, "segment")
    + event({"response_text": "a\n\nb"}, "done")
    + b": server-timing queue;dur=0.0\n"
)
READ = """
const [size, ...bytes] = JSON.parse(process.argv[1]);
const pieces = [];
for (let at = 0; at < bytes.length; at += size) pieces.push(Uint8Array.from(bytes.slice(at, at + size)));
const body = ReadableStream.from(pieces);
const events = [];
try {
    for await (const { name, data } of eventsOf({ body })) events.push([name, data]);
} catch (error) {
    events.push(error.message);
}
console.log(JSON.stringify(events));
"""


def run(script: str, *arguments: object) -> Any:
    """What a script says that uses the page's own functions."""
    functions = re.search(r"async function\* eventsOf.*?\n    }\n", PAGE, re.DOTALL)
    counting = re.search(r"const heardAt = .*\n", PAGE)
    assert functions, "the page has no eventsOf"
    assert counting, "the page has no heardAt"
    return run_program(functions[0] + counting[0] + script, *arguments)


def run_program(program: str, *arguments: object) -> Any:
    """What a module says."""
    command = [BIN / "node", "--input-type=module", "-e", program, *map(json.dumps, arguments)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_events_are_the_same_however_the_stream_is_cut(size: int) -> None:
    """Also within a character, an event or its end. A stream always ends the loop: the page leaves it at `done`."""
    *events, end = run(READ, [size, *STREAM])
    assert [tuple(one) for one in events] == read_events(STREAM)
    assert end == "the stream did not end with done"


def test_what_was_heard_is_counted_as_the_server_counts() -> None:
    """Speech says where it is in UTF-16; the server counts code points of the answer, the tag included."""
    script = "console.log(JSON.stringify(JSON.parse(process.argv[1]).map((at) => heardAt(segment, at))))"
    heard = run(f"const segment = {json.dumps(SEGMENT)};{script}", [0, 4, 6, 8])
    assert heard == [18 - 7, 18 - 3, 18 - 2, 18]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_playground_reads_the_same(size: int) -> None:
    """It ends with `done` or `error`; without either the answer was cut."""
    events = run_program(PLAYGROUND + READ, [size, *STREAM])
    assert [tuple(one) for one in events] == read_events(STREAM)
    cut = STREAM[: STREAM.index(b"event: done")]
    *events, end = run_program(PLAYGROUND + READ, [size, *cut])
    assert [tuple(one) for one in events] == read_events(cut)
    assert end == "the stream did not end with done"


def test_the_playground_counts_as_the_server_counts() -> None:
    """In code points: how much was shown of an answer, and what of it no segment has yet."""
    script = "const [text, segments] = JSON.parse(process.argv[1]);"
    script += "console.log(JSON.stringify([lengthOf(text), behind(text, segments), behind(text, [])]))"
    text = "[happy] 좋아요 😀! 그리고"
    assert run_program(PLAYGROUND + script, [text, [SEGMENT | {"end": 15}]]) == [18, "그리고", text]
