"""The log of real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.server import Server
from tests.upstream import Upstream, delayed, echo, reply

Start = Callable[..., Server]


REQUEST_LINE = re.compile(
    r"^\S+ INFO \[\d+\] app\.request: request request_id=(?P<request_id>\S+) peer=\S+ method=POST route=/api/v1/chat "
    r"status=(?P<status>\d+) code=(?P<code>\S+) total_ms=(?P<total_ms>[\d.]+) queue_ms=(?P<queue_ms>[\d.]+) "
    r"attempts=(?P<attempts>\d+) upstream_ms=(?P<upstream_ms>[\d.]+) "
    r"input_tokens=(?P<input_tokens>\d+) output_tokens=(?P<output_tokens>\d+) "
    r"api_key_source=(?P<api_key_source>\S+)",
    re.MULTILINE,
)


def request_lines(text: str) -> dict[str, dict[str, str]]:
    return {match["request_id"]: match.groupdict() for match in REQUEST_LINE.finditer(text)}


def test_one_line_per_request(start_server: Start, upstream: Upstream, tmp_path: Path) -> None:
    """Request id, status, total and upstream milliseconds, tokens and key source; no prompt, no answer, no key."""
    server = start_server(LOG_LEVEL="info", LOG_FILE=tmp_path / "made" / "on demand" / "app.log")
    upstream.script(delayed(0.2, reply(500)), echo, reply(400, {"error": {"message": "UPSTREAM-TEXT"}}))
    ours = {"X-Request-ID": "ours", "X-OpenAI-Api-Key": CALLER_KEY}
    assert server.chat("THE-PROMPT", headers=ours, free_mode=False).status == 200
    assert server.chat("THE-PROMPT", headers={"X-Request-ID": "theirs"}).status == 400
    assert server.chat("THE-PROMPT", headers={"X-Request-ID": "wrong"}, temperature=9).status == 422
    server.wait_for(lambda: len(request_lines(server.log())) == 3)
    lines = request_lines(server.log())
    good, refused, wrong = lines["ours"], lines["theirs"], lines["wrong"]
    assert (good["status"], good["code"], good["api_key_source"]) == ("200", "-", "user_provided")
    assert (good["input_tokens"], good["output_tokens"]) == ("11", "7")
    assert 200 <= float(good["upstream_ms"]) <= float(good["total_ms"])
    assert [line["attempts"] for line in (good, refused, wrong)] == ["2", "1", "0"]
    assert (refused["status"], refused["code"]) == ("400", "upstream_rejected_request")
    assert (wrong["status"], wrong["code"], wrong["upstream_ms"]) == ("422", "validation_error", "0.0")
    written = server.log() + server.output()
    assert all(word not in written for word in ("THE-PROMPT", "UPSTREAM-TEXT", CALLER_KEY, SERVER_KEY))
    # Probes have come many times by now.
    assert not re.search(r"readyz status|route=/readyz", written)
    assert [text.count("request request_id=ours") for text in (server.stdout(), server.log())] == [1, 1]

    (tmp_path / "made" / "on demand" / "app.log").rename(tmp_path / "rotated")
    server.chat("hi", headers={"X-Request-ID": "after-rotation"})
    server.wait_for(lambda: "after-rotation" in server.log())
    assert "request_id=ours" in (tmp_path / "rotated").read_text()


def test_json_lines_of_several_workers(start_server: Start) -> None:
    """Every line of standard output and of the file is a JSON object; no request of either worker is missing."""
    server = start_server(LOG_FORMAT="JSON", LOG_LEVEL="debug", WEB_CONCURRENCY=2)
    ids = {f"r-{number}" for number in range(100)}

    def chat(request_id: str) -> int:
        return server.chat("hi", headers={"X-Request-ID": request_id}).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(chat, sorted(ids))) == {200}
    server.wait_for(lambda: f"ready at {server.url}" in server.log())
    server.wait_for(lambda: server.log().count('"route": "/api/v1/chat"') == 100)
    for text in (server.log(), server.stdout()):
        documents = [json.loads(line) for line in text.splitlines()]
        chats = [document for document in documents if document.get("route") == "/api/v1/chat"]
        assert {document["request_id"] for document in chats} == ids
        assert {(document["status"], document["input_tokens"], document["level"]) for document in chats} == {
            (200, 11, "INFO")
        }
        assert any(document.get("route") == "/readyz" for document in documents), "LOG_LEVEL=DEBUG shows probes"
    assert server.stderr() == ""


@pytest.mark.parametrize(
    ("log_file", "told"),
    [
        ("/dev/full", "LOG_FILE cannot be written (No space left on device); lines are dropped until it can"),
        ("/proc/none/app.log", "LOG_FILE is not written (No such file or directory); logging to standard output only"),
    ],
)
def test_a_log_that_cannot_be_written(start_server: Start, log_file: str, told: str) -> None:
    """The start says so in one line, once for all processes, and requests go on."""
    server = start_server(LOG_FILE=log_file, WEB_CONCURRENCY=2)
    assert [server.chat(f"message {number}").status for number in range(20)] == [200] * 20
    server.wait_for(lambda: len(request_lines(server.stdout())) == 20)
    assert server.stop() == 0
    assert server.stderr().splitlines() == [told]


def test_level_and_standard_output_only(start_server: Start, upstream: Upstream) -> None:
    """LOG_LEVEL=ERROR leaves the address and the errors; an empty LOG_FILE means standard output only."""
    server = start_server(LOG_LEVEL="ERROR", LOG_FILE="")
    upstream.script(reply(401, {"error": {"code": "invalid_api_key"}}))
    assert server.chat("hi").status == 503
    assert server.chat("hi").status == 200
    server.wait_for(lambda: "curl -s" in server.stdout())
    levels = re.findall(r"^\S+ ([A-Z]+) \[\d+\] ", server.stdout(), re.MULTILINE)
    assert levels == ["ERROR"]
    assert "check OPENAI_API_KEY" in server.stdout()
