"""Client accounts: the applications that may call, and their limits."""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from cachetools import TTLCache

from app.errors import ChatServiceException, ValidationException
from app.ledger.budgets import PERIODS, period_start
from app.ledger.client_rows import by_digest
from app.ledger.tokens import is_token, new_token
from app.models import CLIENT_NAME_PATTERN, TOKEN_PREFIX
from app.store.database import Database
from app.store.tables import MODELS_LENGTH, clients, sessions, spending
from app.store.threads import make_lock
from app.store.together import Together
from app.units import MICROSECONDS

logger = logging.getLogger(__name__)

NAME = re.compile(CLIENT_NAME_PATTERN)
KNOWN_MAX = 10_000
KNOWN_SECONDS = 0.25
"""How long a client that was found is remembered for requests whose admission confirms it. Each admission finds it
anew, so one that calls often is looked up once a request."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an account may do; None is no limit. `budget_nano` is nano-dollars per `budget_period`.

    `per_user_…`: what each of its end users may do, within what the account itself may.
    """

    requests_per_minute: int | None = None
    concurrency: int | None = None
    budget_nano: int | None = None
    budget_period: str | None = None
    models: str = ""
    free_mode: bool = True
    admin: bool = False
    expires_at: int | None = None
    per_user_rpm: int | None = None
    per_user_budget_nano: int | None = None
    per_user_budget_period: str | None = None

    @property
    def limits_users(self) -> bool:
        """Whether each end user has limits, so that every request has to name one."""
        return self.per_user_rpm is not None or self.per_user_budget_nano is not None

    @property
    def has_budget(self) -> bool:
        """Whether the account or each of its end users has a budget, so that no cost may be unknown before."""
        return self.budget_nano is not None or self.per_user_budget_nano is not None


