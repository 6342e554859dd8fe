"""Parameters that we add to a request and a model does not take: seen in upstream's refusal, left out, remembered.

A caller who names no temperature does not want to hear that the model takes none. So the request is made once more
without what was refused, and the model's next requests leave it out from the start. What the caller gave is never left
out: upstream's refusal is the answer then. The names are upstream's, and two of ours: `system` is the system role,
`roles` are several messages of one role in a row.

Only what led to an answer is remembered. A refusal can quote what a caller has written, so its words alone must not
change the requests of others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from app.models import Generation, Message

MODELS_MAX = 1000
ADDED = frozenset({"max_completion_tokens", "max_tokens", "stream_options", "store", "system", "roles"})
"""What the native route always adds itself; the temperature is the caller's where it names one."""
NAMES = ("max_completion_tokens", "max_tokens", "temperature", "stream_options", "store")
LIMITS = {"max_completion_tokens", "max_tokens"}
"""They are refused for their value as well, so the refusal has to say that it is about the name."""
NONE: frozenset[str] = frozenset()
REASONING_MODEL = re.compile(r"(?:.*/)?(?:o[1-9]|gpt-5)(?:[-.:].*)?", re.DOTALL)
"""OpenAI's API reference: they refuse `temperature`, and `max_tokens` in Chat Completions."""
REFUSED_BY_REASONING_MODELS = frozenset({"temperature", "max_tokens"})
UNSUPPORTED = re.compile(
    r"unsupported|n[o']t support|unknown|unrecogni[sz]ed|forbidden"
    r"|n[o']t (?:permitted|allowed|enabled)|unexpected|deprecated"
)
SYSTEM_ROLE = re.compile(r"(?:system|developer) (?:role|instruction|message)")
ROLE = re.compile(r"(?:messages|input)\W{0,2}[0-9]{1,4}\W{0,2}role")
TEXT_MAX = 8192
DEPTH_MAX = 8


class ModelParameters:
    """What each model is asked without; `models_max` of them are remembered."""

    def __init__(self, models_max: int = MODELS_MAX) -> None:
        self._models_max = models_max
        self._without: dict[str, frozenset[str]] = {}

    def of(self, model: str) -> frozenset[str]:
        """The names that a request to `model` leaves out or changes."""
        known = self._without.get(model)
        if known is not None:
            return known
        return REFUSED_BY_REASONING_MODELS if REASONING_MODEL.fullmatch(model) else NONE

    def remember(self, model: str, without: frozenset[str]) -> None:
        """`model` has answered a request that was made so."""
        while len(self._without) >= self._models_max and model not in self._without:
            self._without.pop(next(iter(self._without)), None)
        self._without[model] = without


class AdaptedBody:
    """The body of one request in the form that its model takes; `make` makes it without the names that it is given.

    `optional` are the names that may be left out or changed: those that the caller has not given.
    """

    def __init__(
        self,
        parameters: ModelParameters,
        model: str,
        make: Callable[[frozenset[str]], bytes],
        optional: Collection[str],
    ) -> None:
        self._parameters = parameters
        self._model = model
        self._make = make
        self._optional = optional
        self._refused: set[str] = set()
        self.without = parameters.of(model)
        self.body = make(self.without)

    def again(self, name: str) -> bytes | None:
        """The body to ask with once more after upstream has refused `name`; None when there is no other."""
        if name == "roles" and name in self.without:
            name = "system"
        if name in self._refused or name not in self._optional:
            return None
        self._refused.add(name)
        without = self.without - {"max_tokens"} if name == "max_completion_tokens" else self.without | {name}
        if without == self.without:
            return None
        self.without, self.body = without, self._make(without)
        return self.body

    def accepted(self) -> None:
        """Upstream has answered."""
        if self._refused:
            self._parameters.remember(self._model, self.without)


NOTHING_SAID: Message = {"role": "user", "content": "…"}
"""What stands before the model's own first words where a template begins with the user."""


def fitting_messages(generation: Generation, without: frozenset[str]) -> list[Message]:
    """The messages for a model that takes no system role (it goes before the user's words), or no two turns of one role
    and none of its own first."""
    messages = list(generation.messages)
    if "roles" in without:
        first = next(index for index, message in enumerate(messages) if message["role"] != "system")
        if messages[first]["role"] == "assistant":
            messages.insert(first, NOTHING_SAID)
    if "system" in without and messages and messages[0]["role"] == "system":
        system, *messages = messages
        first = next(index for index, message in enumerate(messages) if message["role"] == "user")
        messages[first] = _joined(system, messages[first])
    return _alternating(messages) if "roles" in without else messages


def _alternating(messages: Sequence[Message]) -> list[Message]:
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1]["role"] == message["role"]:
            joined[-1] = _joined(joined[-1], message)
        else:
            joined.append(message)
    return joined


def _joined(first: Message, second: Message) -> Message:
    return {"role": second["role"], "content": f"{first['content']}\n\n{second['content']}"}


def refused_parameter(status: int, body: bytes) -> str | None:
    """The name of what upstream refuses in a request, of those that can be left out; None for any other refusal.

    Sources: OpenAI's errors (`param`), FastAPI's (`loc`), the chat templates of vLLM, Mistral and Gemma (words).
    """
    if status not in {400, 422}:
        return None
    told = list(_told(body))
    words = " ".join(text for _, text in told).lower()[:TEXT_MAX]
    is_unsupported = UNSUPPORTED.search(words) is not None
    named = [text.partition(".")[0] for member, text in told if member in {"param", "loc"}]
    if name := next((text for text in named if text in NAMES), None):
        return name if is_unsupported or name not in LIMITS else None
    if "role" in words and ("alternate" in words or ("first message" in words and "user" in words)):
        return "roles"
    if "only user and assistant roles" in words:
        return "system"
    if not is_unsupported:
        return None
    if any(ROLE.fullmatch(text) for member, text in told if member in {"param", "loc"}) or SYSTEM_ROLE.search(words):
        return "system"
    found = [(words.find(name), name) for name in NAMES if name in words and name != "store"]
    return min(found, default=(0, None))[1]


def _told(body: bytes) -> Iterator[tuple[str, str]]:
    """Every text in the document of a refusal, with the name of the member that holds it."""
    try:
        document = json.loads(body[: 8 * TEXT_MAX].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return
    left: list[tuple[str, Any, int]] = [("", document, 0)]
    while left:
        member, value, depth = left.pop()
        if isinstance(value, str):
            yield member, value
        elif depth < DEPTH_MAX and isinstance(value, dict):
            left += [(str(name), inner, depth + 1) for name, inner in reversed(value.items())]
        elif depth < DEPTH_MAX and isinstance(value, list):
            left += [(member, inner, depth + 1) for inner in reversed(value)]
