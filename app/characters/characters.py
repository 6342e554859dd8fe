"""Characters: the store of characters with all their versions, a client's own and those that everybody sees."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from cachetools import TTLCache

from app.characters.character import Character, parse_reference
from app.characters.lore import composed
from app.characters.rules import broken_rules, kept, written
from app.errors import ChatServiceException
from app.json_bytes import glance_json
from app.store.database import Database
from app.store.statement import Statement
from app.store.tables import character_versions, characters, owner_of_character
from app.store.together import Together
from app.store.upsert import upsert
from app.units import MICROSECONDS

EVERYBODYS = 0
"""The owner of what everybody sees. In open mode there is no other."""
CHARACTERS_MAX = 10_000
"""Of one owner."""
VERSIONS_MAX = 1_000
"""Of one character; a program that puts one each time it starts must not fill the database."""
KNOWN_SECONDS = 0.5
"""How long a worker remembers a character that was found; as long it may speak on where another has replaced it."""
KNOWN_MAX = 100
"""How many a worker remembers: each may be a quarter of a megabyte."""

_OF_NAME = (owner_of_character == sa.bindparam("of_owner")) & (characters.c.name == sa.bindparam("of_name"))
_SEEN = sa.or_(owner_of_character == sa.bindparam("of_owner"), owner_of_character == sa.literal_column("0"))
_FOUND = [
    characters.c.id,
    characters.c.name,
    characters.c.client_id,
    character_versions.c.version,
    character_versions.c.created_at,
    character_versions.c.body,
]


def _find(version: sa.ColumnElement[int]) -> Statement:
    """The character of a name that an owner sees, its own before everybody's, in one version."""
    joined = characters.join(
        character_versions,
        (character_versions.c.character == characters.c.id) & (character_versions.c.version == version),
    )
    named = sa.select(*_FOUND).select_from(joined).where(_SEEN, characters.c.name == sa.bindparam("of_name"))
    return Statement(named.order_by(owner_of_character.desc()))


_NEWEST = _find(characters.c.version)
_ONE_VERSION = _find(sa.bindparam("of_version", type_=sa.Integer))


class NoCharacters:
    """For plain Python programs, which have no store."""

    def find(self, reference: str, owner: int) -> Character:
        """Raises ChatServiceException `character_not_found`."""
        raise not_found()


class Characters:
    """The characters in the database. An owner is a client's id, or EVERYBODYS; each sees its own and everybody's."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock
        self._known: TTLCache[tuple[int, str], Character] = TTLCache(KNOWN_MAX, KNOWN_SECONDS)
        self._together = Together[Character]()
        self._lock = threading.Lock()

    def find(self, reference: str, owner: int) -> Character:
        """Who is to speak: `mina`, or `mina@3`; found up to KNOWN_SECONDS ago. Raises as `show` does."""
        key = owner, reference
        with self._lock:
            known = self._known.get(key)
        if known is not None:
            return known
        parsed = parse_reference(reference)
        if parsed is None:
            raise not_found()
        found = self._together.look_up(key, lambda: self.show(parsed[0], owner, version=parsed[1]))
        with self._lock:
            self._known[key] = found
        return found

    def show(self, name: str, owner: int, *, version: int | None = None) -> Character:
        """The newest version, or one; raises ChatServiceException 404 `character_not_found`."""
        asked = {"of_owner": owner, "of_name": name} | ({} if version is None else {"of_version": version})
        statement = _NEWEST if version is None else _ONE_VERSION
        rows = self._database.read(lambda connection: statement.rows(connection, **asked))
        if not rows:
            raise not_found()
        row = rows[0]
        return _character(
            row["name"], row["version"], row["client_id"] is None, int(row["created_at"]), str(row["body"])
        )

    def page(
        self, owner: int, *, after: str | None = None, limit: int = 100, search: str = ""
    ) -> tuple[list[dict[str, Any]], str | None]:
        """Name, version, `shared` and `created_at` of what an owner sees whose name begins with `search`, by name, and
        the last name of a page that is not the last one."""
        rows, last = self._page(owner, after, limit, search)
        return [_listed(row) for row in rows], last

    def page_of_whole(
        self, owner: int, *, after: str | None = None, limit: int = 50, search: str = ""
    ) -> tuple[list[Character], str | None]:
        """The same with all that they are; each may be a quarter of a megabyte."""
        rows, last = self._page(owner, after, limit, search)
        versions = character_versions.c
        wanted = sa.tuple_(versions.character, versions.version).in_([(row.id, row.version) for row in rows])
        query = sa.select(versions.character, versions.body).where(wanted)
        found = self._database.read(lambda connection: connection.execute(query).all())
        bodies = {row.character: row.body for row in found}
        return [kept(glance_json(bodies[row.id].encode()), **_listed(row)) for row in rows if row.id in bodies], last

    def versions(
        self, name: str, owner: int, *, before: int | None = None, limit: int = 100
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Number and `created_at` of the versions that there are, the newest first, and the last number of a page that
        is not the last one; raises as `show` does."""
        seen = sa.and_(_SEEN, characters.c.name == sa.bindparam("of_name"))
        living = sa.select(characters.c.id).join(character_versions, _newest_of(characters)).where(seen)
        found = living.order_by(owner_of_character.desc()).limit(1).scalar_subquery()
        versions = character_versions.c
        query = sa.select(versions.version, versions.created_at).where(versions.character == found)
        if before is not None:
            query = query.where(versions.version < before)
        query = query.order_by(versions.version.desc()).limit(limit + 1)
        asked = {"of_owner": owner, "of_name": name}
        rows = self._database.read(lambda connection: connection.execute(query, asked).all())
        if not rows:
            raise not_found()
        told = [{"version": row.version, "created_at": int(row.created_at)} for row in rows[:limit]]
        return told, (told[-1]["version"] if len(rows) > limit else None)

    def _page(self, owner: int, after: str | None, limit: int, search: str) -> tuple[Sequence[Any], str | None]:
        query = _seen_by(owner)
        if after is not None:
            query = query.where(characters.c.name > after)
        if beginning := composed(search):
            query = query.where(sa.func.substr(characters.c.name, 1, len(beginning)) == beginning)
        rows = self._database.read(lambda connection: connection.execute(query.limit(limit + 1)).all())
        return rows[:limit], (rows[limit - 1].name if len(rows) > limit else None)

    def put(self, character: Character, owner: int) -> Character:
        """Keep it as the newest version of its name, and give that; what changes nothing makes no new version.

        Raises ValidationException when the owner has too many.
        """
        body = written(character).decode()

        def work(connection: sa.Connection) -> Character:
            row = _hold(connection, owner, character.name) or _add(connection, owner, character.name)
            version, made = _keep(connection, row, body, self._now())
            return _character(character.name, version, owner == EVERYBODYS, made, body)

        newest = self._database.write(work)
        self._forget()
        return newest

    def delete(self, name: str, owner: int) -> None:
        """Remove all versions; a new one of the name goes on counting. Raises as `show` does."""

        def work(connection: sa.Connection) -> int:
            row = _hold(connection, owner, name)
            of_it = character_versions.c.character == (None if row is None else row.id)
            return 0 if row is None else connection.execute(character_versions.delete().where(of_it)).rowcount

        removed = self._database.write(work)
        self._forget()
        if not removed:
            raise not_found()

    def _forget(self) -> None:
        with self._lock:
            self._known.clear()

    def _now(self) -> int:
        return int(self._clock() * MICROSECONDS)


