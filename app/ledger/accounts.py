"""Client accounts: the applications that may call, their tokens and limits.

A token is `llms_` + 27 characters (160 random bits) + 6 characters of checksum, both in base 62. Only a keyed digest of
it is stored, and it is looked up by that digest, so a copy of the database opens nothing.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import hmac
import os
import re
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cachetools import TTLCache

from app.config import Config
from app.errors import ChatServiceException, ConfigurationException, ValidationException
from app.models import TOKEN_PREFIX
from app.store.database import Database
from app.store.statement import Statement
from app.store.tables import clients
from app.units import MICROSECONDS, NANO

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_BITS = 160
SECRET_LENGTH = 27
CHECKSUM_LENGTH = 6
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
KNOWN_MAX = 10_000
KNOWN_SECONDS = 0.25
"""How long a client that was found is remembered for requests whose admission confirms it."""

_BY_DIGEST = clients.select().where(clients.c.token_digest == sa.bindparam("digest"))
_FIND = Statement(_BY_DIGEST)
_FIND_AND_LOCK = Statement(_BY_DIGEST.with_for_update())


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an account may do; None is no limit. `budget_nano` is nano-dollars per `budget_period`."""

    requests_per_minute: int | None = None
    concurrency: int | None = None
    budget_nano: int | None = None
    budget_period: str | None = None
    models: str = ""
    free_mode: bool = True
    admin: bool = False
    expires_at: int | None = None


