"""What a character adds to a request: its fields below the request's own, and its parts of the prompt."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.characters.character import Character
from app.characters.lore import last_words
from app.models import ChatRequest, Message

PLACEHOLDER = re.compile(r"\{\{(char|user)\}\}|<(bot|user)>", re.IGNORECASE)
"""As the character cards write them. Source: "Character Card V2", spec_v2.md, and V1's `<BOT>` and `<USER>`."""
ORIGINAL = re.compile(r"\{\{original\}\}", re.IGNORECASE)
"""In a system message: the server's own one."""


@dataclass(frozen=True)
class Script:
    """A request with what its character gives. `request`: with the fields that the character fills in. `sections`: the
    parts of the system message that it adds. `examples` stand before the history. `opening`: what the character says
    first where nothing was said before.
    """

    request: ChatRequest
    sections: dict[str, str] = field(default_factory=dict)
    examples: Sequence[Message] = ()
    opening: Message | None = None
    label: str = ""


def script(
    character: Character, request: ChatRequest, history: Sequence[Message], *, default_system: str, default_user: str
) -> Script:
    """What `character` adds to `request`, whose past turns are `history`, wherever they were kept.

    `default_system` and `default_user` stand for `{{original}}` and, where the request names no user, `{{user}}`.
    """
    user = request.user_name or default_user

    def filled(text: str) -> str:
        return _filled(text, character.called, user)

    opening = opening_turn(character, user) if not history else None
    said = last_words(history or ([opening] if opening else []), request.user_message, character.lore_turns)
    told = character.known_lore.told(said, character.lore_max_tokens)
    own = ORIGINAL.sub(lambda _: default_system, filled(character.system_message))
    return Script(
        dataclasses.replace(
            request,
            system_message=_or(request.system_message, own),
            role=_or(request.role, filled(character.role)),
            instructions=_or(request.instructions, filled(character.instructions)),
            model=request.model or character.model,
            temperature=character.temperature if request.temperature is None else request.temperature,
            max_tokens=character.max_tokens if request.max_tokens is None else request.max_tokens,
        ),
        {
            "description": filled(character.description),
            "speech_style": filled(character.speech_style),
            "lore": "\n".join(f"- {filled(text)}" for text in told),
        },
        [{"role": turn["role"], "content": filled(turn["content"])} for turn in character.examples],
        opening,
        character.label,
    )


def opening_turn(character: Character, user: str) -> Message | None:
    """What the character says first, to the user of this name; None where it waits to be spoken to."""
    if not character.first_message:
        return None
    return {"role": "assistant", "content": _filled(character.first_message, character.called, user)}


def _filled(text: str, char: str, user: str) -> str:
    """`text` with its placeholders replaced, all at once: what stands for one may look like another."""
    if "{{" not in text and "<" not in text:
        return text
    names = {"char": char, "bot": char, "user": user}
    return PLACEHOLDER.sub(lambda match: names[(match[1] or match[2]).lower()], text)


def _or(given: str | None, otherwise: str) -> str:
    return given if given and given.strip() else otherwise
