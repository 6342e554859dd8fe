"""requests and httpx-sse as clients of Chat Completions: what a program without an SDK does. Prints what it found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import Any

import httpx
import httpx_sse
import requests

URL = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
HEADERS = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"}
WRONG = {"Authorization": f"Bearer {os.environ['WRONG_KEY']}"}


def asking(text: str = "The capital of France?", *, stream: bool = False) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "stream": stream, "messages": [{"role": "user", "content": text}]}


def pieces(events: Iterable[str]) -> list[str]:
    """The pieces of text; the error's code at the end of a stream that broke off. Raises when it just ends."""
    found = []
    for data in events:
        if data == "[DONE]":
            return found
        event = json.loads(data)
        if "error" in event:
            return [*found, event["error"]["code"]]
        found += [text for choice in event["choices"] if (text := choice["delta"].get("content"))]
    raise EOFError


def by_requests(text: str) -> list[str]:
    with requests.post(URL, json=asking(text, stream=True), headers=HEADERS, stream=True) as answer:
        answer.raise_for_status()
        lines = answer.iter_lines(decode_unicode=True)
        return pieces(line.removeprefix("data: ") for line in lines if line.startswith("data: "))


def by_httpx_sse(text: str) -> list[str]:
    with (
        httpx.Client(trust_env=False) as client,
        httpx_sse.connect_sse(client, "POST", URL, json=asking(text, stream=True), headers=HEADERS) as source,
    ):
        return pieces(event.data for event in source.iter_sse())


def whole(**members: Any) -> dict[str, Any]:
    answer = requests.post(URL, **{"json": asking(), "headers": HEADERS, **members})
    return {"status": answer.status_code, **answer.json()}


chunked = HEADERS | {"Content-Type": "application/json"}
refused = whole(headers=WRONG)
too_long = whole(json=asking("too long"))
found = {
    "text": whole()["choices"][0]["message"]["content"],
    "chunked": whole(json=None, data=iter([json.dumps(asking()).encode()]), headers=chunked)["object"],
    "requests": by_requests("Go."),
    "httpx-sse": by_httpx_sse("Go."),
    "cut": [by_requests("break off"), by_httpx_sse("break off")],
    "refused": [refused["status"], refused["error"]["code"]],
    "too_long": [too_long["status"], too_long["error"]["code"]],
}
json.dump(found, sys.stdout)
