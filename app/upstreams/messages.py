"""The dialect of Anthropic's Messages API: the request body we send, the finished answer and the events we accept.

llama.cpp, vLLM and Ollama have it, too. Source: Anthropic's API reference, "Messages" and "Streaming messages".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from app.json_bytes import dump_json, well_formed
from app.models import Completion, Generation, Usage
from app.upstreams import written
from app.upstreams.errors import bad_response, failed_response, no_text
from app.upstreams.json import content_text, finish_reason, load_json, string_or_none
from app.upstreams.parameters import NONE, fitting_messages
from app.upstreams.sse import END, StreamEvent, read_document
from app.upstreams.usage import joined, token_count, told_tier

PATH = "/messages"
COUNT_PATH = "/messages/count_tokens"
VERSION_HEADER = "anthropic-version"
KEY_HEADER = "x-api-key"
HEADERS: Mapping[str, str] = {VERSION_HEADER: "2023-06-01"}
"""The version of the API that this module speaks; there is no newer one."""
OAUTH_PREFIX = "sk-ant-oat"
"""How a credential begins that Anthropic's API takes as bearer only."""
STANDARD_GEOGRAPHIES = {"", "global", "not_available"}
LAST_EVENTS = {"message_stop", "error"}


def key_headers(secret: str, base_url: str) -> dict[str, str]:
    """The headers that carry a key. Anthropic's own API wants one of them; other servers look at either."""
    bearer, own = {"Authorization": f"Bearer {secret}"}, {KEY_HEADER: secret}
    host = urlsplit(base_url).hostname or ""
    if host != "anthropic.com" and not host.endswith(".anthropic.com"):
        return bearer | own
    return bearer if secret.startswith(OAUTH_PREFIX) else own


def request_body(generation: Generation, *, stream: bool = False, without: frozenset[str] = NONE) -> bytes:
    """The JSON body of `POST /messages`, to the byte; `without`: see app/upstreams/parameters.py."""
    messages: list[Any] = list(fitting_messages(generation, without))
    body: dict[str, Any] = {"model": generation.model, "max_tokens": generation.max_tokens}
    if messages[0]["role"] == "system":
        body["system"] = messages.pop(0)["content"]
    if generation.images:
        user = messages[-1]
        images = [{"type": "image", "source": _image_source(url)} for url in generation.images]
        messages[-1] = {"role": user["role"], "content": [{"type": "text", "text": user["content"]}, *images]}
    body["messages"] = messages
    if generation.sends_temperature(without):
        body["temperature"] = generation.temperature
    if generation.response_schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": generation.response_schema}}
    if stream:
        body["stream"] = True
    return dump_json(body)


def parse_completion(raw: bytes) -> Completion:
    """Read a finished answer; raises `upstream_failed` for an error and `upstream_bad_response` without usable text."""
    document = load_json(raw)
    if not isinstance(document, dict):
        raise bad_response()
    _check(document)
    return _completion(document, content_text(document.get("content")), read_usage(document))


def read_event(data: bytes) -> StreamEvent:
    """Say what one event means; raises `upstream_bad_response` for what is none of this API."""
    event = read_document(data)
    if event is None:
        return END
    kind, message, usage = string_or_none(event.get("type")), event.get("message"), None
    begins = kind == "message_start" and isinstance(message, dict)
    told: Mapping[str, Any] = message if isinstance(message, dict) and begins else event
    usage = read_usage(told)
    counts = told.get("usage")
    return StreamEvent(
        text=_piece(event.get("delta")),
        written=written.in_block(event),
        usage=None if begins else usage,
        started=usage if begins else None,
        model=string_or_none(told.get("model")),
        document=event,
        is_end=kind in LAST_EVENTS or (kind is None and bool(event.get("error"))),
        service_tier=told_tier(counts) if isinstance(counts, dict) else None,
    )


