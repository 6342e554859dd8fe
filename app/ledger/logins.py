"""Logins: a client's token exchanged for a cookie of the console, so that no browser has to keep the token.

Only a digest of the cookie is stored. It opens what the token opens, until it expires, somebody signs out, or the token
is replaced, revoked or expired.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

import sqlalchemy as sa

from app.ledger.accounts import Accounts, Principal, account
from app.store.database import Database
from app.store.tables import clients, logins
from app.units import MICROSECONDS

LOGIN_SECONDS = 12 * 3600
LOGINS_MAX = 100
"""Of so many logins of one client the oldest ends with the next: a client could fill the table otherwise."""
COOKIE = re.compile(r"[A-Za-z0-9_-]{43}")
"""The value of a cookie of ours: 256 random bits."""


class Logins:
    """The table of logins; `key` keys the digests and the anti-forgery tokens, and is that of the clients' tokens."""

    def __init__(self, database: Database, accounts: Accounts, key: bytes) -> None:
        self._database = database
        self._accounts = accounts
        self._key = key

    def begin(self, token: str) -> str:
        """Exchange a token for the value of a cookie; raises `unauthorized` when it opens nothing."""
        client = self._accounts.principal(token)
        assert client.account is not None
        cookie, now = secrets.token_urlsafe(32), self._now()
        row = {
            "digest": self._digest(cookie),
            "client_id": client.account.id,
            "token_digest": client.token_digest,
            "expires_at": now + LOGIN_SECONDS * MICROSECONDS,
        }
        of_client = sa.select(logins.c.digest).where(logins.c.client_id == client.account.id)
        surplus = of_client.order_by(logins.c.expires_at.desc(), logins.c.digest).offset(LOGINS_MAX)

        def insert(connection: sa.Connection) -> None:
            connection.execute(logins.delete().where(logins.c.expires_at < now))
            connection.execute(logins.insert().values(row))
            connection.execute(logins.delete().where(logins.c.digest.in_(surplus)))

        self._database.write(insert)
        return cookie

    def principal(self, cookie: str) -> Principal | None:
        """The client that is signed in with this cookie; None when it opens nothing (any more)."""
        if not COOKIE.fullmatch(cookie):
            return None
        now = self._now()
        query = (
            clients.select()
            .join(logins, sa.and_(logins.c.client_id == clients.c.id, logins.c.token_digest == clients.c.token_digest))
            .where(logins.c.digest == self._digest(cookie), logins.c.expires_at > now)
        )
        row = self._database.read(lambda connection: connection.execute(query).first())
        found = None if row is None else account(row._mapping)
        if row is None or found is None or not found.is_active(now):
            return None
        return Principal(found, row.token_digest)

    def end(self, cookie: str) -> None:
        """Sign out: the cookie opens nothing from now on."""
        gone = logins.delete().where(logins.c.digest == self._digest(cookie))
        self._database.write(lambda connection: connection.execute(gone))

    def forgery_token(self, cookie: str) -> str:
        """What every write with this cookie has to carry, and only pages of this server know. `cookie` is "" without a
        login, for the page that signs in."""
        return self._keyed(b"forgery", cookie)

    def is_forgery_token(self, given: str, cookie: str) -> bool:
        """Tell whether a page of this server gave it out for this cookie."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.forgery_token(cookie).encode())

    def _digest(self, cookie: str) -> str:
        return self._keyed(b"login", cookie)

    def _keyed(self, use: bytes, cookie: str) -> str:
        text = cookie.encode("utf-8", "replace")
        return hashlib.blake2b(text, key=self._key, person=use, digest_size=32).hexdigest()

    def _now(self) -> int:
        return int(self._database.clock() * MICROSECONDS)
