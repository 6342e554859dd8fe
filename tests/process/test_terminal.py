"""The command `llm-server`: a chat in the terminal, the operator's commands, and gunicorn without arguments."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

from tests.server import ROOT, Server
from tests.streams import HEAD, chunk, completion_events, stream
from tests.upstream import Upstream, error_document, pieces, reply

Start = Callable[..., Server]


def command(server: Server, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run `python -m app chat …` against a server and wait for its end."""
    environ = server.environ | {"LLM_SERVER_URL": server.url}
    arguments = [sys.executable, "-m", "app", "chat", *words]
    return subprocess.run(
        arguments, cwd=ROOT, env=environ, input=text, capture_output=True, text=True, timeout=60, check=False
    )


def test_a_chat_in_the_terminal(start_server: Start, upstream: Upstream) -> None:
    """One message on the command line, or one per line of the input; what was said before goes along."""
    server = start_server()
    upstream.script(*[stream(completion_events("안녕하세요")) for _ in range(3)])
    done = command(server, "hello", "there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "안녕하세요\n", "")
    done = command(server, text="one\ntwo\n")
    assert done.returncode == 0
    assert done.stdout.split() == ["안녕하세요"] * 2
    said = [message["content"] for message in upstream.received[-1].json["messages"]]
    assert said == ["one", "안녕하세요", "two"]


def test_an_error_in_the_terminal(start_server: Start, upstream: Upstream) -> None:
    """One line, and status 1; also where no server is."""
    server = start_server()
    upstream.script(reply(400, error_document()))
    refused = command(server, "hello")
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    server.stop()
    nobody = command(server, "hello")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr.startswith("No server answers")


def test_a_message_without_an_answer_is_not_said_again(start_server: Start, upstream: Upstream) -> None:
    """Some upstreams refuse every conversation in which an answer is empty."""
    server = start_server()
    upstream.script(reply(400, error_document()), stream(completion_events("ok")))
    assert command(server, text="one\ntwo\n").stdout.split() == ["ok"]
    assert [message["content"] for message in upstream.received[-1].json["messages"]] == ["two"]


def test_ctrl_c_in_the_terminal(start_server: Start, upstream: Upstream) -> None:
    """The answer stops, and so does the call to the upstream."""
    server = start_server()
    upstream.script(pieces([HEAD, chunk("first "), *[chunk("more ")] * 2000], pause=0.05))
    environ = server.environ | {"LLM_SERVER_URL": server.url}
    arguments = [sys.executable, "-m", "app", "chat", "hello"]
    with subprocess.Popen(arguments, cwd=ROOT, env=environ, stdout=-1, stderr=-1) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"first "
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    server.wait_for(lambda: upstream.received[-1].left_early, 5)


def test_gunicorn_alone(start_server: Start) -> None:
    """In the directory of wsgi.py it needs no argument."""
    assert start_server(command=(sys.executable, "-m", "gunicorn")).chat("hi").status == 200


def test_the_operators_commands(start_server: Start) -> None:
    """`llm-server clients …` is `flask --app wsgi clients …`, without a search for `.env` in the directories above."""
    environ = start_server().environ
    arguments = [sys.executable, "-m", "app", "clients", "add", "web"]
    done = subprocess.run(arguments, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("llms_")