def not_found() -> ChatServiceException:
    """The answer where there is no such character, or none that the caller sees."""
    return ChatServiceException("There is no such character", "character_not_found")


@functools.lru_cache(KNOWN_MAX)
def _character(name: str, version: int, shared: bool, created_at: int, body: str) -> Character:
    """A version never changes, and is mostly looked up again."""
    return kept(glance_json(body.encode()), name=name, version=version, shared=shared, created_at=created_at)


def _listed(row: Any) -> dict[str, Any]:
    shared = row.client_id is None
    return {"name": row.name, "version": row.version, "shared": shared, "created_at": int(row.created_at)}


def _hold(connection: sa.Connection, owner: int, name: str) -> Any:
    """The row of an owner's character, which nobody else changes until the transaction ends; None without one."""
    query = characters.select().where(_OF_NAME).with_for_update()
    return connection.execute(query, {"of_owner": owner, "of_name": name}).first()


def _add(connection: sa.Connection, owner: int, name: str) -> Any:
    """The row of a character that is new, still without a version; another worker may have made it just now."""
    living = characters.join(character_versions, _newest_of(characters))
    counted = sa.select(sa.func.count()).select_from(living).where(owner_of_character == owner)
    if connection.execute(counted).scalar_one() >= CHARACTERS_MAX:
        raise broken_rules({"name": [f"must be one of at most {CHARACTERS_MAX} characters"]})
    row = {"client_id": owner or None, "name": name, "version": 0}
    connection.execute(upsert(characters, connection.dialect.name).values(row).on_conflict_do_nothing())
    return _hold(connection, owner, name)


def _keep(connection: sa.Connection, row: Any, body: str, now: int) -> tuple[int, int]:
    """Write the next version of a character whose row is held, unless the newest is the same; give the number of that
    and when it was made."""
    versions = character_versions.c
    newest = connection.execute(
        sa.select(versions.body, versions.created_at).where(
            versions.character == row.id, versions.version == row.version
        )
    ).first()
    if newest is not None and newest.body == body:
        return row.version, int(newest.created_at)
    version = row.version + 1
    made = {"character": row.id, "version": version, "created_at": now, "body": body}
    connection.execute(character_versions.insert().values(made))
    connection.execute(characters.update().where(characters.c.id == row.id).values(version=version))
    old = (versions.character == row.id) & (versions.version <= version - VERSIONS_MAX)
    connection.execute(character_versions.delete().where(old))
    return version, now


def _seen_by(owner: int) -> sa.Select[Any]:
    """The newest versions of an owner's characters and of everybody's whose names it has not itself, by name."""
    newest = sa.select(*_FOUND[:-1]).join(character_versions, _newest_of(characters)).order_by(characters.c.name)
    if owner == EVERYBODYS:
        return newest.where(owner_of_character == EVERYBODYS)
    own = characters.alias()
    own_newest = sa.exists().where(
        # As the index has it: without that each name is looked for among all of the owner's.
        sa.func.coalesce(own.c.client_id, sa.literal_column("0")) == owner,
        own.c.name == characters.c.name,
        owner_of_character == 0,
        sa.exists().where(character_versions.c.character == own.c.id).correlate(own),
    )
    return newest.where(owner_of_character.in_({owner, EVERYBODYS}), ~own_newest)


def _newest_of(table: Any) -> Any:
    return (character_versions.c.character == table.c.id) & (character_versions.c.version == table.c.version)
