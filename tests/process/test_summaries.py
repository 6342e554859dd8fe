"""Summaries on a real server: over two workers, while it stops, and when a worker is killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.store.tables import sessions
from tests.api.test_summaries import LIMIT, WORDS, asked_for_summaries, either, facts, summarising, summary_rows
from tests.conftest import EVERY_STORE
from tests.records import connected, rows
from tests.server import Server
from tests.upstream import Upstream, delayed, silence, text

pytestmark = EVERY_STORE


def say(server: Server, message: str, session: str = "s-1") -> Any:
    answer = server.chat(message, session_id=session, remember=True, max_context_tokens=LIMIT)
    assert answer.status == 200, answer.json
    return answer.json


def talk_until_summarised(server: Server, upstream: Upstream) -> None:
    """Until a model has been asked for a summary."""
    give_up = time.monotonic() + 30
    while not asked_for_summaries(upstream):
        assert time.monotonic() < give_up
        say(server, f"fact-1 {WORDS}")


def all_sessions(url: str) -> list[dict[str, Any]]:
    with connected(url) as connection:
        return [dict(row._mapping) for row in connection.execute(sessions.select())]


def test_two_workers_pay_for_each_summary_once(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """A row that is paid for is a change of a summary, in each session; no turn fails, and no fact is lost."""
    server = start_server(WEB_CONCURRENCY=2)
    upstream.default = summarising(text("Yes."), delay=0.05)
    names = [f"s-{number}" for number in range(8)]

    def talk(name: str) -> list[int]:
        return [say(server, f"fact-{number} {WORDS}", name)["turn"] for number in range(1, 31)]

    assert list(threads.map(talk, names)) == [list(range(1, 31))] * len(names)
    time.sleep(0.5)
    paid = Counter(row["session_id"] for row in summary_rows(database_url) if row["status"] == "ok")
    for found in all_sessions(database_url):
        # A session's first revision is 0 or the moment of its beginning.
        changes = (found["revision"] - found["turns"]) % found["created_at"]
        assert paid[found["name"]] == changes > 1
        assert facts(found["summary"]) == [f"fact-{number}" for number in range(1, found["summary_turns"] + 1)]


def test_a_server_that_stops_gives_its_summaries_up(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """It does not wait for them, and their rows are settled."""
    server = start_server()
    upstream.default = either(silence(), text("Yes."))
    talk_until_summarised(server, upstream)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 8
    assert [row["code"] for row in rows(database_url) if row["route"] == "session-summary"] == ["server_shutting_down"]


def test_the_summary_of_a_killed_worker_is_made_again(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """With the next turn, once its row is swept."""
    server = start_server()
    upstream.default = either(silence(), text("Yes."))
    talk_until_summarised(server, upstream)
    (worker,) = server.worker_pids
    os.kill(worker, signal.SIGKILL)
    server.wait_for(lambda: [row["status"] for row in rows(database_url)].count("abandoned") == 1)
    upstream.default = either(delayed(0.1, text("Again.")), text("Yes."))
    server.wait_for(lambda: server.status("/readyz") == 200)
    # As long as those before: a shorter one leaves more room for them.
    say(server, f"fact-2 {WORDS}")
    server.wait_for(lambda: all_sessions(database_url)[0]["summary"] == "Again.")
