"""What the server says on standard output when it is ready."""

from __future__ import annotations

import http.server
import logging
import shlex
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.config import Config
from app.process.announce import announce
from tests.server import free_port


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers the statuses in order, then 200 for ever."""

    def do_GET(self) -> None:
        statuses = self.server.statuses  # type: ignore[attr-defined]
        self.send_response(statuses.pop(0) if statuses else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that is ready at the second question."""
    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        server.statuses = [503]  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_last_line_can_be_pasted(port: int, capsys: pytest.CaptureFixture[str], host: str) -> None:
    """The address is one that a caller on this machine can use, also when the server listens on all."""
    announce(Config(server_host="192.0.2.1", server_port=1), [(host, port)])
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0].startswith(f"LLM Server is ready at http://127.0.0.1:{port} ")
    assert shlex.split(lines[-1])[:3] == ["curl", "-s", f"http://127.0.0.1:{port}/api/v1/chat"]


@pytest.mark.parametrize("model", ["demo", "", "/models/large.gguf"])
@pytest.mark.parametrize("mode", ["token", "open", ""])
def test_what_has_to_be_known_first(port: int, capsys: pytest.CaptureFixture[str], model: str, mode: str) -> None:
    """The demo model's language, and in token mode how to get a token; the last line has a place for it."""
    announce(Config(local_model=model, auth_mode=mode), [("127.0.0.1", port)])
    printed = capsys.readouterr().out
    assert ("English only" in printed) == (model == "demo")
    assert ("clients add" in printed) == (mode == "token")
    curl = shlex.split(printed.strip().splitlines()[-1])
    assert ("Authorization: Bearer TOKEN" in curl) == (mode == "token")


def test_a_json_log_gets_a_record(
    port: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Standard output holds nothing but JSON then."""
    caplog.set_level(logging.INFO)
    announce(Config(log_format="json"), [("127.0.0.1", port)])
    assert capsys.readouterr().out == ""
    assert caplog.messages == [f"ready at http://127.0.0.1:{port}"]


def test_a_server_that_does_not_become_ready(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """After a while it says so, and where to look; IPv6 addresses are written as URLs want them."""
    port = free_port()
    announce(Config(), [("::", port, 0, 0)], timeout_seconds=0.3)
    assert capsys.readouterr().out == ""
    assert caplog.messages == [f"still not ready after 0 s; /readyz at http://[::1]:{port} says why"]


class OnASocket(socketserver.UnixStreamServer):
    """The same server at the path of a socket."""

    server_name = statuses = ()

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        connection, _ = super().get_request()
        return connection, ("", 0)


@pytest.mark.parametrize("has_port", [False, True])
def test_a_unix_socket(port: int, capsys: pytest.CaptureFixture[str], tmp_path: Path, has_port: bool) -> None:
    """It is named, with a line that curl understands; where there is an address with a port, that is."""
    path = tmp_path / "the server.sock"
    with OnASocket(str(path), Ready) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        announce(Config(), [str(path), *([("127.0.0.1", port)] if has_port else [])])
        server.shutdown()
        thread.join()
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    if has_port:
        assert lines[0].startswith(f"LLM Server is ready at http://127.0.0.1:{port} ")
        return
    assert lines[0] == f"LLM Server is ready at unix:{path}"
    curl = ["curl", "-s", "--unix-socket", str(path), "http://localhost/api/v1/chat"]
    assert shlex.split(lines[-1])[:5] == curl
