"""How texts of sessions lie in the database: as they are, or with a key sealed (encrypted and authenticated).

    llms1:KEY_ID:…   sealed; behind it in base64 a random nonce (12 bytes), the text by AES-256-GCM, and its tag
    llms0:…          a text as it is that begins with one of these marks itself
    anything else    a text as it is

A text says which key opens it, so texts of several keys, and those that were written before there was a key, lie side
by side. A seal keeps a text from whoever has a copy of the database. It is not bound to its row: whoever can write into
the database could as well give a session another owner, and read it over the API.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

from app.errors import ChatServiceException

AS_IT_IS, SEALED = "llms0:", "llms1:"
KEY_BYTES = 32
KEY_ID_BYTES = 6
NONCE_BYTES = 12
"""Random, so one key is good for 2**32 texts. Source: NIST SP 800-38D, section 8.3."""


class Seal:
    """Makes what is stored of a text, and the text of what is stored. Without a key both are the same.

    `key` (SESSION_KEY) closes and opens, `old_keys` only open; each is a random text.
    """

    def __init__(self, key: str = "", old_keys: Sequence[str] = ()) -> None:
        self._newest = _Key(key) if key else None
        keys = [*([self._newest] if self._newest else []), *map(_Key, old_keys)]
        self._by_id = {one.id: one for one in keys}

    def close(self, text: str) -> str:
        """What is stored of a text; of an empty one nothing."""
        if self._newest is not None:
            return self._newest.close(text) if text else ""
        return AS_IT_IS + text if text.startswith((AS_IT_IS, SEALED)) else text

    def open(self, stored: str) -> str:
        """The text of what is stored. Raises ChatServiceException 500 `session_unreadable` where its key is missing or
        it is damaged."""
        if stored.startswith(AS_IT_IS):
            return stored.removeprefix(AS_IT_IS)
        if not stored.startswith(SEALED):
            return stored
        key_id, _, sealed = stored.removeprefix(SEALED).partition(":")
        try:
            return self._by_id[key_id].open(sealed)
        except (KeyError, ValueError):
            raise session_unreadable() from None

    def is_newest(self, stored: str) -> bool:
        """Whether it is stored as `close` does it now."""
        if self._newest is None or not stored:
            return not stored.startswith(SEALED)
        return stored.startswith(self._newest.mark)

    def close_all(self, *texts: str | None) -> list[str | None]:
        """What is stored of texts of which some may be missing."""
        return [None if text is None else self.close(text) for text in texts]

    def open_all(self, *stored: str | None) -> list[str | None]:
        """The texts of what is stored, where there is one. Raises as `open` does."""
        return [None if text is None else self.open(text) for text in stored]


class _Key:
    """One key, and the name by which texts know it. The library is loaded with the first: it takes 7 MB."""

    def __init__(self, secret: str) -> None:
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        derived = HKDF(SHA256(), KEY_BYTES + KEY_ID_BYTES, salt=None, info=b"llm-server sessions").derive(
            secret.encode()
        )
        self.id = base64.urlsafe_b64encode(derived[KEY_BYTES:]).decode()
        self.mark = f"{SEALED}{self.id}:"
        self._cipher = AESGCM(derived[:KEY_BYTES])
        self._invalid = InvalidTag

    def close(self, text: str) -> str:
        nonce = os.urandom(NONCE_BYTES)
        # As app/store/fitting.py does with texts that are stored as they are.
        data = text.replace("\0", "").encode("utf-8", "replace")
        return self.mark + base64.b64encode(nonce + self._cipher.encrypt(nonce, data, None)).decode()

    def open(self, sealed: str) -> str:
        """Raises ValueError where it was not sealed by this key, or is damaged."""
        data = base64.b64decode(sealed, validate=True)
        try:
            return self._cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], None).decode()
        except self._invalid as exc:
            raise ValueError from exc


def session_unreadable() -> ChatServiceException:
    """The answer where a stored text cannot be opened."""
    message = "What is stored of this session cannot be read: its key is missing, or it is damaged"
    return ChatServiceException(message, "session_unreadable")
