"""Lore: what of a character's world is told when one of an entry's keywords was said in the last turns.

Keywords are plain text, in either case. A keyword of Latin letters or digits is found as a whole word. A Korean one is
found where a word begins with it, because endings stand behind words: 용 is found in 용이, and not in 사용자. In other
scripts, which may have no spaces, it is found anywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.models import Message
from app.tokens import estimate_tokens

SCANNED_MAX_LENGTH = 5_000
"""Characters of the last turns in which keywords are looked for, the newest ones."""
LATIN_WORD = re.compile(r"[0-9a-z\xdf-\xf6\xf8-\u024f]+")
KOREAN_WORD = re.compile(r"[\uac00-\ud7a3]+")


@dataclass(frozen=True)
class LoreEntry:
    """What is told when one of the keywords was said; without keywords it is told always."""

    text: str
    keywords: tuple[str, ...] = ()


class Lore:
    """Entries whose keywords are looked for in what was said: each costs a search for a text, in time that is linear in
    what was said. Both are bounded: `test_what_the_largest_lore_costs`.
    """

    def __init__(self, entries: Iterable[LoreEntry]) -> None:
        self._entries = [(entry, [_marked(keyword) for keyword in entry.keywords]) for entry in entries]

    def told(self, said: str, max_tokens: int) -> list[str]:
        """The texts that apply where this was said, in their order, as many as fit into so many (estimated) tokens."""
        marked, texts = _marked(said), []
        for entry, keywords in self._entries:
            if not keywords or any(keyword in marked for keyword in keywords):
                tokens = estimate_tokens(entry.text)
                if tokens <= max_tokens:
                    texts.append(entry.text)
                    max_tokens -= tokens
        return texts


def last_words(turns: Sequence[Message], user_message: str, number: int) -> str:
    """What was said in so many of the last turns, the user's message being one."""
    texts, room = [user_message[-SCANNED_MAX_LENGTH:]], SCANNED_MAX_LENGTH - len(user_message)
    for turn in reversed(turns[max(0, len(turns) - number + 1) :]):
        if room <= 0:
            break
        texts.append(turn["content"][-room:])
        room -= len(turn["content"])
    return "\n".join(reversed(texts))


def composed(text: str) -> str:
    """`text` in Unicode's normal form C: macOS writes Korean syllables in their parts (UAX 15)."""
    return unicodedata.normalize("NFC", text)


def _marked(text: str) -> str:
    """`text` in lower case with marks before words, and behind those of Latin letters.

    A keyword is marked as well, so to find it as it stands is to find it as a word.
    """
    return KOREAN_WORD.sub("\0\\g<0>", LATIN_WORD.sub("\0\\g<0>\0", composed(text.casefold())))
