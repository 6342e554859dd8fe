"""What the system threads of a gevent worker share is not locked with locks of gevent's."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.conftest import EVERY_STORE
from tests.server import Server
from tests.upstream import Upstream
from tests.watched_worker import FILE

COMMAND = (sys.executable, "-m", "gunicorn", "-k", "tests.watched_worker.WatchedWorker", "wsgi:app")
READS = ("/readyz", "/api/v1/usage", "/api/v1/sessions", "/api/v1/characters", "/metrics", "/console/usage")

pytestmark = EVERY_STORE


def test_no_lock_of_gevents_is_shared(tmp_path: Path, upstream: Upstream, store: dict[str, str]) -> None:
    """A new server whose first requests come at once writes, reads, logs and looks after upstreams; no lock that gevent
    has made is taken by two of its system threads.
    """
    shared, upstreams = tmp_path / "locks", tmp_path / "upstreams.toml"
    one = {"base_url": upstream.base_url, "dialects": ["responses"], "key_env": "ONE"}
    one = {"base_url": upstream.base_url, "dialects": ["responses"], "key_env": "ONE"}
    upstreams.write_text(
        "[upstreams.one]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in one.items())
    )
    settings = {"upstreams_file": upstreams, "one": "sk-one-0123456789"} | store | {FILE: shared}
    named = {name.upper(): value for name, value in settings.items()}
    with Server(tmp_path / "server", ready="/livez", command=COMMAND, **named) as server:

        def ask(number: int) -> set[int | None]:
            statuses = {server.status(path) for path in READS}
            body = {"session_id": f"s-{number}", "remember": True}
            return statuses | {server.chat("hi", **body).status for _ in range(3)}

        with ThreadPoolExecutor(8) as callers:
            list(callers.map(ask, range(8)))
            server.wait_ready()
            assert set().union(*callers.map(ask, range(16))) == {200}
    assert not shared.exists(), shared.read_text()
