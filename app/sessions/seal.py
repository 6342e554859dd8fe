"""How texts of sessions lie in the database."""

from __future__ import annotations


class Seal:
    """Makes what is stored of a text, and the text of what is stored. Without a key they are the same."""

    def close(self, text: str) -> str:
        """What is stored of a text."""
        return text

    def open(self, stored: str) -> str:
        """The text of what is stored."""
        return stored

    def close_all(self, *texts: str | None) -> list[str | None]:
        """What is stored of texts of which some may be missing."""
        return [None if text is None else self.close(text) for text in texts]

    def open_all(self, *stored: str | None) -> list[str | None]:
        """The texts of what is stored, where there is one."""
        return [None if text is None else self.open(text) for text in stored]