def read_usage(document: Mapping[str, Any]) -> Usage | None:
    """The usage in an answer or an event; None when it says none. All input counts, also what caches gave and took."""
    counts = document.get("usage")
    if not isinstance(counts, dict):
        return None
    names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
    anew, cached, kept, told = (token_count(counts.get(name)) for name in names)
    sent = anew + cached + kept
    if not sent + told:
        return None
    creation, details = counts.get("cache_creation"), counts.get("output_tokens_details")
    kept_1h = token_count(creation.get("ephemeral_1h_input_tokens")) if isinstance(creation, dict) else 0
    thoughts = token_count(details.get("thinking_tokens")) if isinstance(details, dict) else 0
    return Usage(
        input_tokens=sent,
        output_tokens=told,
        total_tokens=sent + told,
        cached_tokens=cached,
        reasoning_tokens=min(told, thoughts),
        service_tier=told_tier(counts) or "",
        cache_write_tokens=kept - min(kept, kept_1h),
        cache_write_1h_tokens=min(kept, kept_1h),
        has_fees=_has_fees(counts),
    )


class CompletionReader:
    """Joins the events of a stream to the finished answer that they never send whole."""

    def __init__(self) -> None:
        self._document: dict[str, Any] = {}
        self._text: list[str] = []
        self._started: Usage | None = None
        self._usage: Usage | None = None

    def add(self, event: StreamEvent) -> str:
        """Give the piece of text in an event; raises `upstream_failed` for one that tells an error."""
        document = event.document
        _check(document)
        message, delta = document.get("message"), document.get("delta")
        if isinstance(message, dict):
            self._document |= {name: message.get(name) for name in ("id", "model")}
        if isinstance(delta, dict) and delta.get("stop_reason"):
            self._document["stop_reason"] = delta["stop_reason"]
        self._started = event.started or self._started
        if event.usage is not None:
            self._usage = joined(self._started, event.usage)
        self._text.append(event.text)
        return event.text

    def completion(self) -> Completion:
        """The finished answer, after an end that whole_stream has accepted; raises as parse_completion does."""
        return _completion(self._document, "".join(self._text), self._usage)


def _completion(document: Mapping[str, Any], text: str, usage: Usage | None) -> Completion:
    reason = finish_reason(string_or_none(document.get("stop_reason")))
    if not text:
        raise no_text(reason)
    return Completion(
        id=string_or_none(document.get("id")),
        model=string_or_none(document.get("model")),
        output_text=well_formed(text),
        finish_reason=reason,
        usage=usage,
        output_format="text",
        created_at=None,
        temperature=None,
    )


def _check(document: Mapping[str, Any]) -> None:
    """Raise `upstream_failed` for a document or an event that tells an error; its type is its code."""
    error = document.get("error")
    if document.get("type") == "error" or error:
        told = error if isinstance(error, dict) else {}
        raise failed_response({"code": told.get("type")})


def _piece(delta: Any) -> str:
    """The text in a delta; what is thought, or the input of a tool, is not the answer's."""
    text = delta.get("text") if isinstance(delta, dict) and delta.get("type") == "text_delta" else None
    return text if isinstance(text, str) else ""


def _image_source(url: str) -> dict[str, str]:
    """Where an image is: at an `https:` URL, or in a `data:` URL with base64, which this API takes apart."""
    if not url.startswith("data:"):
        return {"type": "url", "url": url}
    head, _, data = url.removeprefix("data:").partition(",")
    return {"type": "base64", "media_type": head.partition(";")[0], "data": data}


def _has_fees(counts: Mapping[str, Any]) -> bool:
    """Whether the answer costs more than its tokens by the list: searches, fast answers, a region, hidden answers."""
    speed, geography = counts.get("speed"), counts.get("inference_geo")
    return (
        any(_searches(counts.get("server_tool_use")))
        or (isinstance(speed, str) and speed != "standard")
        or (isinstance(geography, str) and geography not in STANDARD_GEOGRAPHIES)
        or any(_hidden(counts.get("iterations")))
    )


def _searches(used: Any) -> Iterator[int]:
    """How often each tool of Anthropic's was used; to fetch a page costs nothing but its tokens."""
    tools = used.items() if isinstance(used, dict) else ()
    return (token_count(times) for name, times in tools if name != "web_fetch_requests")


def _hidden(iterations: Any) -> Iterator[bool]:
    """Whether each run of the model is one whose tokens the sums leave out, as that of a compaction."""
    runs = iterations if isinstance(iterations, list) else ()
    return (isinstance(run, dict) and run.get("type") not in (None, "message") for run in runs)
