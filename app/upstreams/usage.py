"""Tokens as upstream counted them, wherever a server puts them and whatever it calls them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from app.models import Usage

TAIL_BYTES = 65_536
"""So much of the end of what is too large to hold is looked at: usage stands there."""
TOKENS_MAX = 2**40
"""More is no count of one answer: it is cut, so that no sum or cost leaves 64 bits."""
STANDARD_TIERS = frozenset({"default", "standard", "auto"})


def read_usage(document: Mapping[str, Any]) -> Usage | None:
    """The usage in an answer or in one event of a stream; None when it says none.

    Read in `usage`, in `x_groq` (Groq) and in the first of `choices` (some gateways).
    """
    counts = _mapping(document.get("usage")) or _elsewhere(document)
    if not counts:
        return None
    sent = _first(counts, "input_tokens", "prompt_tokens")
    told = _first(counts, "output_tokens", "completion_tokens")
    total = token_count(counts.get("total_tokens"))
    # A total above the sum: the rest was written as well, as Gemini's reasoning is.
    written = max(told, total - sent)
    sent_details = _details(counts, "input_tokens_details", "prompt_tokens_details", "input_token_details")
    written_details = _mapping(counts.get("output_tokens_details") or counts.get("completion_tokens_details"))
    if not sent + written:
        # Zeros, as some servers put into every chunk, are no count.
        return None
    return Usage(
        input_tokens=sent,
        output_tokens=written,
        total_tokens=sent + written,
        cached_tokens=min(sent, _cached(counts, sent_details)),
        reasoning_tokens=min(written, token_count(written_details.get("reasoning_tokens"))),
        input_audio_tokens=min(sent, token_count(sent_details.get("audio_tokens"))),
        output_audio_tokens=min(written, token_count(written_details.get("audio_tokens"))),
        service_tier=told_tier(document) or "",
    )


def told_tier(document: Mapping[str, Any]) -> str | None:
    """The service tier that an answer or an event names: empty for the standard one, None where it names none."""
    tier = document.get("service_tier")
    if not isinstance(tier, str):
        return None
    return "" if tier in STANDARD_TIERS else tier[:64]


def joined(started: Usage | None, told: Usage) -> Usage:
    """The usage of an answer whose input was told when it `started`, as Anthropic's API does, and whose output later.

    The later count of the input holds where it is larger. How long a cache keeps it is told at the start only.
    """
    if started is None:
        return told
    sent = told if told.input_tokens > started.input_tokens else started
    kept = sent.cache_write_tokens + sent.cache_write_1h_tokens
    kept_1h = min(kept, started.cache_write_1h_tokens)
    return dataclasses.replace(
        told,
        input_tokens=sent.input_tokens,
        total_tokens=sent.input_tokens + told.output_tokens,
        cached_tokens=sent.cached_tokens,
        cache_write_tokens=kept - kept_1h,
        cache_write_1h_tokens=kept_1h,
        service_tier=told.service_tier or started.service_tier,
        has_fees=told.has_fees or started.has_fees,
    )


def usage_in_tail(tail: bytes, read: Callable[[Mapping[str, Any]], Usage | None] = read_usage) -> Usage | None:
    """The usage in the last bytes of an answer or event that is not held, by its dialect; None when they hold none."""
    _, found, behind = tail.decode("utf-8", "replace").rpartition('"usage"')
    try:
        counts, _ = json.JSONDecoder().raw_decode(behind.lstrip(" \t\r\n:"))
    except (ValueError, RecursionError):
        return None
    return read({"usage": counts}) if found else None


def token_count(value: Any) -> int:
    """A number of tokens; 0 for anything else. A float beyond 64 bits was written as a whole number: see read_json."""
    if type(value) is int:
        return max(value, 0) if value < TOKENS_MAX else TOKENS_MAX
    return TOKENS_MAX if type(value) is float and value >= 2**63 else 0


def _elsewhere(document: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = document.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    for place in (document.get("x_groq"), first):
        if isinstance(place, dict) and (found := _mapping(place.get("usage"))):
            return found
    return {}


def _cached(counts: Mapping[str, Any], details: Mapping[str, Any]) -> int:
    """Input tokens that upstream had cached: OpenAI's name, Moonshot's, DeepSeek's and Anthropic's."""
    return token_count(details.get("cached_tokens")) or _first(
        counts, "cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"
    )


def _first(counts: Mapping[str, Any], *names: str) -> int:
    for name in names:
        if name in counts and (found := token_count(counts[name])):
            return found
    return 0


def _details(counts: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """What a count is made of, by the first of the names that has it."""
    return next((found for name in names if (found := _mapping(counts.get(name)))), {})


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
