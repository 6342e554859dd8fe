"""Fleet: every upstream of this worker, and the plan that a request is answered by.

The order of a plan: the caller's own key at its upstream alone; else the targets of the model, one of them chosen by
weight and the others behind it, then those for failures. Who rests comes last, the one that is due first before others.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.errors import OpenAIClientException, ValidationException
from app.models import ApiKey
from app.upstreams.catalog import Catalog, Route, Target, native_dialect
from app.upstreams.keys import Payer
from app.upstreams.plan import Attempt, Plan, Upstream, make_plan

ATTEMPTS_KEPT = 1024
NATIVE = "native"
"""Instead of a dialect: any in which the native chat can be asked."""
NAMES = {"responses": "the Responses API", "chat_completions": "Chat Completions", "messages": "the Messages API"}


@dataclass(frozen=True)
class Wanted:
    """What a request wants: a model, spoken to in `dialect` (empty: any upstream will do).

    `upstream`: where a caller's own key belongs; empty: the first that speaks the dialect. `session`: what requests of
    one session have in common; empty: nothing. `stored_at`: the upstream that has stored what the request goes on with,
    for nobody else can answer it; None: it goes on with nothing; empty: it is not known which.
    """

    model: str = ""
    dialect: str = ""
    upstream: str = ""
    session: str = ""
    stored_at: str | None = None


class Fleet:
    """`upstreams` by the names of `catalog`; `native`: the dialect that the native chat prefers."""

    def __init__(self, catalog: Catalog, upstreams: Mapping[str, Upstream], *, native: str) -> None:
        self.catalog = catalog
        self.upstreams = upstreams
        self._native = native
        self._first = next(iter(upstreams.values()))
        # What every request asks for: the attempts at a target are the same for all requests of a model.
        self._at_target = functools.lru_cache(ATTEMPTS_KEPT)(self._make_at_target)
        self._dialects = {
            name: {*upstream.settings.dialects, *([NATIVE] if self.native_dialect(upstream) else [])}
            for name, upstream in upstreams.items()
        }

    def plan(self, payer: Payer, wanted: Wanted) -> Plan:
        """The attempts that may be made for a request.

        Raises ValidationException for an upstream that is not there, OpenAIClientException 404 `not_found` where no
        upstream speaks the dialect, and `response_not_found` where the one that stored a response is no longer there.
        """
        if not self.catalog.is_listed:
            return make_plan(payer, self._first, wanted.model)
        attempts = [attempt for key in payer.keys for attempt in self._attempts(key, wanted)]
        if not attempts:
            name = NAMES.get(wanted.dialect, wanted.dialect.replace("_", " "))
            raise OpenAIClientException(f"No upstream of this server speaks {name}", "not_found", status=404)
        return Plan(payer, tuple(attempts), is_listed=True)

    def everywhere(self) -> Iterator[Attempt]:
        """Each upstream with one of the server's keys, for what is asked of all."""
        for upstream in self.upstreams.values():
            attempts = [Attempt(upstream, key) for key in upstream.settings.keys]
            yield from _least_loaded(attempts)[:1]

    def native_dialect(self, upstream: Upstream) -> str:
        """The dialect in which the native chat asks an upstream."""
        return native_dialect(upstream.settings, self._native)

    def _attempts(self, key: ApiKey, wanted: Wanted) -> list[Attempt]:
        if key.source != "default":
            return [self._own(key, wanted)]
        found = list(self._storing(wanted) if wanted.stored_at else self._servers(wanted))
        due = [attempt.due_in for attempt in found]
        if any(due):
            found = _by_rest(found, due)
        if wanted.stored_at is not None:
            found = [attempt for attempt in found if attempt.upstream is found[0].upstream]
        return found

    def _own(self, key: ApiKey, wanted: Wanted) -> Attempt:
        """The caller's own key, at the upstream that it was brought for."""
        if wanted.upstream and wanted.upstream not in self.upstreams:
            raise ValidationException("X-Upstream names no upstream of this server", "X-Upstream", location="headers")
        named = self.upstreams.get(wanted.upstream)
        if named is None and wanted.stored_at:
            named = self._stored_at(wanted.stored_at)
        named = named or next(self._speaking(wanted.dialect), self._first)
        return self._at(named, key, wanted, "the caller's key belongs there")

    def _storing(self, wanted: Wanted) -> Iterator[Attempt]:
        """The upstream that has stored what the request goes on with."""
        upstream = self._stored_at(wanted.stored_at or "")
        attempts = [self._at(upstream, key, wanted, "made the response before") for key in upstream.settings.keys]
        yield from _least_loaded(attempts)

    def _stored_at(self, name: str) -> Upstream:
        if name not in self.upstreams:
            message = "The upstream that made this response is no longer there"
            raise OpenAIClientException(message, "response_not_found", param="previous_response_id")
        return self.upstreams[name]

    def _at(self, upstream: Upstream, key: ApiKey, wanted: Wanted, reason: str) -> Attempt:
        """One upstream that is not chosen by the model, with the name that the model has there."""
        if not self._speaks(upstream, wanted.dialect):
            raise OpenAIClientException("This upstream does not speak the API of this route", "not_found", status=404)
        route, name = self._route(wanted), upstream.settings.name
        model = next((target.model for target in route.targets + route.on_failure if target.upstream == name), "")
        return Attempt(upstream, key, model or wanted.model, reason)

    def _servers(self, wanted: Wanted) -> Iterator[Attempt]:
        route = self._route(wanted)
        by_session = bool(route.affinity and wanted.session)
        chosen = _by_session(route.targets, wanted.session) if by_session else _by_weight(route.targets)
        reason = "chosen by session" if by_session else "chosen by weight"
        for target in chosen:
            yield from _least_loaded(self._at_target(target, wanted.dialect, wanted.model, reason))
            reason = "next target"
        for target in route.on_failure:
            yield from _least_loaded(self._at_target(target, wanted.dialect, wanted.model, "on failure"))

    def _make_at_target(self, target: Target, dialect: str, model: str, reason: str) -> tuple[Attempt, ...]:
        """One attempt for each key at a target; none where it does not speak the dialect."""
        upstream = self.upstreams[target.upstream]
        if not self._speaks(upstream, dialect):
            return ()
        return tuple(Attempt(upstream, key, target.model or model, reason) for key in upstream.settings.keys)

    def _route(self, wanted: Wanted) -> Route:
        """Where the model is answered: as the file says, or at the first upstream that speaks the dialect."""
        route = self.catalog.models.get(wanted.model)
        if route is not None:
            return route
        return Route(tuple(Target(upstream.settings.name) for upstream in self._speaking(wanted.dialect))[:1])

    def _speaking(self, dialect: str) -> Iterator[Upstream]:
        return (upstream for upstream in self.upstreams.values() if self._speaks(upstream, dialect))

    def _speaks(self, upstream: Upstream, dialect: str) -> bool:
        return not dialect or dialect in self._dialects[upstream.settings.name]


