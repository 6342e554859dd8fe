"""What is read of a request that passes through: what it asks for, what it may cost, and what no budget can cover."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import ValidationException
from app.json_bytes import dump_json
from app.ledger.limits import Ask
from app.models import MODEL_MAX_LENGTH
from app.tokens import FILE_TOKENS, audio_tokens, estimate_tokens, image_tokens
from app.upstreams import chat_completions, embeddings, responses
from app.upstreams.json import string_or_none

LIMITS: Mapping[str, tuple[str, ...]] = {
    responses.PATH: ("max_output_tokens",),
    chat_completions.PATH: ("max_completion_tokens", "max_tokens"),
    embeddings.PATH: (),
}
"""The members by which each route bounds its output; the first is added where a budget needs a bound."""
CHOICES = ("n", "best_of")
OTHER_MODELS = ("models", "fallbacks", "route", "prompt_id")
DECIDING = frozenset(
    {"model", "stream", "stream_options", "background", "service_tier", "tools", "web_search_options", "store"}
    | {"previous_response_id", "conversation", "prompt", *CHOICES, *OTHER_MODELS}
    | {name for names in LIMITS.values() for name in names}
)
"""Members on which something is decided here: another parser must not read another value than we do."""
OWN_TOOLS = frozenset({"function", "custom"})
STANDARD_TIERS = {None, "auto", "default"}
MEDIA_MARKS = (b"image_url", b"input_image", b"input_audio", b"input_file", b'"file', b";base64,")
IMAGE_PARTS = {"image_url", "input_image", "image"}
FILE_PARTS = {"file", "input_file"}


@dataclass(frozen=True)
class PassedRequest:
    """A body that passes through, and what was read of it."""

    body: bytes
    document: Mapping[str, Any]
    ask: Ask

    def changed(self, **members: Any) -> bytes:
        """The body with some members set anew; everything else means the same."""
        return dump_json({**self.document, **members})

    def with_members(self, **members: Any) -> PassedRequest:
        """The same with some members set anew."""
        return dataclasses.replace(self, body=self.changed(**members), document={**self.document, **members})

    @property
    def continues(self) -> str | None:
        """The member by which it goes on with what the upstream has stored, if there is one."""
        return next((name for name in ("previous_response_id", "conversation") if self.document.get(name)), None)

    def with_context(self, tokens: int) -> PassedRequest:
        """The same with so many more tokens before its prompt."""
        ask = dataclasses.replace(self.ask, prompt_tokens=self.ask.prompt_tokens + tokens)
        return dataclasses.replace(self, ask=ask)

    @property
    def hides_usage(self) -> bool:
        """A stream of Chat Completions that does not ask for usage, so that upstream would tell none."""
        if not self.ask.streamed or self.ask.route != f"/v1{chat_completions.PATH}":
            return False
        options = self.document.get("stream_options")
        return not (isinstance(options, dict) and options.get("include_usage"))


def read_request(path: str, body: bytes, default_max_tokens: int | None = None) -> PassedRequest:
    """Read a request to `path`.

    Raises ValidationException unless it is a JSON object with a usable `stream` that names each member once.
    """
    document = _parsed(body)
    stream = document.get("stream")
    if not isinstance(stream, bool | None):
        raise ValidationException("must be true or false", "stream")
    model = (string_or_none(document.get("model")) or "")[:MODEL_MAX_LENGTH]
    limits = [document[name] for name in LIMITS[path] if document.get(name) is not None]
    ask = Ask(
        route=f"/v1{path}",
        streamed=bool(stream),
        model=model,
        prompt_tokens=_prompt_tokens(body, document, model),
        max_tokens=max(filter(_is_count, limits), default=None) if LIMITS[path] else 0,
        choices=max((document[name] for name in CHOICES if _is_count(document.get(name))), default=1),
        uncovered=next(_uncovered(path, document), None),
    )
    return PassedRequest(body, document, ask)


def _parsed(body: bytes) -> dict[str, Any]:
    members: list[list[tuple[str, Any]]] = [[]]

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # The outermost object comes last.
        members[0] = pairs
        return dict(pairs)

    try:
        document = json.loads(body.decode(), object_pairs_hook=note)
    except (ValueError, RecursionError):
        raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
    if not isinstance(document, dict):
        raise ValidationException("The body must be a JSON object")
    _check_names([name for name, _ in members[0]])
    return document


def _check_names(names: list[str]) -> None:
    """Refuse a repeated member, and another spelling of one that is decided on: parsers differ in which they take."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValidationException("must be there once", name)
        if name not in DECIDING and name.lower() in DECIDING:
            raise ValidationException(f"must be spelled {name.lower()}", name)
        seen.add(name)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _uncovered(path: str, document: Mapping[str, Any]) -> Iterator[str]:
    """The members whose cost or model cannot be known before, in order."""
    yield from (name for name in OTHER_MODELS if document.get(name))
    counts = {name: document.get(name) for name in (*LIMITS[path], *CHOICES)}
    yield from (name for name, value in counts.items() if value is not None and not _is_count(value))
    if document.get("background"):
        yield "background"
    tier = document.get("service_tier")
    if not isinstance(tier, str | None) or tier not in STANDARD_TIERS:
        yield "service_tier"
    if document.get("web_search_options") is not None:
        yield "web_search_options"
    tools = document.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else []):
        if not (isinstance(tool, dict) and tool.get("type") in OWN_TOOLS):
            yield f"tools[{index}]"
            return
    if path == responses.PATH and document.get("prompt"):
        yield "prompt"


def _prompt_tokens(body: bytes, document: Mapping[str, Any], model: str) -> int:
    """Estimated tokens of the prompt: everything as text, but pictures, sound and files by a figure each."""
    if not any(mark in body for mark in MEDIA_MARKS):
        return estimate_tokens(body.decode())
    return _tokens(document, model)


def _tokens(value: Any, model: str) -> int:
    if isinstance(value, str):
        is_data = value.startswith("data:") and ";base64," in value[:256]
        return image_tokens(model) if is_data else estimate_tokens(value)
    if isinstance(value, list):
        return sum(_tokens(inner, model) for inner in value)
    if not isinstance(value, dict):
        return 1
    kind = value.get("type")
    if kind in IMAGE_PARTS:
        return image_tokens(model)
    if kind in FILE_PARTS:
        return FILE_TOKENS
    if kind == "input_audio":
        sound = value.get("input_audio")
        return audio_tokens(str(sound.get("data")) if isinstance(sound, dict) else "")
    return sum(estimate_tokens(name) + _tokens(inner, model) for name, inner in value.items())
