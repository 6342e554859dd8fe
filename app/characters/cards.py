"""Character cards, as people exchange them: "chara_card_v2" and "chara_card_v3", read into a character and written.

Sources: "Character Card V2" (malfoyslastname, spec_v2.md) and "Character Card V3" (kwaroran, SPEC_V3.md). A card of
version 1 is the `data` of a later one without anything around it.

A card has no place for a manner of speech, a model and its parameters; they travel in `extensions`, under our name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from app.characters.character import NAME_MAX_LENGTH, Character
from app.characters.rules import LORE_TOKENS_MAX, LORE_TURNS_MAX, Broken, broken_rules, unreadable
from app.errors import ERRORS_MAX

SPECS = ("chara_card_v2", "chara_card_v3")
EXTENSION = "llm_server"
EXTENDED = ("speech_style", "model", "temperature", "max_tokens", "lore_turns", "lore_max_tokens")
"""What of ours a card has no member for."""
UNUSED = (
    *("alternate_greetings", "assets", "character_version", "creator", "creator_notes", "creator_notes_multilingual"),
    *("group_only_greetings", "source", "tags"),
)
UNUSED_OF_ENTRY = ("case_sensitive", "secondary_keys")
TURN = re.compile(r"^[ \t]*(?:\{\{(user|char)\}\}|<(user|bot)>):[ \t]*", re.IGNORECASE | re.MULTILINE)
SPEAKERS = {"user": "{{user}}", "assistant": "{{char}}"}
START = re.compile(r"<START>", re.IGNORECASE)
ORIGINAL = re.compile(r"\{\{original\}\}", re.IGNORECASE)
DECORATORS = re.compile(r"\A(?:@@.*(?:\n|\Z))+")
"""Lines before the text of an entry that say when it is told (V3)."""
LIMITS = {"lore_turns": LORE_TURNS_MAX, "lore_max_tokens": LORE_TOKENS_MAX}
ENTRIES_MAX = 10_000
"""So many entries of a book are looked at; a character has far fewer, which its rules tell."""


def is_card(document: Any) -> bool:
    """Whether a JSON value is a card, and not a character in our own form."""
    return isinstance(document, Mapping) and ("spec" in document or "first_mes" in document)


def read_card(document: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the card says as members of a character, which still have to be checked, and the members left out.

    Raises ValidationException for what is no card.
    """
    data = document.get("data") if "spec" in document else document
    if "spec" in document and document["spec"] not in SPECS:
        raise unreadable(f"The spec of the card must be {' or '.join(SPECS)}", "지원하지 않는 캐릭터 카드 형식입니다.")
    if not isinstance(data, Mapping):
        raise unreadable("The card has no data", "캐릭터 카드에 data가 없습니다.")
    left_out = {name for name in UNUSED if data.get(name)}
    own = _extension(data)
    members: dict[str, Any] = {
        "name": data.get("name"),
        "nickname": data.get("nickname"),
        "description": _joined(data.get("description"), data.get("scenario")),
        "role": data.get("personality"),
        "system_message": data.get("system_prompt"),
        "instructions": _without_original(data.get("post_history_instructions")),
        "first_message": data.get("first_mes"),
        **_spoken(data.get("mes_example")),
        **_book(data.get("character_book"), left_out),
    }
    style = own.get("speech_style")
    if isinstance(style, str) and isinstance(members["role"], str):
        members["role"] = members["role"].removesuffix(style).rstrip()
    return members | own, sorted(left_out)


def renamed(members: dict[str, Any], name: str | None) -> dict[str, Any]:
    """The members under another name; the card's own stays what `{{char}}` stands for, where it can."""
    card_name = members["name"]
    if name is None or name == card_name:
        return members
    fits = isinstance(card_name, str) and 0 < len(card_name) <= NAME_MAX_LENGTH
    return members | {"name": name, "nickname": members.get("nickname") or (card_name if fits else None)}


def written_card(character: Character) -> dict[str, Any]:
    """A character as a card of version 2."""
    turns = [f"{SPEAKERS[turn['role']]}: {turn['content']}" for turn in character.examples]
    extended = {name: getattr(character, name) for name in EXTENDED}
    book = {"extensions": {}, "scan_depth": character.lore_turns, "token_budget": character.lore_max_tokens}
    data: dict[str, Any] = {
        "name": character.called,
        "description": character.description,
        "personality": "\n\n".join(filter(None, (character.role, character.speech_style))),
        "scenario": "",
        "first_mes": character.first_message,
        "mes_example": "\n".join(["<START>", *turns]) if turns else "",
        "creator_notes": "",
        "system_prompt": character.system_message,
        "post_history_instructions": character.instructions,
        "alternate_greetings": [],
        "tags": [],
        "creator": "",
        "character_version": str(character.version),
        "extensions": {EXTENSION: {name: value for name, value in extended.items() if value not in ("", None)}},
    }
    if character.lore:
        data["character_book"] = book | {"entries": list(_entries(character))}
    return {"spec": SPECS[0], "spec_version": "2.0", "data": data}


