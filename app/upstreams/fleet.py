"""Fleet: every upstream of this worker, and the plan that a request is answered by.

The order of a plan: the caller's own key at its upstream alone; else the targets of the model, one of them chosen by
weight and the others behind it, then those for failures. Who rests comes last, the one that is due first before others.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.errors import OpenAIClientException, ValidationException
from app.models import ApiKey
from app.upstreams.catalog import Catalog, Route, Target, native_dialect
from app.upstreams.keys import Payer
from app.upstreams.plan import Attempt, Plan, Upstream, make_plan

ORDERS_KEPT = 1024
ALONE = (0,)
"""The place of a single target."""
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
        # What every request asks for: the attempts are the same for all requests of a model and an order of targets.
        self._in_order = functools.lru_cache(ORDERS_KEPT)(self._put_in_order)
        self._turns = {
            model: Turns([target.weight for target in route.targets]) for model, route in catalog.models.items()
        }
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
        attempts = self._attempts(payer.first, wanted)
        for key in payer.keys[1:]:
            attempts += self._attempts(key, wanted)
        if not attempts:
            name = NAMES.get(wanted.dialect, wanted.dialect.replace("_", " "))
            raise OpenAIClientException(f"No upstream of this server speaks {name}", "not_found", status=404)
        return Plan(payer, attempts, is_listed=True)

    def everywhere(self) -> Iterator[Attempt]:
        """Each upstream with one of the server's keys, for what is asked of all."""
        for upstream in self.upstreams.values():
            attempts = [Attempt(upstream, key) for key in upstream.settings.keys]
            yield from _least_loaded(attempts)[:1]

    def native_dialect(self, upstream: Upstream) -> str:
        """The dialect in which the native chat asks an upstream."""
        return native_dialect(upstream.settings, self._native)

    def _attempts(self, key: ApiKey, wanted: Wanted) -> tuple[Attempt, ...]:
        if key.source != "default":
            return (self._own(key, wanted),)
        found = self._storing(wanted) if wanted.stored_at else self._servers(wanted)
        for attempt in found:
            if attempt.may_rest:
                found = _by_rest(found)
                break
        if wanted.stored_at is not None:
            found = tuple(attempt for attempt in found if attempt.upstream is found[0].upstream)
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

    def _storing(self, wanted: Wanted) -> tuple[Attempt, ...]:
        """The upstream that has stored what the request goes on with."""
        upstream = self._stored_at(wanted.stored_at or "")
        attempts = [self._at(upstream, key, wanted, "made the response before") for key in upstream.settings.keys]
        return tuple(_least_loaded(attempts))

    def _stored_at(self, name: str) -> Upstream:
        if name not in self.upstreams:
            message = "The upstream that made this response is no longer there"
            raise OpenAIClientException(message, "response_not_found", param="previous_response_id")
        return self.upstreams[name]

    def _at(self, upstream: Upstream, key: ApiKey, wanted: Wanted, reason: str) -> Attempt:
        """One upstream that is not chosen by the model, with the name that the model has there."""
        if not self._speaks(upstream, wanted.dialect):
            raise OpenAIClientException("This upstream does not speak the API of this route", "not_found", status=404)
        route, name = self._route(wanted.model, wanted.dialect), upstream.settings.name
        model = next((target.model for target in route.targets + route.on_failure if target.upstream == name), "")
        return Attempt(upstream, key, model or wanted.model, reason)

    def _servers(self, wanted: Wanted) -> tuple[Attempt, ...]:
        model, dialect = wanted.model, wanted.dialect
        route = self._route(model, dialect)
        if route.affinity and wanted.session:
            order, reason = _by_session(route.targets, wanted.session), "chosen by session"
        else:
            order = self._turns[model].take() if len(route.targets) > 1 else ALONE[: len(route.targets)]
            reason = "chosen by weight"
        attempts, by_target = self._in_order(model, dialect, order, reason)
        return attempts if by_target is None else tuple(itertools.chain(*map(_least_loaded, by_target)))

    def _put_in_order(
        self, model: str, dialect: str, order: tuple[int, ...], reason: str
    ) -> tuple[tuple[Attempt, ...], Sequence[tuple[Attempt, ...]] | None]:
        """One attempt for each key at each target, in an order of the targets' places, and behind them those for
        failures; without those that do not speak the dialect. `reason`: of the first. And the same by target, where
        one of them has several keys."""
        route = self._route(model, dialect)
        targets = [(route.targets[place], "next target" if number else reason) for number, place in enumerate(order)]
        found: list[tuple[Attempt, ...]] = []
        for target, why in [*targets, *((target, "on failure") for target in route.on_failure)]:
            upstream = self.upstreams[target.upstream]
            if self._speaks(upstream, dialect):
                keys = upstream.settings.keys
                found.append(tuple(Attempt(upstream, key, target.model or model, why) for key in keys))
        return tuple(itertools.chain(*found)), found if any(len(attempts) > 1 for attempts in found) else None

    def _route(self, model: str, dialect: str) -> Route:
        """Where a model is answered: as the file says, or at the first upstream that speaks the dialect."""
        route = self.catalog.models.get(model)
        if route is not None:
            return route
        return Route(tuple(Target(upstream.settings.name) for upstream in self._speaking(dialect))[:1])

    def _speaking(self, dialect: str) -> Iterator[Upstream]:
        return (upstream for upstream in self.upstreams.values() if self._speaks(upstream, dialect))

    def _speaks(self, upstream: Upstream, dialect: str) -> bool:
        return not dialect or dialect in self._dialects[upstream.settings.name]


