"""What llama.cpp leaves out of its Responses API, filled in: what OpenAI's and other SDKs need of it.

Source: OpenAI's API reference, "Streaming events"; ggml-org/llama.cpp issue 20607.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from app.json_bytes import dump_json
from app.upstreams.json import load_json
from app.upstreams.sse import Event

PARTS = ("response.content_part.", "response.output_text.", "response.reasoning_text.")
BEGINNINGS = {"response.created", "response.in_progress"}


class LlamaEvents:
    """Completes the events of one stream of `model`. Members that are there stay as they are.

    `now` gives seconds since 1970.
    """

    def __init__(self, model: str = "", *, now: Callable[[], float] = time.time) -> None:
        self._model = model
        self._now = now
        self._next_number = 0
        self._places: dict[str, int] = {}

    def complete(self, event: Event) -> bytes:
        """The event's bytes; as they came unless it is one of the Responses API."""
        if event.data is None or not event.name.startswith("response."):
            return event.raw
        data = load_json(event.data)
        added: dict[str, object] = {"sequence_number": self._next_number}
        self._next_number += 1
        if item_id := data.get("item_id") or data.get("item", {}).get("id"):
            added["output_index"] = self._places.setdefault(item_id, len(self._places))
        if event.name.startswith(PARTS):
            added["content_index"] = 0
        if event.name in BEGINNINGS:
            # The AI SDK refuses a stream whose first event does not say when it began and by which model.
            known = {"output": [], "created_at": int(self._now()), "model": self._model}
            data["response"] = known | data["response"]
        return b"event: %s\ndata: %s\n\n" % (event.name.encode(), dump_json(added | data))


def response_format(request: Mapping[str, Any]) -> dict[str, Any]:
    """The members by which llama.cpp follows the schema of a request to the Responses API.

    It reads no `text.format`, but takes `response_format` of Chat Completions on this route as well.
    """
    text = request.get("text")
    given = text.get("format") if isinstance(text, dict) else None
    if not isinstance(given, dict) or "response_format" in request:
        return {}
    return {"response_format": _of_chat_completions(given)}


def _of_chat_completions(given: dict[str, Any]) -> dict[str, Any]:
    """A format of the Responses API as Chat Completions has it: the schema is one level further down."""
    if given.get("type") != "json_schema":
        return given
    return {"type": "json_schema", "json_schema": {name: value for name, value in given.items() if name != "type"}}
