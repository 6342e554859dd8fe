"""Real clients against the running server with the local model: a program that knows OpenAI changes its base URL."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil
import pytest

from tests.server import ROOT, Server

if TYPE_CHECKING:
    from openai import OpenAI

OWN_KEY = "sk-anything-0123456789"
NOT_ISSUED = "llms_not-issued-by-this-server"
FREE = {"X-Free-Mode": "true"}
TOKENS = 8
ENDLESS = 4000
# A field that no SDK knows; the local model then writes exactly as many tokens as it may.
UNKNOWN_FIELDS = {"ignore_eos": True}
APIS = ["responses", "chat"]
MODES = ["plain", "streamed"]
BIN = ROOT / ".venv-clients" / "bin"
SCRIPTS = ROOT / "tests" / "clients"
PROGRAMS = {
    "npm": [BIN / "node", SCRIPTS / "openai_npm.mjs"],
    "langchain": [BIN / "python", SCRIPTS / "langchain_chat.py"],
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("server"), LOCAL_MODEL="demo", patience_seconds=90) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[OpenAI]:
    with sdk().OpenAI(base_url=f"{server.url}/v1", api_key=OWN_KEY) as client:
        yield client


def sdk() -> Any:
    """The package, imported by who needs it: that takes half a second, which each pytest worker would pay."""
    return importlib.import_module("openai")


def create(client: Any, api: str, tokens: int = TOKENS, **options: Any) -> Any:
    """Ask either API the same; gives what the SDK gives, an awaitable if it is the asynchronous one."""
    common = {"model": "local", "temperature": 0, "extra_body": UNKNOWN_FIELDS} | options
    if api == "responses":
        return client.responses.create(input="Say hello.", max_output_tokens=tokens, **common)
    messages = [{"role": "user", "content": "Say hello."}]
    return client.chat.completions.create(messages=messages, max_tokens=tokens, **common)


def piece(event: Any) -> str:
    """The text in one event of either API."""
    if hasattr(event, "choices"):
        return (event.choices[0].delta.content or "") if event.choices else ""
    return event.delta if event.type == "response.output_text.delta" else ""


def talk(server: Server, api: str, **options: Any) -> tuple[Any, list[Any]]:
    """A plain answer and the events of a streamed one."""
    with sdk().OpenAI(base_url=f"{server.url}/v1", api_key=OWN_KEY) as client:
        return create(client, api), list(create(client, api, stream=True, **options))


def talk_async(server: Server, api: str, **options: Any) -> tuple[Any, list[Any]]:
    """The same by the asynchronous client, both at once."""

    async def both() -> tuple[Any, list[Any]]:
        async with sdk().AsyncOpenAI(base_url=f"{server.url}/v1", api_key=OWN_KEY) as client:
            plain, stream = await asyncio.gather(create(client, api), create(client, api, stream=True, **options))
            return plain, [event async for event in stream]

    return asyncio.run(both())


@pytest.mark.parametrize("talk", [talk, talk_async], ids=["sync", "async"])
def test_python_responses(server: Server, talk: Callable[..., tuple[Any, list[Any]]]) -> None:
    """Plain and `stream=True`: numbered events, whose pieces make the text of the answer in the last one."""
    plain, events = talk(server, "responses")
    assert plain.output_text
    assert plain.usage.output_tokens == TOKENS
    assert (events[0].type, events[-1].type) == ("response.created", "response.completed")
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(map(piece, events)) == events[-1].response.output_text != ""
    assert events[-1].response.usage.output_tokens == TOKENS


@pytest.mark.parametrize("talk", [talk, talk_async], ids=["sync", "async"])
def test_python_chat_completions(server: Server, talk: Callable[..., tuple[Any, list[Any]]]) -> None:
    """Plain and `stream=True`: pieces, the reason of the end, and the usage when it is asked for."""
    plain, chunks = talk(server, "chat", stream_options={"include_usage": True})
    assert plain.choices[0].message.content
    assert plain.usage.completion_tokens == chunks[-1].usage.completion_tokens == TOKENS
    assert len([chunk for chunk in chunks if piece(chunk)]) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


def test_python_responses_stream_helper(client: OpenAI) -> None:
    """It gathers the answer from numbered and placed events, which llama.cpp alone does not send."""
    asked: Any = {"model": "local", "input": "Say hello.", "max_output_tokens": TOKENS, "temperature": 0}
    with client.responses.stream(**asked) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        assert snapshots[-1] == stream.get_final_response().output_text != ""


def test_python_structured_output(client: OpenAI) -> None:
    """`chat.completions.parse` and `responses.parse` give an object of the asked class."""
    from pydantic import Field, create_model

    Dog = create_model("Dog", name=(str, Field(max_length=8)), size=(Literal["small", "large"], ...))
    asked: Any = {"model": "local", "temperature": 0}
    messages: Any = [{"role": "user", "content": "Invent a dog."}]
    answer = client.chat.completions.parse(**asked, messages=messages, response_format=Dog, max_tokens=200)
    assert isinstance(answer.choices[0].message.parsed, Dog)
    parsed = client.responses.parse(**asked, input="Invent a dog.", text_format=Dog, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, Dog)


def test_python_completions(client: OpenAI) -> None:
    """OpenAI's older API, plain and streamed."""
    asked: Any = {"model": "local", "prompt": "Once upon a time", "max_tokens": TOKENS}
    asked |= {"temperature": 0, "extra_body": UNKNOWN_FIELDS}
    plain = client.completions.create(**asked)
    assert plain.choices[0].text
    assert plain.usage
    assert plain.usage.completion_tokens == TOKENS
    chunks = list(client.completions.create(**asked, stream=True))
    assert len([chunk for chunk in chunks if chunk.choices[0].text]) > 1
    assert chunks[-1].choices[0].finish_reason == "length"


