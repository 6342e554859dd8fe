"""What the system threads of a gevent worker share is not locked with locks of gevent's."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.ledger.accounts import Limits
from tests.conftest import EVERY_STORE
from tests.records import add_client
from tests.server import Server
from tests.upstream import Upstream
from tests.watched_worker import FILE

COMMAND = (sys.executable, "-m", "gunicorn", "-k", "tests.watched_worker.WatchedWorker", "wsgi:app")
READS = ("/readyz", "/api/v1/usage", "/api/v1/sessions", "/api/v1/characters", "/api/v1/clients", "/metrics")
LIMITS = Limits(admin=True, free_mode=True, requests_per_minute=100_000, concurrency=100)

pytestmark = EVERY_STORE


def test_no_lock_of_gevents_is_shared(
    tmp_path: Path, upstream: Upstream, store: dict[str, str], database_url: str
) -> None:
    """A new server whose first requests come at once admits, remembers, changes, reads, logs and looks after upstreams;
    no lock that gevent has made is taken by two of its system threads.
    """
    shared, upstreams = tmp_path / "locks", tmp_path / "upstreams.toml"
    one = {"base_url": upstream.base_url, "dialects": ["responses"], "key_env": "ONE"}
    upstreams.write_text(
        "[upstreams.one]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in one.items())
    )
    settings = {"upstreams_file": upstreams, "one": "sk-one-0123456789", "auth_mode": "token"} | store | {FILE: shared}
    named = {name.upper(): value for name, value in settings.items()}
    headers = {"Authorization": f"Bearer {add_client(database_url, LIMITS)}"}
    with Server(tmp_path / "server", ready="/livez", command=COMMAND, **named) as server:

        def ask(number: int) -> list[int]:
            turn = {"session_id": f"s-{number}", "remember": True, "character": f"c-{number}"}
            answers = [
                server.request("PUT", f"/api/v1/characters/c-{number}", {"description": f"{number}"}, headers),
                *(server.request("GET", path, headers=headers) for path in READS),
                *(server.chat("hi", headers=headers, **turn) for _ in range(3)),
                server.request("PATCH", f"/api/v1/sessions/s-{number}", {"title": "x"}, headers),
                server.request("POST", "/api/v1/clients", {"name": f"client-{number}"}, headers),
                server.request("DELETE", f"/api/v1/clients/client-{number}", headers=headers),
                server.request("DELETE", f"/api/v1/sessions/s-{number}", headers=headers),
            ]
            return [answer.status for answer in answers]

        with ThreadPoolExecutor(8) as callers:
            assert {status // 100 for statuses in callers.map(ask, range(16)) for status in statuses} == {2}
    assert not shared.exists(), shared.read_text()
