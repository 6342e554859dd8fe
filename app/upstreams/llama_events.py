"""What llama.cpp leaves out of its Responses stream, filled in: numbers and places that OpenAI's SDKs need.

Source: OpenAI's API reference, "Streaming events"; ggml-org/llama.cpp issue 20607.
"""

from __future__ import annotations

from typing import Any

from app.upstreams.json import dump_json, load_json
from app.upstreams.sse import Event

PARTS = ("response.content_part.", "response.output_text.", "response.reasoning_text.")
BEGINNINGS = {"response.created", "response.in_progress"}


class LlamaEvents:
    """Completes the events of one stream. Members that are there stay as they are.

    `response` are members of the response that its first events have to tell, which Vercel's AI SDK insists on.
    """

    def __init__(self, **response: Any) -> None:
        self._response = {"output": []} | response
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
            data["response"] = self._response | data["response"]
        return b"event: %s\ndata: %s\n\n" % (event.name.encode(), dump_json(added | data))
