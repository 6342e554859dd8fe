"""A full disk and a store that cannot be written: the server goes on, or says why not."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from app.ledger.accounts import Limits
from tests.records import add_client, file_of, locked, rows, settled
from tests.server import GUNICORN, Server
from tests.upstream import Upstream


def test_full(start_server: Callable[..., Server], upstream: Upstream, database_url: str) -> None:
    """A disk without room, as a limit on the size of files; it is room again when the limit is gone."""
    server = start_server(AUTH_MODE="token", DATABASE_TIMEOUT=1, LOG_FILE="")
    token = add_client(database_url, Limits())
    headers = {"Authorization": f"Bearer {token}"}
    assert server.chat("x", headers=headers).status == 200
    settled(database_url)
    worker = psutil.Process(server.worker_pids[0])
    before = worker.rlimit(psutil.RLIMIT_FSIZE)
    worker.rlimit(psutil.RLIMIT_FSIZE, (4096, before[1]))
    assert {server.chat("x", headers=headers).status for _ in range(3)} == {503}
    assert server.status("/readyz") == 503
    assert len(upstream.received) == 1
    worker.rlimit(psutil.RLIMIT_FSIZE, before)
    server.wait_for(lambda: server.status("/readyz") == 200, 10)
    assert server.chat("x", headers=headers).status == 200
    assert [row["status"] for row in settled(database_url)] == ["ok", "ok"]


def set_modes(directory: Path, directory_mode: int, file_mode: int) -> None:
    """Who may write into the directory of the store, and to its files."""
    directory.chmod(directory_mode)
    for file in directory.iterdir():
        file.chmod(file_mode)


def assert_read_only(server: Server, upstream: Upstream, usage: int) -> None:
    """Nobody is served at once or later, but the process lives; upstream is not asked."""
    refused = server.chat("x")
    assert (refused.status, refused.json["code"]) == (503, "store_unavailable")
    passed = server.request("POST", "/v1/responses", {}, {"X-Free-Mode": "true"})
    assert (passed.status, passed.json["error"]["code"]) == (503, "store_unavailable")
    assert not upstream.received
    assert [server.status(path) for path in ("/readyz", "/api/v1/usage", "/livez")] == [503, usage, 200]


def assert_writable_again(server: Server, directory: Path, database_url: str) -> None:
    """When the modes are back, it serves without a restart."""
    set_modes(directory, 0o755, 0o644)
    server.wait_for(lambda: server.status("/readyz") == 200, 10)
    assert server.chat("x").status == 200
    assert [row["status"] for row in settled(database_url)] == ["ok"]


READ_ONLY = {"directory and files": (0o555, 0o444), "directory": (0o555, 0o644), "files": (0o755, 0o444)}
UNPRIVILEGED = (*(("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()), *GUNICORN)


@pytest.mark.parametrize("what", READ_ONLY)
def test_read_only(start_server: Callable[..., Server], upstream: Upstream, database_url: str, what: str) -> None:
    """From the start. SQLite cannot even be read where it cannot make the files that it needs beside its own."""
    directory = file_of(database_url).parent
    set_modes(directory, *READ_ONLY[what])
    server = start_server(command=UNPRIVILEGED, ready="/livez", DATABASE_TIMEOUT=1)
    assert_read_only(server, upstream, usage=200 if what == "files" else 503)
    assert_writable_again(server, directory, database_url)


def test_becomes_read_only(start_server: Callable[..., Server], upstream: Upstream, database_url: str) -> None:
    """Before the server could write for the first time, since another program held the lock.

    Usage is told: the connection that reads was opened while SQLite's files beside the database were there.
    """
    directory = file_of(database_url).parent
    with locked(database_url):
        server = start_server(command=UNPRIVILEGED, ready="/livez", DATABASE_TIMEOUT=1)
        assert server.chat("x").status == 503
        set_modes(directory, *READ_ONLY["directory and files"])
        assert_read_only(server, upstream, usage=200)
    assert_read_only(server, upstream, usage=200)
    assert_writable_again(server, directory, database_url)


@pytest.mark.parametrize("how", ["gone", "emptied"])
def test_a_new_worker_makes_no_new_database(start_server: Callable[..., Server], database_url: str, how: str) -> None:
    """Nor a new key: while the database is away, all say 503 and never 401; put back, all serve the same tokens."""
    server = start_server(AUTH_MODE="token", DATABASE_TIMEOUT=1, WEB_CONCURRENCY=2)
    token = add_client(database_url, Limits())
    headers = {"Authorization": f"Bearer {token}"}
    assert {server.chat("x", headers=headers).status for _ in range(10)} == {200}
    settled(database_url)
    directory = file_of(database_url).parent
    aside = directory.rename(directory.with_name("aside"))
    if how == "emptied":
        directory.mkdir()
    killed = server.worker_pids[0]
    os.kill(killed, signal.SIGKILL)
    server.wait_for(lambda: len(server.worker_pids) == 2 and killed not in server.worker_pids)
    server.send_signal(signal.SIGHUP)
    answers = [server.chat("x", headers=headers) for _ in range(30)]
    assert {(answer.status, answer.json.get("code")) for answer in answers} == {(503, "store_unavailable")}
    assert not directory.exists() or not list(directory.iterdir())
    if directory.exists():
        directory.rmdir()
    aside.rename(directory)
    server.wait_for(lambda: server.chat("x", headers=headers).status == 200)
    server.wait_for(lambda: {server.chat("x", headers=headers).status for _ in range(10)} == {200})


def test_the_log_of_the_database_is_taken_away(start_server: Callable[..., Server], database_url: str) -> None:
    """Both workers notice it and go on with a new one; every answer from then on has its row."""
    server = start_server(DATABASE_TIMEOUT=1, WEB_CONCURRENCY=2)
    assert {server.chat("x").status for _ in range(20)} == {200}
    settled(database_url)
    file_of(database_url).with_name("llm_server.db-wal").unlink()
    answers = [server.chat("x") for _ in range(40)]
    server.wait_for(lambda: {server.chat("x").status for _ in range(10)} == {200})
    answers += [server.chat("x") for _ in range(20)]
    assert {answer.status for answer in answers} <= {200, 503}
    told = {answer.headers["X-Request-ID"] for answer in answers if answer.status == 200}
    assert len(told) >= 20
    server.wait_for(lambda: told <= {row["request_id"] for row in rows(database_url)})
