"""The tokens of clients, and the key of their digests.

A token is `llms_` + 27 characters (160 random bits) + 6 characters of checksum, both in base 62. Only a keyed digest of
it is stored, and it is looked up by that digest, so a copy of the database opens nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import zlib
from pathlib import Path

from app.config import Config
from app.errors import ConfigurationException
from app.models import TOKEN_PREFIX

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_BITS = 160
SECRET_LENGTH = 27
CHECKSUM_LENGTH = 6
KEY_BYTES = 32


def new_token() -> str:
    """A token that cannot be guessed, with a checksum that catches typos."""
    secret = _base62(secrets.randbits(SECRET_BITS), SECRET_LENGTH)
    return TOKEN_PREFIX + secret + _checksum(secret)


def is_token(text: str) -> bool:
    """Tell whether `text` has a token's form and checksum."""
    if (
        not text.startswith(TOKEN_PREFIX)
        or len(text) != len(TOKEN_PREFIX) + SECRET_LENGTH + CHECKSUM_LENGTH
        or not text.isascii()
    ):
        return False
    secret, checksum = text[len(TOKEN_PREFIX) : -CHECKSUM_LENGTH], text[-CHECKSUM_LENGTH:]
    return hmac.compare_digest(_checksum(secret), checksum)


def digest_key(config: Config) -> bytes:
    """The key of the tokens' digests: the setting, or one made once beside the SQLite file, readable by its owner."""
    if config.token_digest_key:
        return _from_setting(config.token_digest_key)
    if not config.database_url.startswith("sqlite"):
        raise ConfigurationException("TOKEN_DIGEST_KEY must be set when DATABASE_URL is shared", "TOKEN_DIGEST_KEY")
    path = Path(config.database_url.removeprefix("sqlite:///")).parent / "token_digest.key"
    if not path.exists():
        try:
            _make_key(path)
        except OSError as exc:
            message = f"DATABASE_URL lies where nothing can be written ({exc.strerror})"
            raise ConfigurationException(message, "DATABASE_URL") from exc
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        message = f"{path} must hold {KEY_BYTES} bytes; put the file back from a backup, since tokens need it"
        raise ConfigurationException(message, "TOKEN_DIGEST_KEY")
    return key


def old_digest_key(config: Config) -> bytes | None:
    """The key of the digests of before, None when there is none."""
    return _from_setting(config.token_digest_key_old) if config.token_digest_key_old else None


def _from_setting(text: str) -> bytes:
    """A key that a setting gives: any text, or `hex:` and the 32 bytes of a file `token_digest.key`."""
    if re.fullmatch(r"hex:[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text.removeprefix("hex:"))
    return hashlib.sha256(text.encode()).digest()


def _make_key(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The first worker to link its file wins, so workers that start together read the same, complete key.
    draft = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def _checksum(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
