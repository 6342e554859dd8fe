"""The rules that a character keeps, and its form as JSON, which applications send, files have and the store keeps."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

from app.characters.character import (
    LORE_MAX_TOKENS,
    LORE_TURNS,
    NAME,
    NAME_FORM,
    NAME_MAX_LENGTH,
    Character,
)
from app.characters.lore import LoreEntry, composed
from app.errors import ERRORS_MAX, ValidationException
from app.json_bytes import dump_json, is_writable, well_formed
from app.models import MAX_TOKENS_LIMIT, MODEL_MAX_LENGTH, TEMPERATURE_MAX, UNWRITABLE, Message

TEXT_MAX_LENGTH = 50_000
BODY_MAX_BYTES = 262_144
"""Of a character as JSON."""
EXAMPLES_MAX = 100
LORE_MAX = 500
KEYWORDS_MAX = 50
"""Of one entry."""
ALL_KEYWORDS_MAX = 1_000
KEYWORD_MAX_LENGTH = 100
LORE_TURNS_MAX = 100
LORE_TOKENS_MAX = 100_000
PAGE_MAX = 500
"""Of a list of characters."""
MEMBERS_MAX = 1000
FIELD_NAME_MAX_LENGTH = 64
FIELDS_NAMED_MAX = 5
REGULAR_EXPRESSION = re.compile(
    r"\A/.+/[a-z]*\Z|\\[A-Za-z.()\[\]^$*+?]|\.[*+]|[)\]][*+?{]|\(\?|\[\^|\w\|\w|\A\^.*\$\Z", re.DOTALL
)
"""What nobody writes who means it as it stands. As plain text it would never be said, and the entry never told."""
TOLD = {"version", "created_at", "left_out"}
"""Members of an answer that say nothing when they are sent back."""


class Broken(Exception):
    """A value breaks a rule; `told` is the message, or for a list the messages by index."""

    def __init__(self, told: Any) -> None:
        super().__init__()
        self.told = told if isinstance(told, dict) else [told]


def read_character(document: Any, name: str | None = None) -> Character:
    """The character that a JSON object describes; `name` is its name, which the object may leave out.

    Raises ValidationException, which names each broken rule.
    """
    if not isinstance(document, Mapping):
        raise unreadable("A character must be a JSON object", "캐릭터는 JSON 객체여야 합니다.")
    values: dict[str, Any] = {}
    errors: dict[str, Any] = {}
    for member, given in itertools.islice(document.items(), MEMBERS_MAX):
        if member in TOLD or (given is None and member in READERS):
            continue
        try:
            values[member] = _reader(member)(given)
        except Broken as broken:
            errors[member] = broken.told
    named = values.setdefault("name", name)
    if "name" not in errors and (named is None or (name is not None and named != name)):
        errors["name"] = ["must be given" if named is None else "must be the name in the address, or left out"]
    if errors:
        raise broken_rules(errors)
    character = Character(**values)
    if len(written(character)) > BODY_MAX_BYTES:
        raise unreadable(
            f"As JSON a character has at most {BODY_MAX_BYTES} bytes",
            f"JSON으로 {BODY_MAX_BYTES}바이트까지입니다.",
        )
    return character


def read_name(given: Any) -> str:
    """A name in its normal form; raises ValidationException."""
    try:
        return _name(given)
    except Broken as broken:
        raise broken_rules({"name": broken.told}) from None


def document_of(character: Character) -> dict[str, Any]:
    """The members of a character that are not the default ones, without name and version."""
    lore = [
        {"keywords": list(entry.keywords), "text": entry.text} if entry.keywords else {"text": entry.text}
        for entry in character.lore
    ]
    found = {name: getattr(character, name) for name in (*TEXTS, *NUMBERS)}
    found |= {"examples": [dict(turn) for turn in character.examples], "lore": lore}
    return {name: value for name, value in found.items() if value not in ("", None, [], DEFAULTS.get(name))}


def written(character: Character) -> bytes:
    """The same as JSON; two characters are alike when these are."""
    return dump_json(document_of(character))


def kept(document: Mapping[str, Any], **known: Any) -> Character:
    """A character from what the store has kept of it: it was checked when it came."""
    lore = [LoreEntry(entry["text"], tuple(entry.get("keywords", ()))) for entry in document.get("lore", ())]
    return Character(**{**document, "lore": tuple(lore), "examples": tuple(document.get("examples", ()))}, **known)


def broken_rules(errors: Mapping[str, Any]) -> ValidationException:
    """The error that names the members that break a rule."""
    names = [well_formed(str(name)[:FIELD_NAME_MAX_LENGTH]) for name in errors]
    told = ", ".join([*names[:FIELDS_NAMED_MAX], *(["…"] if len(names) > FIELDS_NAMED_MAX else [])])
    return ValidationException(f"These fields break a rule: {told}", next(iter(errors)), errors=errors)


def unreadable(english: str, korean: str) -> ValidationException:
    """The error of what is no character at all; a Korean sentence ends with its full stop."""
    error = ValidationException("The character cannot be read")
    error.explain(english, korean)
    return error


def _reader(member: object) -> Callable[[Any], Any]:
    if not isinstance(member, str) or member not in READERS:
        raise Broken("Unknown field.")
    return READERS[member]


def _text(most: int) -> Callable[[Any], str]:
    def read(given: Any) -> str:
        if not isinstance(given, str):
            raise Broken("Not a valid string.")
        if len(given) > most:
            raise Broken(f"must be at most {most} long")
        if not is_writable(given):
            raise Broken(UNWRITABLE)
        return given if given.strip() else ""

    return read


def _number(least: int, most: int, *, whole: bool) -> Callable[[Any], Any]:
    def read(given: Any) -> Any:
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise Broken("Not a valid number.")
        # NaN is within no range; a huge integer must not be turned into a float.
        if not least <= given <= most:
            raise Broken(f"must be from {least} to {most}")
        if whole and not float(given).is_integer():
            raise Broken("Not a valid integer.")
        return int(given) if whole else given

    return read


def _shared(given: Any) -> bool:
    if not isinstance(given, bool):
        raise Broken("Not a valid boolean.")
    return given


def _name(given: Any) -> str:
    name = composed(given) if isinstance(given, str) and len(given) <= 4 * NAME_MAX_LENGTH else ""
    if not NAME.fullmatch(name) or not is_writable(name):
        raise Broken(NAME_FORM)
    return name


def _list(most: int, read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    """A list whose length is looked at before its entries are; the first broken ones are named by index."""

    def read_all(given: Any) -> tuple[Any, ...]:
        if not isinstance(given, list | tuple):
            raise Broken("Not a valid list.")
        if len(given) > most:
            raise Broken(f"must be at most {most} long")
        entries, errors = [], {}
        for index, entry in enumerate(given):
            try:
                entries.append(read(entry))
            except Broken as broken:
                errors[str(index)] = broken.told
            if len(errors) == ERRORS_MAX:
                break
        if errors:
            raise Broken(errors)
        return tuple(entries)

    return read_all


def _example(given: Any) -> Message:
    if not isinstance(given, Mapping) or set(given) != {"role", "content"} or given["role"] not in ROLES:
        raise Broken('must be {"role": "user" or "assistant", "content": …}')
    content = _text(TEXT_MAX_LENGTH)(given["content"])
    if not content:
        raise Broken("must not be blank")
    return {"role": given["role"], "content": content}


def _keyword(given: Any) -> str:
    keyword = composed(_text(KEYWORD_MAX_LENGTH)(given).strip())
    if not keyword:
        raise Broken("must not be blank")
    if REGULAR_EXPRESSION.search(keyword):
        raise Broken("must be plain text; this is a regular expression")
    return keyword


def _entry(given: Any) -> LoreEntry:
    if not isinstance(given, Mapping) or not {"text"} <= set(given) <= {"keywords", "text"}:
        raise Broken('must be {"keywords": […], "text": …}; without keywords it always applies')
    content = _text(TEXT_MAX_LENGTH)(given["text"])
    if not content:
        raise Broken("must not be blank")
    keywords = given.get("keywords")
    return LoreEntry(content, () if keywords is None else _list(KEYWORDS_MAX, _keyword)(keywords))


def _lore(given: Any) -> tuple[LoreEntry, ...]:
    entries = _list(LORE_MAX, _entry)(given)
    if sum(len(entry.keywords) for entry in entries) > ALL_KEYWORDS_MAX:
        raise Broken(f"must have at most {ALL_KEYWORDS_MAX} keywords in all")
    return entries


ROLES = ("user", "assistant")
TEXTS = {
    "nickname": NAME_MAX_LENGTH,
    "description": TEXT_MAX_LENGTH,
    "role": TEXT_MAX_LENGTH,
    "speech_style": TEXT_MAX_LENGTH,
    "system_message": TEXT_MAX_LENGTH,
    "instructions": TEXT_MAX_LENGTH,
    "model": MODEL_MAX_LENGTH,
    "first_message": TEXT_MAX_LENGTH,
}
"""How long each may be."""
NUMBERS: Mapping[str, Callable[[Any], Any]] = {
    "temperature": _number(0, TEMPERATURE_MAX, whole=False),
    "max_tokens": _number(1, MAX_TOKENS_LIMIT, whole=True),
    "lore_turns": _number(1, LORE_TURNS_MAX, whole=True),
    "lore_max_tokens": _number(1, LORE_TOKENS_MAX, whole=True),
}
DEFAULTS = {"lore_turns": LORE_TURNS, "lore_max_tokens": LORE_MAX_TOKENS}
READERS: Mapping[str, Callable[[Any], Any]] = {
    "name": _name,
    "shared": _shared,
    "examples": _list(EXAMPLES_MAX, _example),
    "lore": _lore,
    **{name: _text(most) for name, most in TEXTS.items()},
    **NUMBERS,
}
