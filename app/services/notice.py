"""The AI notice: what an application shows to people whose answers a model writes, in Korean and in English.

Source: Korea's AI Basic Act, article 31 (people are told beforehand that they use generative AI, and generated results
are marked as such).
"""

from __future__ import annotations

from dataclasses import dataclass

from app.config import Config


@dataclass(frozen=True)
class Notice:
    """A notice and its language, `ko` or `en`; both None where the operator has switched it off."""

    notice: str | None
    language: str | None
    ai_generated: bool = True


class Notices:
    """The operator's notice: AI_NOTICE is the Korean one and decides whether there is any."""

    def __init__(self, config: Config) -> None:
        self._korean = config.ai_notice
        self._english = config.ai_notice_en

    def get(self, *, in_english: bool) -> Notice:
        """The notice for a reader of English or of Korean; Korean where there is no English one."""
        if not self._korean:
            return Notice(None, None)
        if in_english and self._english:
            return Notice(self._english, "en")
        return Notice(self._korean, "ko")
