"""What no budget and no model list can cover of a request that passes through: cost or model is not known before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.upstreams import chat_completions, completions, embeddings, media, messages, responses
from app.upstreams.json import string_or_none

LIMITS: Mapping[str, tuple[str, ...]] = {
    responses.PATH: ("max_output_tokens",),
    chat_completions.PATH: ("max_completion_tokens", "max_tokens"),
    embeddings.PATH: (),
    messages.PATH: ("max_tokens",),
    messages.COUNT_PATH: (),
    completions.PATH: ("max_tokens",),
    **dict.fromkeys(media.PATHS, ()),
}
"""The members by which each route bounds its output; the first is added where a budget needs a bound."""
CHOICES = ("n", "best_of")
OTHER_MODELS = ("models", "fallbacks", "route", "prompt_id")
OF_MESSAGES = (
    *("container", "mcp_servers", "compaction", "thread", "billing_policy", "fallback_credit_token"),
    *("speed", "inference_geo", "context_management"),
)
"""Members of the Messages API that cost more than the tokens of one answer, or less."""
DECIDING = frozenset(
    {"model", "stream", "stream_options", "background", "service_tier", "tools", "web_search_options", "store"}
    | {"previous_response_id", "conversation", "prompt", *CHOICES, *OTHER_MODELS}
    | {name for names in LIMITS.values() for name in names}
)
"""Members on which something is decided here: another parser must not read another value than we do."""
DECIDING_MESSAGES = DECIDING - {*CHOICES} | {*OF_MESSAGES}
OWN_TOOLS = frozenset({"function", "custom"})
CLIENTS_TOOLS = ("bash_", "text_editor_", "memory_", "computer_", "browser_toolset_")
"""How the types of the tools begin that Anthropic describes and the caller runs."""
STANDARD_TIERS = {None, "auto", "default"}
STANDARD: Mapping[str, tuple[str, ...]] = {"speed": ("standard",), "inference_geo": ("global",)}


def first_uncovered(path: str, document: Mapping[str, Any]) -> str | None:
    """The first member of a request to `path` whose cost or model cannot be known before; None when all can."""
    if path == messages.COUNT_PATH:
        return next((name for name in OTHER_MODELS if document.get(name)), None)
    return next(_uncovered(path, document), None)


def deciding(path: str) -> frozenset[str]:
    """The members of a request to `path` on which something is decided."""
    return DECIDING_MESSAGES if path in (messages.PATH, messages.COUNT_PATH) else DECIDING


def is_count(value: Any) -> bool:
    """Whether a member is a bound: a whole number of at least 1."""
    return type(value) is int and value >= 1


def begins_thread(thread: Any) -> bool:
    """Whether a member `thread` asks Anthropic to keep a conversation that begins here, and says nothing else."""
    return bool(thread == {"type": "create"})


def continued_message(thread: Any) -> str | None:
    """The message whose conversation a member `thread` goes on with; None where it says anything else."""
    if not isinstance(thread, dict) or thread.keys() != {"type", "previous_message_id"} or thread["type"] != "continue":
        return None
    return string_or_none(thread["previous_message_id"])


def _uncovered(path: str, document: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in OTHER_MODELS if document.get(name))
    counts = {name: document.get(name) for name in (*LIMITS[path], *CHOICES)}
    yield from (name for name, value in counts.items() if value is not None and not is_count(value))
    if document.get("background"):
        yield "background"
    tier, is_messages = document.get("service_tier"), path == messages.PATH
    if not isinstance(tier, str | None) or tier not in STANDARD_TIERS | ({"standard_only"} if is_messages else set()):
        yield "service_tier"
    if document.get("web_search_options") is not None:
        yield "web_search_options"
    tools = document.get("tools")
    for index, tool in enumerate(tools if isinstance(tools, list) else []):
        if not (isinstance(tool, dict) and _is_own(tool, is_messages)):
            yield f"tools[{index}]"
            return
    if path == responses.PATH and document.get("prompt"):
        yield "prompt"
    if is_messages:
        yield from (name for name in OF_MESSAGES if not _is_plain(name, document.get(name)))


def _is_own(tool: Mapping[str, Any], is_messages: bool) -> bool:
    """Whether the caller runs the tool itself."""
    kind = string_or_none(tool.get("type"))
    if not is_messages:
        return kind in OWN_TOOLS
    return kind == "custom" or tool.get("type") is None or (kind or "").startswith(CLIENTS_TOOLS)


def _is_plain(name: str, value: Any) -> bool:
    """Whether a member of OF_MESSAGES changes no cost. What is cleared of a context only makes it smaller, and how long
    the conversation of a thread is the ledger knows."""
    if name == "thread" and (begins_thread(value) or continued_message(value)):
        return True
    if name == "context_management" and isinstance(value, dict):
        edits = value.get("edits")
        return isinstance(edits, list) and all(
            isinstance(edit, dict) and str(edit.get("type")).startswith("clear_") for edit in edits
        )
    return not value or value in STANDARD.get(name, ())