@dataclass(frozen=True, kw_only=True)
class Account(Limits):
    """One client as the database knows it. Moments are microseconds since 1970, UTC."""

    id: int
    name: str
    created_at: int
    revoked_at: int | None

    def allows_model(self, model: str) -> bool:
        """Tell whether a model's name fits one of the patterns, as `gpt-4o*`; without patterns all do."""
        return not self.models or any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models.split(","))

    def is_active(self, now: int) -> bool:
        """Tell whether its token opens anything at the moment `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class Principal:
    """Who calls: a client, with the digest of its token, or nobody in particular, as anybody may in open mode."""

    account: Account | None = None
    token_digest: str | None = None


NOBODY = Principal()


class Accounts:
    """The table of clients; `digest_key` keys the tokens' digests and must be the same on every machine."""

    def __init__(self, database: Database, digest_key: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._digest_key = digest_key
        self._clock = clock
        self._known: TTLCache[str, Account] = TTLCache(KNOWN_MAX, KNOWN_SECONDS)
        self._lock = threading.Lock()

    def add(self, name: str, limits: Limits) -> str:
        """Create a client and give its token, which is not stored; a bad or used name is a ValidationException."""
        if not NAME.fullmatch(name):
            raise ValidationException("must be 1 to 64 letters, digits, dots, dashes or underscores", "name")
        token = new_token()
        row = vars(limits) | {"name": name, "token_digest": self.digest(token), "created_at": self._now()}

        def insert(connection: sa.Connection) -> None:
            if connection.execute(sa.select(clients.c.id).where(clients.c.name == name)).first():
                raise ValidationException("is the name of another client", "name")
            connection.execute(clients.insert().values(row))

        self._database.write(insert)
        return token

    def all(self) -> list[Account]:
        """Every client, by name."""
        return self._database.read(
            lambda connection: [
                account(row._mapping) for row in connection.execute(clients.select().order_by(clients.c.name))
            ]
        )

    def show(self, name: str) -> Account:
        """One client; raises ValidationException when there is none."""
        found = self._database.read(
            lambda connection: connection.execute(clients.select().where(clients.c.name == name)).first()
        )
        if found is None:
            raise ValidationException("is not the name of a client", "name")
        return account(found._mapping)

    def rotate(self, name: str) -> str:
        """Give a new token; the old one opens nothing from now on."""
        token = new_token()
        self._update(name, token_digest=self.digest(token), revoked_at=None)
        return token

    def revoke(self, name: str) -> None:
        """Make the token open nothing from now on; the client and its ledger stay."""
        self._update(name, revoked_at=self._now())

    def delete(self, name: str) -> None:
        """Remove the client; its ledger rows keep its name."""
        self.show(name)
        self._database.write(lambda connection: connection.execute(clients.delete().where(clients.c.name == name)))
        self._forget()

    def principal(self, token: str, *, remembered: bool = False) -> Principal:
        """The client behind a token; raises `unauthorized` when it opens nothing. What is no token is not looked up.

        `remembered`: it may have been found up to KNOWN_SECONDS ago. Only for requests whose admission looks again.
        """
        if not is_token(token):
            raise unauthorized()
        digest, now = self.digest(token), self._now()
        with self._lock:
            account = self._known.get(digest) if remembered else None
        if account is None:
            account = self._database.read(lambda connection: self.active(connection, [digest])).get(digest)
        if account is None or not account.is_active(now):
            raise unauthorized()
        with self._lock:
            self._known[digest] = account
        return Principal(account, digest)

    def active(self, connection: sa.Connection, digests: Collection[str], *, lock: bool = False) -> dict[str, Account]:
        """The active clients by the digests of their tokens.

        `lock`: until the transaction ends, nobody else admits for them.
        """
        now, found, find = self._now(), {}, _FIND_AND_LOCK if lock else _FIND
        for digest in sorted(digests):
            for row in find.rows(connection, digest=digest):
                client = account(row)
                if hmac.compare_digest(row["token_digest"], digest) and client.is_active(now):
                    found[digest] = client
        return found

    def digest(self, token: str) -> str:
        """The keyed digest that stands for a token."""
        return hashlib.blake2b(token.encode("utf-8", "replace"), key=self._digest_key, digest_size=32).hexdigest()

    def _update(self, name: str, **values: Any) -> None:
        self.show(name)
        update = clients.update().where(clients.c.name == name).values(values)
        self._database.write(lambda connection: connection.execute(update))
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._known.clear()

    def _now(self) -> int:
        return int(self._clock() * MICROSECONDS)


def digest_key(config: Config) -> bytes:
    """The key of the tokens' digests: the setting, or one made once beside the SQLite file, readable by its owner."""
    if config.token_digest_key:
        return hashlib.sha256(config.token_digest_key.encode()).digest()
    if not config.database_url.startswith("sqlite"):
        raise ConfigurationException("TOKEN_DIGEST_KEY must be set when DATABASE_URL is shared", "TOKEN_DIGEST_KEY")
    path = Path(config.database_url.removeprefix("sqlite:///")).parent / "token_digest.key"
    if not path.exists():
        try:
            _make_key(path)
        except OSError as exc:
            message = f"DATABASE_URL lies where nothing can be written ({exc.strerror})"
            raise ConfigurationException(message, "DATABASE_URL") from exc
    return path.read_bytes()


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever links its file first wins, so that workers that start together read the same whole key.
    draft = path.with_suffix(f".{os.getpid()}.{secrets.token_hex(4)}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def unauthorized() -> ChatServiceException:
    """The answer to a missing, unknown, expired or revoked token; which of these it is, is nobody's business."""
    return ChatServiceException(f"A valid token is required: Authorization: Bearer {TOKEN_PREFIX}…", "unauthorized")


def account(row: Any) -> Account:
    """An account from its row, a mapping."""
    return Account(**{name: value for name, value in row.items() if name != "token_digest"})


def new_token() -> str:
    """A token nobody can guess, with a checksum that catches typos."""
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


def parse_budget(text: str) -> tuple[int, str]:
    """Read `5/day`, `100/month` or `20/total` as nano-dollars and period; raises ValidationException."""
    match = re.fullmatch(r"(\d{1,7})(?:\.(\d{1,9}))?/(day|month|total)", text)
    if not match:
        raise ValidationException("must be like 5/day, 0.50/month or 100/total (US dollars)", "budget_usd")
    return int(match[1]) * NANO + int((match[2] or "").ljust(9, "0")), match[3]


def period_start(period: str, now: int) -> int:
    """When the period that holds the moment `now` began, in microseconds since 1970, UTC."""
    if period == "total":
        return 0
    moment = datetime.fromtimestamp(now / MICROSECONDS, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((moment.replace(day=1) if period == "month" else moment).timestamp()) * MICROSECONDS


def period_end(period: str, now: int) -> int | None:
    """When that period ends; None for a budget that never renews."""
    if period == "total":
        return None
    began = datetime.fromtimestamp(period_start(period, now) / MICROSECONDS, UTC)
    ended = began + timedelta(days=1) if period == "day" else (began + timedelta(days=32)).replace(day=1)
    return int(ended.timestamp()) * MICROSECONDS


def _checksum(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
