"""Segments: a streamed answer sentence by sentence, for speech.

`Segmenter` is given the answer's pieces and gives a segment with the first piece of what stands behind it. How the
answer was cut into pieces changes nothing. What is held is at most MOST characters and a PIECE, so a piece costs the
same however long the answer is. No package does this (docs/architecture, "Packages and why").
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from app.models import SEGMENT_TAG_MAX_LENGTH
from app.services.sentences import MARK, PAIRS, SPOKEN, closes_quotation, ends_sentence, opens_quotation

LIMIT = 400
"""Characters after which a sentence without an end is cut."""
MOST = 800
"""Characters of a segment with the white space behind it."""
QUOTATION = 200
"""Characters of a quotation in which nothing is cut. One that is longer, or is never closed, is cut all the same."""
PIECE = 512
SPACE = re.compile(r"\s*")
LAST_SPACE = re.compile(r".*\s(?=\S)", re.DOTALL)
LAST_COMMA = re.compile(r".*[、，；：]", re.DOTALL)
JOINED = re.compile(
    "[\u0300-\u036f\u1160-\u11ff\u200d\u20d0-\u20ff\u3099\u309a\ufe00-\ufe0f"
    "\U0001f1e6-\U0001f1ff\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]"
)
"""Stays with the character before it: accents, parts of a syllable or of an emoji."""
JOINED_MAX = 40


@dataclass(frozen=True)
class Segment:
    """A piece of an answer. `start` and `end`, in characters, are its place there, its tag included; `text` is what
    stands there without the tag."""

    index: int
    text: str
    start: int
    end: int
    tag: str | None


class Segmenter:
    """Cuts one answer into segments; all their texts together are the answer without its tags."""

    def __init__(self, tags: Collection[str] = ()) -> None:
        self._tags = frozenset(tags)
        self._text = ""
        self._tag: str | None = None
        self._may_be_tag = bool(tags)
        self._seen = 0  # How far the text has been searched for marks.
        self._closing = ""  # What ends the quotation that is open.
        self._opened = 0  # Where it began.
        self._index = 0
        self._start = 0

    def add(self, piece: str) -> Iterator[Segment]:
        """Take the next piece of the answer; give the segments whose end it makes sure."""
        for start in range(0, len(piece), PIECE):
            self._text += piece[start : start + PIECE]
            yield from self._sure()

    def finish(self) -> Iterator[Segment]:
        """The answer is over: give the rest of it."""
        if self._text or self._tag is not None:
            yield self._cut(len(self._text))

    def _sure(self) -> Iterator[Segment]:
        while True:
            if self._may_be_tag:
                yield from self._read_tags()
            if self._may_be_tag or not (border := self._border()):
                return
            yield self._cut(border)

    def _cut(self, border: int) -> Segment:
        """The segment that ends at `border`; the next one begins there."""
        text, tag = self._text[:border], self._tag
        end = self._start + border + (0 if tag is None else len(tag) + 2)
        segment = Segment(self._index, text, self._start, end, tag)
        self._text, self._tag, self._may_be_tag = self._text[border:], None, bool(self._tags)
        self._seen, self._opened = max(0, self._seen - border), self._opened - border
        self._index, self._start = self._index + 1, end
        return segment

    def _read_tags(self) -> Iterator[Segment]:
        """Take the tag from the beginning of the text, as soon as it is sure. A tag before another is a segment."""
        while self._may_be_tag:
            at = _behind_space(self._text, 0)
            if at == len(self._text) and at < LIMIT:
                return
            name, bracket, rest = self._text[at + 1 :].partition("]")
            is_begun = at < LIMIT and self._text[at : at + 1] == "[" and len(name) <= SEGMENT_TAG_MAX_LENGTH
            if is_begun and not bracket and any(tag.startswith(name) for tag in self._tags):
                return
            self._may_be_tag = is_begun and bool(bracket) and name in self._tags
            if not self._may_be_tag:
                return
            if self._tag is not None:
                yield self._cut(at)
                at = 0
            self._tag, self._text = name, self._text[:at] + rest

    def _border(self) -> int:
        """Where the next segment begins; 0 while that is not sure."""
        text = self._text
        while (mark := MARK.search(text, self._seen)) and mark.end() <= LIMIT:
            behind = _behind_space(text, mark.end())
            if behind > MOST:
                return MOST
            if behind == len(text):
                return 0
            if self._ends_at(mark, behind):
                return behind
            self._seen = behind if mark["line"] else mark.end()
        if mark is None:
            self._seen = len(text)
        return _cut_by_length(text) if len(text) > LIMIT else 0

    def _ends_at(self, mark: re.Match[str], behind: int) -> bool:
        """Whether the segment ends at a mark, behind which the text goes on at `behind`."""
        text, at = self._text, mark.start()
        if self._closing and (mark["line"] or at - self._opened >= QUOTATION):
            self._closing = ""
        if mark["quote"]:
            self._note_quotation(at)
            return False
        if self._closing and self._closing not in (mark["tail"] or ""):
            return False
        is_aside = bool(self._closing and SPOKEN.search(text, 0, max(0, self._opened)))
        self._closing = ""
        if not SPOKEN.search(text, 0, at):
            return False
        if mark["line"]:
            return True
        return ends_sentence(mark, text[behind], is_spaced=behind > mark.end(), is_aside=is_aside)

    def _note_quotation(self, at: int) -> None:
        """A quotation or bracket begins or ends at `at`."""
        if self._closing:
            self._closing = "" if closes_quotation(self._text, at, self._closing) else self._closing
        elif opens_quotation(self._text, at):
            self._closing, self._opened = PAIRS[self._text[at]], at


def _behind_space(text: str, start: int) -> int:
    """Where white space that begins at `start` ends; `start` where there is none."""
    found = SPACE.match(text, start)
    return found.end() if found else start


def _cut_by_length(text: str) -> int:
    """Where a text that is too long is cut: behind its last white space, else behind a comma, else where it may be."""
    for pattern in (LAST_SPACE, LAST_COMMA):
        found = pattern.match(text, 0, LIMIT + 1)
        if found and found.end() <= LIMIT and SPOKEN.search(text, 0, found.end()):
            return found.end()
    cut = LIMIT
    while cut > LIMIT - JOINED_MAX and (JOINED.match(text, cut) or text[cut - 1] == "\u200d"):
        cut -= 1
    return cut
