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
    ascii_characters = len(text.encode("ascii", "ignore"))
    others = len(text) - ascii_characters
    return math.ceil(ascii_characters / ASCII_CHARACTERS_PER_TOKEN + others / OTHER_CHARACTERS_PER_TOKEN)
