"""Where a sentence ends: decided from the text before its last mark and the one character behind it.

A stream has to be cut while it comes, so the rules look no further ahead than the first character that is no white
space. They are for Korean, English and Japanese mixed at will, without being told which, and lean to not cutting.
"""

from __future__ import annotations

import re

ELLIPSES = "…‥⋯"
WIDE = "。．｡！？"
STOPS = f".!?{ELLIPSES}{WIDE}‼⁇⁈⁉؟।॥"
QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "「": "」", "『": "』"}
BRACKETS = {"(": ")", "[": "]", "（": "）", "【": "】", "《": "》", "〈": "〉", "［": "］"}
PAIRS = QUOTES | BRACKETS
"""What opens, and what closes it."""
QUOTE_ENDS, BRACKET_ENDS = "".join(QUOTES.values()), "".join(BRACKETS.values())
CLOSERS = QUOTE_ENDS + BRACKET_ENDS + "*_~～"
EMOJI = "\u200d\u20e3\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff\U000e0020-\U000e007f"
LINE_ENDS = "\n\r\u2028\u2029"
CONTINUES = frozenset(",;:%、，；：" + STOPS + BRACKET_ENDS)
"""Behind these marks the sentence goes on."""
DASHES = frozenset("-–—―")

MARK = re.compile(
    rf"(?P<stop>[{STOPS}]+)(?P<tail>(?:[{re.escape(CLOSERS)}]|[ \t]*+[{EMOJI}])*+)"
    rf"|(?P<line>[{LINE_ENDS}])"
    rf"|(?P<quote>[{re.escape(''.join(PAIRS) + QUOTE_ENDS + BRACKET_ENDS)}])"
)
"""What may end a sentence, with what belongs to it, or begin or end a quotation."""
SPOKEN = re.compile(r"[^\W_]")
"""Something to say: a letter or a figure."""

WORD = re.compile(r"[^\s\"“(\[]*\Z")
WORD_MAX_LENGTH = 24
LIST_MARKER = re.compile(r"[\s#*>(_-]*(?:\d{1,3}|[A-Za-z]|[ivx]{1,5}|[IVX]{1,5})\Z")
DOTTED = re.compile(r"(?:[A-Za-z]{1,2}\.)+[A-Za-z]{1,2}")
"""`e.g`, `U.S`, `Ph.D`: the last period is behind it."""
HOURS = frozenset({"a.m", "p.m"})
TITLES = re.compile(
    "Dr|Mr|Mrs|Ms|Mx|Prof|St|Sr|Jr|Rev|Hon|Gen|Col|Maj|Capt|Lt|Sgt|Cmdr|Adm|Gov|Pres|Sen|Rep|Mt|Ft|"
    "vs|cf|viz|approx|ca|resp|incl|esp"
)
"""Never the end of a sentence."""
BEFORE_NUMBERS = re.compile(
    "nos?|figs?|vol|ch|chap|sec|art|pp?|ed|eq|ver|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec", re.IGNORECASE
)
"""Not the end of a sentence before a figure."""


def ends_sentence(mark: re.Match[str], after: str, *, is_spaced: bool, is_aside: bool) -> bool:
    """Whether a sentence ends at a `stop` of MARK; the searched text begins with it.

    `after` is the first character behind it that is no white space, `is_spaced` whether white space is between,
    `is_aside` whether it ends a bracket within the sentence.
    """
    before, stop, tail = mark.string[: mark.start()], mark["stop"], mark["tail"]
    if after in CONTINUES:
        return False
    is_quoted = any(char in QUOTE_ENDS for char in tail)
    if is_quoted or is_aside or (not is_spaced and any(char in BRACKET_ENDS for char in tail)):
        goes_on = after in DASHES or (after.isalpha() and not after.isupper())
        return not goes_on and (is_spaced or after in PAIRS)
    if is_ellipsis(stop):
        return False
    is_spaced = is_spaced or bool(tail.strip(CLOSERS))
    if any(char in WIDE for char in stop):
        return is_spaced or not after.isdigit()
    if not is_spaced:
        return stop != "." and "\u3040" <= after <= "\u9fff" and "://" not in before
    return stop != "." or not is_abbreviating(before, after)


def is_ellipsis(stop: str) -> bool:
    """Whether marks are a pause and no end: `…`, `...`, `。。。`."""
    return not set(stop) - set(ELLIPSES + ".。．｡") and (len(stop) > 1 or stop in ELLIPSES)


def is_abbreviating(before: str, after: str) -> bool:
    """Whether a single period behind `before` belongs to a number or an abbreviation."""
    if before[-1:] > "\u02ff":
        return False
    if after.islower() or LIST_MARKER.match(before):
        return True
    found = WORD.search(before, max(0, len(before) - WORD_MAX_LENGTH))
    word = found[0].lstrip("'‘*_") if found else ""
    if word[-1:].isdigit():
        # A date: 2026. 11. 26. 입니다
        return after.isdigit() or "가" <= after <= "힣"
    if DOTTED.fullmatch(word):
        return word.lower() not in HOURS
    is_initial = len(word) == 1 and word.isalpha() and word != "I"
    return is_initial or bool(TITLES.fullmatch(word)) or (after.isdigit() and bool(BEFORE_NUMBERS.fullmatch(word)))


def opens_quotation(text: str, at: int) -> bool:
    """Whether the mark at `at`, which has a character behind it, opens a quotation or a bracket: no apostrophe does."""
    mark, after = text[at], text[at + 1]
    if mark not in PAIRS or after.isspace():
        return False
    if mark != "'":
        return True
    return (at == 0 or text[at - 1].isspace()) and (after.isupper() or after > "\u02ff")


def closes_quotation(text: str, at: int, end: str) -> bool:
    """Whether the mark at `at`, which has a character behind it, is the `end` of the open one, and no apostrophe."""
    after = text[at + 1]
    return text[at] == end and not (end in "'’" and after.isascii() and after.isalnum())
