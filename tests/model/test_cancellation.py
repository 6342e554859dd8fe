"""A caller that leaves stops the local model, too."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable

import psutil

from tests.process.test_cancellation import send
from tests.server import Server


def test_the_local_model_stops_generating(start_server: Callable[..., Server]) -> None:
    """Its slot becomes idle soon after the caller has left."""
    server = start_server(LOCAL_MODEL="demo", OPENAI_API_KEY="sk-of-the-model")
    slots = urllib.request.Request(f"http://127.0.0.1:{model_port(server)}/slots")
    slots.add_header("Authorization", "Bearer sk-of-the-model")

    def busy() -> bool:
        with urllib.request.urlopen(slots) as answer:
            return any(slot["is_processing"] for slot in json.load(answer))

    # ignore_eos is llama.cpp's: the model would go on for minutes.
    body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 8000, "ignore_eos": True}
    caller = send(server, "/v1/chat/completions", body)
    seen = b""
    while b'"content":"' not in seen:
        seen += caller.recv(65536)
    assert busy()
    caller.close()
    server.wait_for(lambda: not busy(), 5)


def model_port(server: Server) -> str:
    """Where the local model of `server` listens: the word behind its file in the command."""
    processes = psutil.Process(server.pid).children(recursive=True)
    return next(words[5] for words in (process.cmdline() for process in processes) if "serve" in words)
