"""The canary sweep over sessions: what nobody asked to remember is nowhere, and what is remembered where it belongs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.store.tables import metadata
from tests.conftest import EVERY_STORE
from tests.records import connected, file_of, settled
from tests.server import Server
from tests.sweep import CALLER_KEY, CHAT, FAULTS, PROMPT, PROMPTS, SERVER_KEY, forms, hits
from tests.upstream import Upstream

SESSION_KEY, OLD_KEY = "GYdceDzzzwZjX7GLztvQb7xrsvR0VGqM8QRqHks6hLI=", "d4350d3a495e3c479890a0dec0d3ccff"
REMEMBERED = {"user_message", "history", "answer"}
"""Canaries of what a remembered turn keeps: both texts, and the history that came with the first."""
GIVEN = {"title": PROMPTS["role"], "metadata": {"key": PROMPTS["memory"]}}
SUMMARY = {"text": PROMPTS["instructions"], "covers": 1}
DESCRIBED = {"role", "memory", "instructions"}
"""Canaries of what the owner of a session writes about it: a title, metadata and a summary."""
Start = Callable[..., Server]
pytestmark = EVERY_STORE


def turns(faults: Iterable[str], **members: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Chat turns for each fault of the upstream: the first of a session, with a history, and one that comes after."""
    for number, (fault, streamed) in enumerate(itertools.product(faults, (False, True))):
        first = PROMPT | {"free_mode": True, "stream": streamed, "session_id": f"s-{number}"} | members
        yield fault, first
        yield "answer", {name: value for name, value in first.items() if name != "conversation_history"}
        yield fault, first | {"conversation_history": [], "openai_api_key": CALLER_KEY}


def sweep(server: Server, upstream: Upstream, faults: Iterable[str] = FAULTS, **members: Any) -> set[int]:
    """Have all turns answered; no error shows a canary. Gives the statuses seen."""
    seen = set()
    for fault, body in turns(faults, **members):
        upstream.default = FAULTS[fault]
        answer = server.request("POST", CHAT, body)
        told = answer.body.decode(errors="replace") + str(answer.headers)
        shown = {"answer", "instructions"} if answer.status == 200 else set()
        assert set(hits(told)) <= shown, (fault, answer.status)
        assert keys_in(told) == []
        seen.add(answer.status)
    return seen


def describe(server: Server) -> None:
    """Have the first session described by its owner, rightly and wrongly; no error shows what was given."""
    session = "/api/v1/sessions/s-0"
    assert server.request("PATCH", session, GIVEN).status == 200
    assert server.request("PUT", f"{session}/summary", SUMMARY).status == 200
    lines = {"Content-Type": "application/x-ndjson"}
    refused = [
        server.request("PATCH", session, GIVEN | {"title": f"{PROMPTS['role']}\n"}),
        server.request("PUT", f"{session}/summary", SUMMARY | {"covers": 99}),
        server.request("PATCH", f"{session}-never", GIVEN),
        server.request("POST", f"{session}/import", json.dumps(GIVEN).encode(), lines),
    ]
    assert [answer.status for answer in refused] == [422, 422, 404, 422]
    assert [hits(answer.body.decode() + str(answer.headers)) for answer in refused] == [[]] * 4


def keys_in(text: str) -> list[str]:
    """The keys of sessions that show in a text, in whatever shape."""
    return [key for key in (SESSION_KEY, OLD_KEY) if any(form in text for form in forms(key))]


def told(server: Server, temporary: Path) -> str:
    """What the server tells and leaves anywhere but in its store: logs, figures, temporary files, its command lines."""
    paths = ("/metrics", "/api/v1/usage", "/api/v1/usage?by=model", "/api/v1/system/info", "/api/v1/system/status")
    answers = [server.request("GET", path).body.decode() for path in paths]
    files = [path.read_bytes().decode("latin-1") for path in temporary.rglob("*") if path.is_file()]
    lines = [" ".join(psutil.Process(pid).cmdline()) for pid in (server.pid, *server.worker_pids)]
    assert files
    return "\n".join([server.output(), server.log(), *answers, *files, *lines])


def stored(url: str) -> dict[str, str]:
    """What lies in each table; and of SQLite all bytes of its directory, as `file`."""
    with connected(url) as connection:
        found = {
            table.name: "\n".join(str(value) for row in connection.execute(table.select()) for value in row)
            for table in metadata.sorted_tables
        }
    if url.startswith("sqlite"):
        found["file"] = b"".join(path.read_bytes() for path in file_of(url).parent.iterdir()).decode("latin-1")
    return found


@pytest.fixture
def start(start_server: Start, tmp_path: Path) -> Start:
    """A server that tells all it ever tells, with a temporary directory of its own."""
    (tmp_path / "tmp").mkdir()
    always = {
        "OPENAI_API_KEY": SERVER_KEY,
        "REQUEST_TIMEOUT": 0.3,
        "LOG_LEVEL": "DEBUG",
        "UPSTREAM_MESSAGES": "false",
        "TMPDIR": tmp_path / "tmp",
    }
    return lambda **settings: start_server(**always, **settings)


def test_what_nobody_asked_to_remember(upstream: Upstream, start: Start, database_url: str, tmp_path: Path) -> None:
    """A prompt and its answer are nowhere once the request is answered; a look at a remembered turn writes nothing."""
    server = start()
    assert {200, 502} <= sweep(server, upstream)
    body = PROMPT | {"free_mode": True, "session_id": "looked-at", "remember": True}
    assert server.request("POST", f"{CHAT}/preview", body).status == 200
    settled(database_url)
    assert hits(told(server, tmp_path / "tmp")) == []
    assert {place: hits(text) for place, text in stored(database_url).items() if hits(text)} == {}
    assert len(stored(database_url)["requests"]) > 1000
    server.stop()
    assert hits(server.output() + server.log()) == []
    assert {place: hits(text) for place, text in stored(database_url).items() if hits(text)} == {}


@pytest.mark.parametrize("settings", [{}, {"SESSION_KEY": SESSION_KEY, "SESSION_KEY_OLD": OLD_KEY}])
def test_what_is_remembered(
    upstream: Upstream, start: Start, database_url: str, tmp_path: Path, settings: dict[str, str]
) -> None:
    """It is in the tables of sessions and nowhere else, and with SESSION_KEY not even there; the keys of sessions are
    in no place at all. So it is while the server runs, after it has ended, and with another one after it, which goes on
    with some of the sessions."""
    for server, faults in ((start(**settings), FAULTS), (start(**settings), ("answer", "reset"))):
        assert {200, 502} <= sweep(server, upstream, faults, remember=True)
        describe(server)
        settled(database_url)
        elsewhere = told(server, tmp_path / "tmp")
        check(database_url, is_sealed=bool(settings))
        server.stop()
        elsewhere += server.output() + server.log()
        assert (hits(elsewhere), keys_in(elsewhere)) == ([], [])
        check(database_url, is_sealed=bool(settings))


def check(url: str, *, is_sealed: bool) -> None:
    """What is remembered is where it belongs."""
    found = stored(url)
    in_the_clear = {place: set(hits(text)) for place, text in found.items() if hits(text)}
    everywhere = {"turns": REMEMBERED, "sessions": DESCRIBED, "file": REMEMBERED | DESCRIBED}
    assert in_the_clear == ({} if is_sealed else {place: everywhere[place] for place in found.keys() & everywhere})
    assert {place: keys_in(text) for place, text in found.items() if keys_in(text)} == {}
    assert ("llms1:" in found["turns"]) == is_sealed
    assert len(found["turns"]) > 1000
