"""How many tokens the prompt of a request that passes through has at most, estimated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.errors import ValidationException
from app.tokens import FILE_TOKENS, audio_tokens, estimate_tokens, image_tokens
from app.upstreams import completions, embeddings, messages
from app.upstreams.json import string_or_none

MEDIA_MARKS = (b"image_url", b"input_image", b"input_audio", b"input_file", b'"file', b";base64,")
CACHE_MARKS = (b"cache_control", b"\\u")
"""Without one of these a body asks for no cache: a name can be written with escapes."""
IMAGE_PARTS = {"image_url", "input_image", "image"}
FILE_PARTS = {"file", "input_file"}
TEXT_SOURCES = {"text", "content"}
"""The sources of a document that are in the body as text."""
TOOLS_TOKENS = 600
"""What Anthropic's API adds to a prompt with tools: 290 to 590 tokens. Source: its guide "Tool use", "Pricing"."""
TYPED_TOOL_TOKENS = 2_000
"""The most that a tool adds which Anthropic describes: 700 for an editor, 735 and a screen for a computer."""


def prompt_tokens(path: str, body: bytes, document: Mapping[str, Any], model: str) -> int:
    """Estimated tokens of the prompt: everything as text, but pictures, sound and files by a figure each."""
    if path == messages.COUNT_PATH:
        return 0
    if path != messages.PATH and not any(mark in body for mark in MEDIA_MARKS):
        return max(estimate_tokens(body.decode()), _given_tokens(path, document))
    try:
        sent = max(1, _tokens(document, model))
    except RecursionError:
        raise ValidationException("The body is nested too deeply", error_code="invalid_json") from None
    return sent + (_tools_tokens(document.get("tools")) if path == messages.PATH else 0)


def prompts(path: str, document: Mapping[str, Any]) -> int:
    """How many prompts a request has, each of which is answered: `/completions` takes a list of them."""
    given = document.get("prompt") if path == completions.PATH else None
    return len(given) if isinstance(given, list) and given and isinstance(given[0], str | list) else 1


def cache_write(path: str, body: bytes, document: Mapping[str, Any]) -> str:
    """For how long the prompt may be written to a cache, `5m` or `1h`; empty when it asks for none."""
    if path != messages.PATH or not any(mark in body for mark in CACHE_MARKS):
        return ""
    times = set(_cache_times(document))
    return "1h" if "1h" in times else "5m" if times else ""


def _given_tokens(path: str, document: Mapping[str, Any]) -> int:
    """The tokens of a prompt that is given as their numbers, alone or in a list of such prompts."""
    member = {completions.PATH: "prompt", embeddings.PATH: "input"}.get(path)
    given = document.get(member) if member else None
    if not isinstance(given, list) or not given or isinstance(given[0], str):
        return 0
    return sum(len(inner) if isinstance(inner, list) else 1 for inner in given)


def _cache_times(document: Any) -> Iterator[str]:
    left = [document]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            left += value.values()
            control = value.get("cache_control")
            if isinstance(control, dict):
                yield str(control.get("ttl") or "5m")


def _tools_tokens(tools: Any) -> int:
    if not isinstance(tools, list) or not tools:
        return 0
    typed = sum(1 for tool in tools if isinstance(tool, dict) and tool.get("type") not in (None, "custom"))
    return TOOLS_TOKENS + typed * TYPED_TOOL_TOKENS


def _tokens(value: Any, model: str) -> int:
    if isinstance(value, str):
        is_data = value.startswith("data:") and ";base64," in value[:256]
        return image_tokens(model) if is_data else estimate_tokens(value)
    if isinstance(value, list):
        return sum(_tokens(inner, model) for inner in value)
    if not isinstance(value, dict):
        return 1
    kind = string_or_none(value.get("type"))
    if kind in IMAGE_PARTS:
        return image_tokens(model)
    if kind in FILE_PARTS or (kind == "document" and not _is_text(value.get("source"))):
        return FILE_TOKENS
    if kind == "input_audio":
        sound = value.get("input_audio")
        return audio_tokens(str(sound.get("data")) if isinstance(sound, dict) else "")
    return sum(estimate_tokens(name) + _tokens(inner, model) for name, inner in value.items())


def _is_text(source: Any) -> bool:
    return isinstance(source, dict) and string_or_none(source.get("type")) in TEXT_SOURCES