def _by_rest(attempts: Sequence[Attempt]) -> tuple[Attempt, ...]:
    """Those that rest last, the one that is due first before others."""
    ordered = sorted(((attempt.due_in, attempt) for attempt in attempts), key=lambda pair: pair[0])
    return tuple(
        dataclasses.replace(attempt, reason=f"{attempt.reason}, rests") if seconds else attempt
        for seconds, attempt in ordered
    )


def _least_loaded(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Attempts at one upstream, that with the key with the least in flight first."""
    return sorted(attempts, key=lambda attempt: attempt.upstream.load.of(attempt.key))


class Turns:
    """Whose turn it is among targets: each comes first as often as its weight says, and as evenly as that can be.

    Smooth weighted round-robin, as nginx has it: each turn adds to every target its weight, the one with the most is
    first, and gives the sum of all weights for it. The others stand in the order in which they are due. Chance would
    let calls in flight gather at one target, and each needs more connections then. Where it begins is by chance: the
    workers must not all begin with the same one.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights
        self._sum = sum(weights)
        self._due = [random.uniform(0, self._sum) for _ in weights]
        self._places = range(len(weights))
        self._lock = threading.Lock()

    def take(self) -> tuple[int, ...]:
        """The places of all targets, in the order of this turn."""
        with self._lock:
            due = self._due = [had + weight for had, weight in zip(self._due, self._weights, strict=True)]
            order = tuple(sorted(self._places, key=due.__getitem__, reverse=True))
            due[order[0]] -= self._sum
        return order


def _by_session(targets: Sequence[Target], session: str) -> tuple[int, ...]:
    """The places of all targets by a digest: one order for each session, whichever worker or machine asks; each is
    first as often as its weight says.

    Rendezvous hashing with weights. Source: Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005.
    """

    def score(place: int) -> float:
        target = targets[place]
        mark = f"{target.upstream}\n{target.model}\n{session}".encode()
        share = (int.from_bytes(hashlib.blake2b(mark, digest_size=8).digest()) + 1) / (2**64 + 1)
        return float(share ** (1 / target.weight))

    return tuple(sorted(range(len(targets)), key=score, reverse=True))