def _by_rest(attempts: Sequence[Attempt], due: Sequence[float]) -> list[Attempt]:
    """Those that rest last, the one that is due first before others."""
    ordered = sorted(zip(due, attempts, strict=True), key=lambda pair: pair[0])
    return [
        dataclasses.replace(attempt, reason=f"{attempt.reason}, rests") if seconds else attempt
        for seconds, attempt in ordered
    ]


def _least_loaded(attempts: Sequence[Attempt]) -> Sequence[Attempt]:
    """Attempts at one upstream, that with the key with the least in flight first."""
    if len(attempts) == 1:
        return attempts
    return sorted(attempts, key=lambda attempt: attempt.upstream.load.of(attempt.key))


def _by_weight(targets: Sequence[Target]) -> list[Target]:
    """All targets in a random order in which each is first as often as its weight says.

    Source: Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006.
    """
    if len(targets) == 1:
        return list(targets)
    return sorted(targets, key=lambda target: random.random() ** (1 / target.weight), reverse=True)


def _by_session(targets: Sequence[Target], session: str) -> list[Target]:
    """The same by a digest and not by chance: one order for each session, whichever worker or machine asks.

    Rendezvous hashing with weights. Source: Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005.
    """

    def score(target: Target) -> float:
        mark = f"{target.upstream}\n{target.model}\n{session}".encode()
        share = (int.from_bytes(hashlib.blake2b(mark, digest_size=8).digest()) + 1) / (2**64 + 1)
        return float(share ** (1 / target.weight))

    return sorted(targets, key=score, reverse=True)