def test_python_embeddings_and_models(client: OpenAI) -> None:
    """Vectors of one length; a model that is listed can be retrieved."""
    vectors = [entry.embedding for entry in client.embeddings.create(model="local", input=["one", "two"]).data]
    assert len(vectors) == 2
    assert len(vectors[0]) == len(vectors[1]) > 100
    (model,) = client.models.list()
    assert client.models.retrieve(model.id).id == model.id


@pytest.mark.parametrize(
    ("ask", "error", "code"),
    [
        (lambda client: client.models.retrieve("no-such-model"), "NotFoundError", "model_not_found"),
        (lambda client: client.get("/nothing", cast_to=object), "NotFoundError", "not_found"),
        (
            lambda client: client.with_options(api_key=NOT_ISSUED, default_headers=FREE).models.list(),
            "AuthenticationError",
            "unauthorized",
        ),
        (
            lambda client: client.responses.create(model="local", input=[{"type": "nonsense"}]),
            "BadRequestError",
            "400",
        ),
        (
            lambda client: client.responses.create(model="local", input=[{"type": "nonsense"}], stream=True),
            "BadRequestError",
            "400",
        ),
    ],
)
def test_python_errors(client: OpenAI, ask: Callable[[OpenAI], Any], error: str, code: str) -> None:
    """The SDK raises the class it has for the case, with our code, or upstream's own, and our request id."""
    with pytest.raises(getattr(sdk(), error)) as raised:
        ask(client)
    assert isinstance(raised.value, sdk().APIStatusError)
    assert raised.value.code == code
    assert raised.value.request_id


def test_whose_key_pays(server: Server, client: OpenAI) -> None:
    """The client's own key is the caller's; with a token of this server, free mode uses the server's."""
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "clients", "add", "sdk"]
    added = subprocess.run(command, env=server.environ, cwd=ROOT, capture_output=True, text=True, check=True)
    token = added.stdout.strip()
    for key, headers, source in [(OWN_KEY, {}, "user_provided"), (token, FREE, "default")]:
        seen = len(server.log())
        client.with_options(api_key=key, default_headers=headers).embeddings.create(model="local", input="one")
        server.wait_for(lambda seen=seen, source=source: f"api_key_source={source}" in server.log()[seen:])


