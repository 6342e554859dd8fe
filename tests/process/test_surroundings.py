"""Where the server runs: under a path, on IPv6, without a disk to write to, beside root's commands, and from a tree
that was checked out on Windows."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.records import file_of, rows, settled
from tests.server import GUNICORN, ROOT, Server, free_port
from tests.streams import HEAD, delta
from tests.upstream import Upstream, pieces, response_document

Start = Callable[..., Server]

FLASK_RUN = (sys.executable, "-m", "flask", "--app", "wsgi", "run", "--debug", "--port")


def test_a_sub_path(start_server: Start, upstream: Upstream) -> None:
    """SCRIPT_NAME puts every route under it, probes included, and no page leads out of it."""
    server = start_server(SCRIPT_NAME="/llm", ready="/llm/readyz")
    assert server.request("POST", "/llm/api/v1/chat", {"user_message": "hi", "free_mode": True}).status == 200
    assert server.request("GET", "/llm/v1/models", headers={"X-Free-Mode": "true"}).status == 200
    page = server.request("GET", "/llm/docs").body
    assert b'src="/' not in page
    assert b'href="/' not in page
    assert server.request("GET", "/llm/docs/start.js").status == 200


class UpstreamOnIPv6(BaseHTTPRequestHandler):
    """Notes the Host that it was asked by."""

    hosts: list[str | None]

    def do_POST(self) -> None:
        type(self).hosts.append(self.headers["Host"])
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(response_document("ok")).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' output is not its log."""


@contextlib.contextmanager
def upstream_on_ipv6() -> Iterator[tuple[str, list[str | None]]]:
    """Its base URL, and the hosts that it was asked by."""

    class Handler(UpstreamOnIPv6):
        hosts: list[str | None] = []

    class OnIPv6(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    with OnIPv6(("::1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://[::1]:{server.server_port}/v1", Handler.hosts
        server.shutdown()


@pytest.mark.parametrize("host", ["::1", "::"])
def test_ipv6(start_server: Start, host: str) -> None:
    """To listen on and to call; upstream's address has its brackets in the header Host."""
    with upstream_on_ipv6() as (base_url, hosts):
        server = start_server(SERVER_HOST=host, AUTH_MODE="open", OPENAI_BASE_URL=base_url, ready=None)
        server.wait_for(lambda: f"ready at http://[::1]:{server.port} " in server.output())
        connection = http.client.HTTPConnection("::1", server.port, timeout=20)
        body = json.dumps({"user_message": "hi", "free_mode": True})
        connection.request("POST", "/api/v1/chat", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["response_text"]) == (200, "ok")
        connection.close()
        assert hosts == [base_url.removeprefix("http://").removesuffix("/v1")]


READ_ONLY = """
set -e
mount --make-rprivate /
{keep}
mount -o remount,ro,bind /
for place in $(awk '{{print $2}}' /proc/self/mounts); do
    case $place in /|/proc*|/sys*|/dev|/dev/*|{directory}*) ;; *) mount -o remount,ro,bind $place || true;; esac
done
cd {root}
exec {command}
"""


@pytest.mark.skipif(
    os.geteuid() != 0
    or subprocess.run(["sh", "-c", "unshare -m true"], check=False, capture_output=True).returncode != 0,
    reason="needs the right to have mounts of its own",
)
@pytest.mark.parametrize("writable", [True, False], ids=["but a temporary directory", "all of it"])
def test_a_read_only_root(tmp_path: Path, upstream: Upstream, writable: bool) -> None:
    """With one directory to write to it runs, without HOME too; without one it ends with one line."""
    place = tmp_path / "place"
    place.mkdir()
    keep = f"mount --bind {place} {place}" if writable else ":"
    directory = place if writable else "/nothing"
    script = READ_ONLY.format(keep=keep, directory=directory, root=ROOT, command=shlex.join(GUNICORN))
    server = Server(
        place,
        command=["unshare", "-m", "sh", "-c", script],
        OPENAI_BASE_URL=upstream.base_url,
        OPENAI_API_KEY="sk-server-0123456789",
        TMPDIR=place,
        HOME="",
        LOG_FILE="",
    )
    if writable:
        with server:
            assert server.chat("hi").status == 200
        return
    command = ["unshare", "-m", "sh", "-c", script]
    ended = subprocess.run(command, env=server.environ, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "DATABASE_URL" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user")
def test_a_command_that_root_gives(start_server: Start, upstream: Upstream, database_url: str) -> None:
    """It leaves no file of its own beside the database, which the server's user could not write then."""
    file = file_of(database_url)
    for path in (file.parent, *file.parent.iterdir()):
        os.chown(path, 12345, 12345)
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "clients", "add", "web"]
    server = start_server()
    subprocess.run(command, cwd=ROOT, env=server.environ, check=True, capture_output=True)
    assert server.chat("hi").status == 200
    assert {(path.name, path.stat().st_uid) for path in file.parent.iterdir()} >= {
        (f"{file.name}{suffix}", 12345) for suffix in ("", "-wal", "-shm")
    }


def test_flask_run(start_server: Start, upstream: Upstream, database_url: str) -> None:
    """The development server, debugger and reloader included: answers, metrics, and a stream whose caller leaves."""
    port = free_port()
    server = start_server(command=[*FLASK_RUN, str(port)], ready=None)
    server.port = port
    server.wait_ready()
    assert server.chat("hi").json["response_text"] == "hi"
    assert b"llm_server_requests_total" in server.request("GET", "/metrics").body
    upstream.script(pieces([HEAD, *[delta("word ")] * 2000], pause=0.05))
    body = json.dumps({"user_message": "hi", "free_mode": True, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("POST", "/api/v1/chat", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert answer.status == 200
    answer.read(20)
    assert [row["status"] for row in rows(database_url)] == ["ok", "pending"]
    answer.close()
    connection.close()
    assert [row["status"] for row in settled(database_url)] == ["ok", "cancelled"]


def test_a_tree_in_crlf(start_server: Start, tmp_path: Path) -> None:
    """As `core.autocrlf` makes it on Windows, for an editor that keeps it: the server starts and makes its tables."""
    root = tmp_path / "program"
    for room in ("app", "blueprints", "schemas"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / name, root)
    for file in root.rglob("*.*"):
        if file.suffix in {".py", ".ini", ".mako", ".js", ".html"}:
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    server = start_server(root=root, DATABASE_URL=f"sqlite:///{tmp_path}/new/llm.db")
    assert server.chat("hi").json["response_text"] == "hi"
    assert server.request("GET", "/docs").status == 200


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout")
def test_a_checkout_keeps_its_line_ends() -> None:
    """Whatever `core.autocrlf` says: `make` and `sh` do not understand others."""
    names = ["Makefile", "examples/stream.sh", "app/config.py", "deploy/nginx.conf"]
    command = ["git", "check-attr", "eol", "--", *names]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told == "".join(f"{name}: eol: lf\n" for name in names)
