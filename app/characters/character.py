"""Character: somebody whom the model plays, as an application keeps it once and names it in a request.

The rules that one must keep, and its form as JSON, are in app/characters/rules.py.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from app.characters.lore import Lore, LoreEntry, composed
from app.json_bytes import is_writable
from app.models import CHARACTER_MAX_LENGTH, Message

NAME_MAX_LENGTH = 64
NAME_PATTERN = (
    r"^[^\x00- !-/:-@\[-^`{-\xa0\xad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff0-\uffff]"
    r"([^\x00-\x1f!-,/:-@\[-^`{-\xa0\xad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff0-\uffff]"
    r"{0,62}"
    r"[^\x00- !-,/:-@\[-^`{-\xa0\xad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff0-\uffff])?$"
)
"""Letters, digits and signs of every script, of ASCII's signs `-`, `_` and `.`, and spaces inside: nothing that has a
meaning in a URL, in markup or in `mina@3`, and nothing that is invisible. It begins with neither a dot nor a dash."""
NAME = re.compile(NAME_PATTERN)
NAME_FORM = (
    f"must be 1 to {NAME_MAX_LENGTH} letters or digits of any script, `-`, `_`, `.` or spaces, begin with a letter, a "
    "digit or `_`, and not end with a space"
)
VERSION_MAX = 2**31 - 1
REFERENCE = re.compile(r"(?P<name>[^@]{1,256})(?:@(?P<version>[1-9][0-9]{0,9}))?", re.DOTALL)
"""How a request names a character: `mina`, or `mina@3` for one of its versions."""
LORE_TURNS = 4
LORE_MAX_TOKENS = 1000


@dataclass(frozen=True, kw_only=True)
class Character:
    """One version of a character. An empty text and None mean "not given".

    `nickname`: what `{{char}}` stands for where that is not the name. `lore_turns`: in how many of the last turns, the
    user's message among them, keywords are looked for; `lore_max_tokens`: how much is told of it at most (estimated).
    `shared`: everybody sees it. `created_at`: when this version was made, microseconds since 1970, UTC.
    """

    name: str
    version: int = 0
    shared: bool = False
    created_at: int = 0
    nickname: str = ""
    description: str = ""
    role: str = ""
    speech_style: str = ""
    system_message: str = ""
    instructions: str = ""
    examples: Sequence[Message] = ()
    model: str = ""
    temperature: float | None = None
    max_tokens: int | None = None
    first_message: str = ""
    lore: Sequence[LoreEntry] = ()
    lore_turns: int = LORE_TURNS
    lore_max_tokens: int = LORE_MAX_TOKENS

    @property
    def label(self) -> str:
        """Name and version, as the ledger says who spoke."""
        return f"{self.name}@{self.version}"

    @property
    def called(self) -> str:
        """What `{{char}}` stands for."""
        return self.nickname or self.name

    @functools.cached_property
    def known_lore(self) -> Lore:
        """The lore, ready to be looked at."""
        return Lore(self.lore)


def parse_reference(reference: str) -> tuple[str, int | None] | None:
    """The name and the version that a request asks for, None for the newest; None where it can be no character's."""
    match = REFERENCE.fullmatch(composed(reference[: 4 * CHARACTER_MAX_LENGTH]))
    if match is None or not NAME.fullmatch(match["name"]) or not is_writable(reference):
        return None
    version = None if match["version"] is None else int(match["version"])
    return None if version is not None and version > VERSION_MAX else (match["name"], version)