@dataclass(frozen=True, kw_only=True)
class Account(Limits):
    """One client as the database knows it. Moments are microseconds since 1970, UTC.

    `key_fingerprint` tells under which digest key its token was made; None where a version of before has written it.
    """

    id: int
    name: str
    created_at: int
    revoked_at: int | None
    key_fingerprint: str | None = None

    def allows_model(self, model: str) -> bool:
        """Tell whether a model's name fits one of the patterns, as `gpt-4o*`; without patterns all do."""
        return not self.models or any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models.split(","))

    def is_active(self, now: int) -> bool:
        """Tell whether its token opens anything at the moment `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class Principal:
    """Who calls: a client, with the digest of its token; both are None for an unknown caller in open mode."""

    account: Account | None = None
    token_digest: str | None = None


NOBODY = Principal()


class Accounts:
    """The table of clients; `digest_key` keys the tokens' digests and must be the same on every machine.

    `old_digest_key`: the key of before; a token that is known by it is known by the new one from its first use on.
    """

    def __init__(
        self,
        database: Database,
        digest_key: bytes,
        *,
        old_digest_key: bytes | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._digest_key = digest_key
        self._old_digest_key = old_digest_key
        self._clock = clock
        self._known: TTLCache[str, Account] = TTLCache(KNOWN_MAX, KNOWN_SECONDS)
        self._together = Together[Account | None]()
        self._lock = make_lock()
        self._told_of_keys = False

    def add(self, name: str, limits: Limits) -> str:
        """Create a client and give its token, which is not stored; a bad or used name is a ValidationException."""
        if not NAME.fullmatch(name):
            raise ValidationException("must be 1 to 64 letters, digits, dots, dashes or underscores", "name")
        _check_models(limits.models)
        token = new_token()
        row = vars(limits) | {"name": name, "created_at": self.now()} | self._keyed(token)

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

    def find(self, name: str) -> Account | None:
        """The client of this name, if there is one."""
        if not NAME.fullmatch(name):
            return None
        found = self._database.read(
            lambda connection: connection.execute(clients.select().where(clients.c.name == name)).first()
        )
        return None if found is None else account(found._mapping)

    def show(self, name: str) -> Account:
        """One client; raises ValidationException when there is none."""
        found = self.find(name)
        if found is None:
            raise ValidationException("is not the name of a client", "name")
        return found

    def spending(self, *of: Account) -> dict[int, tuple[int, int]]:
        """Nano-dollars that these clients' budgets have spent, and those that are reserved, in the present period.

        By the client's id; one that has no budget, or has used nothing of it, is not there.
        """
        began = {period: period_start(period, self.now()) for period in PERIODS}
        this = spending.c.period_start == sa.case(began, value=clients.c.budget_period)
        query = sa.select(spending).join(clients, sa.and_(spending.c.client_id == clients.c.id, this))
        if len(of) == 1:
            query = query.where(clients.c.id == of[0].id)
        found = self._database.read(lambda connection: connection.execute(query).all()) if of else []
        return {row.client_id: (row.spent_nano, row.reserved_nano) for row in found}

    def change(self, name: str, **limits: Any) -> None:
        """Set some of a client's limits anew; the fields are those of Limits. Its token stays."""
        _check_models(limits.get("models", ""))
        self._update(name, **limits)

    def rotate(self, name: str) -> str:
        """Give a new token; the old one opens nothing from now on."""
        token = new_token()
        self._update(name, revoked_at=None, **self._keyed(token))
        return token

    def revoke(self, name: str) -> None:
        """Make the token open nothing from now on; the client and its ledger stay."""
        self._update(name, revoked_at=self.now())

    def delete(self, name: str) -> None:
        """Remove the client and its sessions; its ledger rows keep its name."""
        found = self.show(name)

        def work(connection: sa.Connection) -> None:
            connection.execute(clients.delete().where(clients.c.id == found.id))
            connection.execute(sessions.delete().where(sessions.c.owner == found.id))

        self._database.erase(work)
        self._forget()

    def principal(self, token: str, *, remembered: bool = False) -> Principal:
        """The client behind a token; raises `unauthorized` when it opens nothing. What is no token is not looked up.

        `remembered`: it may have been found up to KNOWN_SECONDS ago. Only for requests whose admission looks again.
        """
        digest, now = self.digest(token), self.now()
        with self._lock:
            account = self._known.get(digest) if remembered else None
        if account is None:
            if not is_token(token):
                raise unauthorized()
            account = (
                self._together.look_up(digest, lambda: self._look_up(digest)) if remembered else self._look_up(digest)
            )
        account = account or self._keep_by_new_key(token)
        if account is None:
            self._tell_of_keys()
        if account is None or not account.is_active(now):
            raise unauthorized()
        return Principal(account, digest)

    def _look_up(self, digest: str) -> Account | None:
        rows = self._database.read(lambda connection: by_digest(connection, digest))
        return self.active(rows, [digest]).get(digest)

    def active(self, rows: Iterable[Mapping[str, Any]], digests: Collection[str]) -> dict[str, Account]:
        """Of clients' rows those of active clients with one of these digests of tokens, by digest.

        They are remembered, and what other clients these digests stood for is not any more.
        """
        now = self.now()
        named = {row["token_digest"]: account(row) for row in rows if row["token_digest"] in digests}
        found = {digest: client for digest, client in named.items() if client.is_active(now)}
        with self._lock:
            for digest in digests:
                if digest not in found:
                    self._known.pop(digest, None)
            self._known.update(found)
        return found

    def digest(self, token: str) -> str:
        """The keyed digest that stands for a token."""
        return _digest(token, self._digest_key)

    def knows_key_of(self, client: Account) -> bool:
        """Whether the client's token was made under a digest key that is known now, as far as that was noted."""
        known = [_fingerprint(key) for key in (self._digest_key, self._old_digest_key) if key is not None]
        return client.key_fingerprint is None or client.key_fingerprint in known

    def _keyed(self, token: str) -> dict[str, str]:
        """What a client's row has of its token."""
        return {"token_digest": self.digest(token), "key_fingerprint": _fingerprint(self._digest_key)}

    def _keep_by_new_key(self, token: str) -> Account | None:
        """The client of a token that is known by the old key; its row has the new key's digest from now on."""
        if self._old_digest_key is None:
            return None
        old, new = _digest(token, self._old_digest_key), self.digest(token)
        if self._look_up(old) is None:
            return None
        update = clients.update().where(clients.c.token_digest == old).values(self._keyed(token))
        self._database.write(lambda connection: connection.execute(update))
        return self._look_up(new)

    def _tell_of_keys(self) -> None:
        """Say once why a token that has its checksum may be unknown; `clients list` shows whose key is another one."""
        if not self._told_of_keys:
            self._told_of_keys = True
            logger.warning(
                "a well-formed token opens nothing: it was replaced, or TOKEN_DIGEST_KEY is not that of before"
            )

    def _update(self, name: str, **values: Any) -> None:
        self.show(name)
        update = clients.update().where(clients.c.name == name).values(values)
        self._database.write(lambda connection: connection.execute(update))
        self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._known.clear()

    def now(self) -> int:
        """The present moment, by the database's clock: microseconds since 1970."""
        return int(self._clock() * MICROSECONDS)


def _check_models(models: str) -> None:
    """Refuse patterns that the column does not hold: they would be cut or, by PostgreSQL, not written."""
    if len(models) > MODELS_LENGTH:
        raise ValidationException(f"must be at most {MODELS_LENGTH} characters long", "models")


def _digest(token: str, key: bytes) -> str:
    return hashlib.blake2b(token.encode("utf-8", "replace"), key=key, digest_size=32).hexdigest()


def _fingerprint(key: bytes) -> str:
    """Tells two digest keys apart and gives neither away."""
    return hashlib.blake2b(b"the key of the tokens' digests", key=key, digest_size=8).hexdigest()


def unauthorized() -> ChatServiceException:
    """The answer to a missing, unknown, expired or revoked token; the answer does not tell which."""
    return ChatServiceException(f"A valid token is required: Authorization: Bearer {TOKEN_PREFIX}…", "unauthorized")


def account(row: Any) -> Account:
    """An account from its row, a mapping."""
    return _account(tuple(row.items()))


@functools.lru_cache(KNOWN_MAX)
def _account(row: tuple[tuple[str, Any], ...]) -> Account:
    """Each admission reads its client's row anew, and nearly always it is as it was."""
    return Account(**{name: value for name, value in row if name != "token_digest"})
