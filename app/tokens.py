"""How many tokens a text has, estimated: real tokenizers need tables that no package ships and no network may fetch."""

from __future__ import annotations

import math

ASCII_CHARACTERS_PER_TOKEN = 4.0
OTHER_CHARACTERS_PER_TOKEN = 1.0


def estimate_tokens(text: str) -> int:
    """One token per four ASCII characters and one per other character, rounded up.

    Errs on the high side: OpenAI's guide gives four characters per token for English, and its tokenizers take less
    than one token per Korean syllable. Source: OpenAI help center, "What are tokens and how to count them?".
    """
    if text.isascii():
        return math.ceil(len(text) / ASCII_CHARACTERS_PER_TOKEN)
    ascii_characters = _ascii_characters(text)
    return _tokens(ascii_characters, len(text) - ascii_characters)


def beginning(text: str, max_tokens: int) -> str:
    """As much of the beginning of a text as has at most `max_tokens`, estimated."""
    text = text[: int(max_tokens * ASCII_CHARACTERS_PER_TOKEN)]
    left = float(max_tokens)
    for place, character in enumerate(text):
        left -= 1 / (ASCII_CHARACTERS_PER_TOKEN if character.isascii() else OTHER_CHARACTERS_PER_TOKEN)
        if left < 0:
            return text[:place]
    return text


class TextCount:
    """Estimates a text that comes in pieces, without keeping it."""

    __slots__ = ("_ascii_characters", "_others")

    def __init__(self) -> None:
        self._ascii_characters = self._others = 0

    def add(self, text: str) -> None:
        """The next piece."""
        ascii_characters = _ascii_characters(text)
        self._ascii_characters += ascii_characters
        self._others += len(text) - ascii_characters

    @property
    def tokens(self) -> int:
        """The tokens of all pieces together."""
        return _tokens(self._ascii_characters, self._others)


def _ascii_characters(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("ascii", "ignore"))


def _tokens(ascii_characters: int, others: int) -> int:
    return math.ceil(ascii_characters / ASCII_CHARACTERS_PER_TOKEN + others / OTHER_CHARACTERS_PER_TOKEN)


IMAGE_TOKENS = 2_500
IMAGE_TOKENS_BY_MODEL = {"gpt-4o-mini": 48_169, "claude": 4_800, "anthropic/claude": 4_800}
"""The most that one picture costs: 85 + 8 tiles of 170 for gpt-4o, 1,536 patches × 1.62 for gpt-4.1-mini, and
2,833 + 8 tiles of 5,667 for gpt-4o-mini; 4,784 for the newest Claude models. Sources: OpenAI's guide "Images and
vision", "Calculating costs"; Anthropic's guide "Vision"."""
AUDIO_BYTES_PER_TOKEN = 100
"""Sound costs 10 tokens a second, and a second of it has 1,000 bytes or more (8 kbit/s)."""
FILE_TOKENS = 100_000
"""For one file: its pages are text and pictures, and their number is not known here."""


def image_tokens(model: str) -> int:
    """The most that one picture costs in a prompt to `model`."""
    return next((most for name, most in IMAGE_TOKENS_BY_MODEL.items() if model.startswith(name)), IMAGE_TOKENS)


def audio_tokens(base64_data: str) -> int:
    """The most that a piece of sound costs in a prompt."""
    return math.ceil(len(base64_data) * 3 / 4 / AUDIO_BYTES_PER_TOKEN)