def start(server: Server, home: Path, program: str, api: str, mode: str, tokens: int = TOKENS) -> subprocess.Popen[str]:
    """Start a client of another language or environment; it prints the answer as it comes."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "OPENAI_API_KEY": OWN_KEY}
    if program == "llm":
        environ |= {"LLM_USER_PATH": str(home), "LLM_OPENAI_SHOW_RESPONSES": "1"}
        options = ["--no-log", "-o", "temperature", "0", "-o", "max_tokens", str(tokens)]
        options += ["--no-stream"] if mode == "plain" else []
        command = [BIN / "llm", "-m", f"local-{api}", *options, "Say hello."]
        (home / "extra-openai-models.yaml").write_text(json.dumps([llm_model(server, name) for name in APIS]))
    else:
        environ["OPENAI_BASE_URL"] = f"{server.url}/v1"
        command = [*PROGRAMS[program], api, mode, str(tokens)]
    return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home)


def llm_model(server: Server, api: str) -> dict[str, object]:
    """One entry of the `llm` tool's list of models; YAML holds JSON."""
    place = {"api_base": f"{server.url}/v1", "api_key_name": "openai"}
    return {"model_id": f"local-{api}", "model_name": "local", "responses": api == "responses"} | place


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("program", [*PROGRAMS, "llm"])
def test_other_clients(server: Server, tmp_path: Path, program: str, api: str, mode: str) -> None:
    """The `openai` npm package, `langchain-openai` and the `llm` command, by both APIs, plain and streamed."""
    seen = len(server.log())
    with start(server, tmp_path, program, api, mode) as running:
        output, errors = running.communicate(timeout=120)
    assert (running.returncode, bool(output.strip())) == (0, True), errors
    # `llm` shows what it received; that the others stream is proved by the next test.
    assert program != "llm" or ("text/event-stream" in errors) == (mode == "streamed")
    path = "/v1/responses" if api == "responses" else "/v1/chat/completions"
    server.wait_for(lambda: f"route={path} status=200 code=- " in server.log()[seen:])
    assert "api_key_source=user_provided" in server.log()[seen:]


def test_ai_sdk(server: Server, tmp_path: Path) -> None:
    """Vercel's AI SDK, by three ways: it refuses a stream of llama.cpp's that the server did not complete."""
    settings = {"MODEL": "local", "MAX_TOKENS": str(TOKENS), "OPENAI_BASE_URL": f"{server.url}/v1"}
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OPENAI_API_KEY": OWN_KEY} | settings
    command = [BIN / "node", SCRIPTS / "ai_sdk.mjs"]
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found.pop("embedding") > 100
    assert list(found) == ["responses", "chat", "compatible"]
    assert all(each["text"] and len(each["pieces"]) > 1 for each in found.values())


@pytest.mark.parametrize("api", APIS)
def test_a_model_that_dies_in_a_stream_raises_in_every_client(
    server: Server, client: OpenAI, tmp_path: Path, api: str
) -> None:
    """Each had read the first piece while the answer was being written; none takes the half for the whole."""
    with contextlib.ExitStack() as opened:
        others = [opened.enter_context(start(server, tmp_path, name, api, "streamed", ENDLESS)) for name in PROGRAMS]
        stream = opened.enter_context(create(client, api, ENDLESS, stream=True))
        next(filter(piece, stream))
        assert all(other.stdout and other.stdout.read(1) for other in others)
        kill_model(server)
        with pytest.raises(sdk().APIError) as raised:
            list(stream)
        assert raised.value.code == "upstream_connection_error"
        assert all("APIError" in other.communicate(timeout=120)[1] for other in others)
    assert all(other.returncode for other in others)
    server.wait_ready()


def kill_model(server: Server) -> None:
    """Kill the local model's process and wait for the next one."""

    def running() -> psutil.Process | None:
        children = psutil.Process(server.pid).children(recursive=True)
        return next((child for child in children if "serve" in child.cmdline()), None)

    killed = running()
    assert killed
    killed.kill()
    killed.wait(30)
    server.wait_for(running)
