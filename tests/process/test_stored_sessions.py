"""Sessions of a real server: two workers, exported whole while others talk, and deleted from the disk under load."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.api.test_deleting import on_disk
from tests.api.test_sessions import kept
from tests.conftest import EVERY_STORE
from tests.records import settled
from tests.server import Answer, Server
from tests.upstream import Upstream

SESSIONS = "/api/v1/sessions"
TURNS = 150


def say(server: Server, message: str, session: str) -> Answer:
    return server.chat(message, session_id=session, remember=True)


def header() -> dict[str, Any]:
    return {"format": "llm-server-session", "version": 1}


@EVERY_STORE
def test_a_session_goes_out_and_in(start_server: Callable[..., Server], upstream: Upstream, database_url: str) -> None:
    """More than one page, over HTTP, in whichever worker; the methods that gunicorn itself reads as well."""
    server = start_server(WEB_CONCURRENCY="2")
    lines = [header(), *({"user_message": f"질문 {number}", "response_text": "a" * 500} for number in range(TURNS))]
    body = "".join(json.dumps(line) + "\n" for line in lines).encode()
    content_type = {"Content-Type": "application/x-ndjson"}
    assert server.request("POST", f"{SESSIONS}/in/import", body, content_type).status == 201
    assert say(server, "next", "in").json["turn"] == TURNS + 1
    exported = server.request("GET", f"{SESSIONS}/in/export")
    found = [json.loads(line) for line in exported.body.splitlines()]
    assert [line["user_message"] for line in found[1:]] == [f"질문 {number}" for number in range(TURNS)] + ["next"]
    assert server.request("POST", f"{SESSIONS}/copy/import", exported.body, content_type).status == 201
    assert server.request("PATCH", f"{SESSIONS}/copy", {"title": "T"}).json["title"] == "T"
    assert server.request("PUT", f"{SESSIONS}/copy/summary", {"text": "s", "covers": 9}).status == 200
    assert [server.request("DELETE", f"{SESSIONS}/{name}").status for name in ("in", "copy", "in")] == [204, 204, 404]
    assert kept(database_url) == []


def test_what_is_deleted_is_gone_while_others_talk(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """Both workers read and write all the time; the log is emptied between them, by the request or soon after it."""
    server, over = start_server(WEB_CONCURRENCY="2"), threading.Event()

    def talk(number: int) -> None:
        while not over.is_set():
            assert say(server, "hello", f"other-{number}").status == 200
            server.request("GET", f"{SESSIONS}/other-{number}?limit=5")

    with ThreadPoolExecutor(4) as pool:
        talking = [pool.submit(talk, number) for number in range(4)]
        try:
            for number in range(5):
                assert say(server, f"SECRET-{number}", f"s-{number}").status == 200
                assert server.request("DELETE", f"{SESSIONS}/s-{number}").status == 204
                server.wait_for(lambda number=number: not on_disk(database_url, b"SECRET-%d" % number), 10)
        finally:
            over.set()
        for one in talking:
            one.result()
    assert {row["status"] for row in settled(database_url)} == {"ok"}
