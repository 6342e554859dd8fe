"""Fleet: every upstream of this worker, and the plan that a request is answered by.

The order of a plan: the caller's own key at its upstream alone; else the targets of the model, one of them chosen by
weight and the others behind it, then those for failures. Who rests comes last, the one that is due first before others.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.errors import OpenAIClientException, ValidationException
from app.models import ApiKey
from app.upstreams.catalog import Catalog, Route, Target, native_dialect
from app.upstreams.choice import Turns, by_session
from app.upstreams.keys import Payer
from app.upstreams.plan import Attempt, Plan, Upstream, make_plan

WAYS_KEPT = 1024
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
        # What every request asks for is the same for all requests of a model.
        self._way = functools.lru_cache(WAYS_KEPT)(self._make_way)
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
        return _by_rest(_least_loaded(attempts))

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
        """The targets of the model, the one that is chosen first, and those for failures; who rests comes last."""
        way = self._way(wanted.model, wanted.dialect)
        rests = False
        for health in way.healths:
            if health.last_rest is not None:
                rests = True
                break
        if way.route.affinity and wanted.session:
            chosen = way.by_session
            order = [place for place in by_session(way.route.targets, wanted.session) if place in chosen]
        else:
            chosen = way.by_turn
            awake = _awake(chosen) if rests else way.places
            order = way.turns.take(awake or way.places)
            order += [place for place in way.places if place not in order] if rests else ()
        found: list[Attempt] = []
        for place in order:
            # Only the first is `chosen`; each of the others is a next target.
            attempts, chosen = chosen[place], way.later
            found += attempts if len(attempts) == 1 else _least_loaded(attempts)
        for attempts in way.on_failure:
            found += attempts if len(attempts) == 1 else _least_loaded(attempts)
        return _by_rest(found) if rests else tuple(found)

    def _make_way(self, model: str, dialect: str) -> _Way:
        route = self._route(model, dialect)

        def attempts(target: Target, reason: str) -> tuple[Attempt, ...]:
            upstream = self.upstreams[target.upstream]
            keys = upstream.settings.keys if self._speaks(upstream, dialect) else ()
            return tuple(Attempt(upstream, key, target.model or model, reason) for key in keys)

        def targets(reason: str) -> Mapping[int, tuple[Attempt, ...]]:
            return {place: found for place, target in enumerate(route.targets) if (found := attempts(target, reason))}

        on_failure = [found for target in route.on_failure if (found := attempts(target, "on failure"))]
        by_turn, by_session = targets("chosen by weight"), targets("chosen by session")
        return _Way(route, by_turn, by_session, targets("next target"), on_failure)

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


def _awake(targets: Mapping[int, Sequence[Attempt]]) -> list[int]:
    """The places of those that may be asked now with one key at least."""
    return [place for place, attempts in targets.items() if not all(attempt.due_in for attempt in attempts)]


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


class _Way:
    """How requests of one model are answered in one dialect: at each target, by its place, one attempt for each key,
    with the reason for which it is where it is; those for failures after them."""

    def __init__(
        self,
        route: Route,
        by_turn: Mapping[int, tuple[Attempt, ...]],
        by_session: Mapping[int, tuple[Attempt, ...]],
        later: Mapping[int, tuple[Attempt, ...]],
        on_failure: Sequence[tuple[Attempt, ...]],
    ) -> None:
        self.route = route
        self.by_turn, self.by_session, self.later, self.on_failure = by_turn, by_session, later, on_failure
        self.places = tuple(by_turn)
        attempts = itertools.chain(*by_turn.values(), *on_failure)
        self.healths = tuple({id(health): health for attempt in attempts for health in attempt.healths}.values())
        self.turns = Turns([target.weight for target in route.targets])