def _entries(character: Character) -> Iterator[dict[str, Any]]:
    for order, entry in enumerate(character.lore):
        yield {
            "keys": list(entry.keywords),
            "content": entry.text,
            "extensions": {},
            "enabled": True,
            "insertion_order": order,
            "constant": not entry.keywords,
        }


def _extension(data: Mapping[str, Any]) -> dict[str, Any]:
    extensions = data.get("extensions")
    own = extensions.get(EXTENSION) if isinstance(extensions, Mapping) else None
    return {name: own[name] for name in EXTENDED if name in own} if isinstance(own, Mapping) else {}


def _joined(description: Any, scenario: Any) -> Any:
    if isinstance(description, str) and isinstance(scenario, str):
        return "\n\n".join(part for part in (description, scenario) if part.strip())
    return description or scenario


def _without_original(text: Any) -> Any:
    return ORIGINAL.sub("", text).strip() if isinstance(text, str) else text


def _spoken(text: Any) -> dict[str, Any]:
    """The example messages as turns; text that has no turns shows how the character speaks."""
    if not isinstance(text, str):
        return {"examples": text}
    pieces = TURN.split(START.sub("", text))
    if len(pieces) == 1:
        return {"speech_style": pieces[0].strip()}
    # Each turn is the name in one of two spellings, and what is said.
    said = zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True)
    turns = [
        {"role": "user" if (one or other).lower() == "user" else "assistant", "content": content.strip()}
        for one, other, content in said
        if content.strip()
    ]
    return {"examples": turns}


def _book(book: Any, left_out: set[str]) -> dict[str, Any]:
    """The lore of a card's book, in the order in which its entries are to be told."""
    if book is None:
        return {}
    entries = book.get("entries") if isinstance(book, Mapping) else None
    if not isinstance(entries, list):
        raise unreadable("The entries of the card's book must be a list", "character_book을 읽을 수 없습니다.")
    if len(entries) > ENTRIES_MAX or not all(isinstance(entry, Mapping) for entry in entries):
        return {"lore": entries}
    found, errors = [], {}
    for number, entry in sorted(enumerate(entries), key=lambda numbered: _order(numbered[1])):
        try:
            if _is_told(entry):
                found.append(_entry(entry, left_out))
        except Broken as broken:
            errors[str(number)] = broken.told
    if errors:
        raise broken_rules({"lore": dict(itertools.islice(errors.items(), ERRORS_MAX))})
    limits = {"lore_turns": book.get("scan_depth"), "lore_max_tokens": book.get("token_budget")}
    return {"lore": found} | {name: _bounded(name, limit) for name, limit in limits.items() if limit}


def _bounded(name: str, limit: Any) -> Any:
    """A book's own limit within ours; what is no number is left to the rules."""
    return min(max(limit, 1), LIMITS[name]) if isinstance(limit, int) else limit


def _order(entry: Mapping[str, Any]) -> float:
    order = entry.get("insertion_order")
    return float(order) if isinstance(order, int | float) and abs(order) < 1e15 else 0.0


def _is_told(entry: Mapping[str, Any]) -> bool:
    """Whether an entry can ever be told: it is not switched off, has a text, and keywords or needs none."""
    keys = entry.get("keys")
    is_idle = isinstance(keys, list) and not any(key for key in keys if not isinstance(key, str) or key.strip())
    is_empty = isinstance(text := entry.get("content"), str) and not text.strip()
    return entry.get("enabled") is not False and not is_empty and (entry.get("constant") is True or not is_idle)


def _entry(entry: Mapping[str, Any], left_out: set[str]) -> dict[str, Any]:
    if entry.get("use_regex") is True:
        raise Broken("keywords must be plain text; these are regular expressions")
    left_out.update(name for name in UNUSED_OF_ENTRY if entry.get(name))
    text = entry.get("content")
    if isinstance(text, str) and (decorated := DECORATORS.match(text)):
        left_out.add("decorators")
        text = text[decorated.end() :].strip()
    if entry.get("constant") is True:
        return {"text": text}
    keys = entry.get("keys")
    if not isinstance(keys, list):
        raise Broken("keys must be a list")
    return {"text": text, "keywords": [key for key in keys if not isinstance(key, str) or key.strip()]}
