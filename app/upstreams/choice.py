"""Choice: which of a model's targets comes first, by weight: in turn, or the same one for each session."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Sequence

from app.upstreams.catalog import Target

CHANCE = 2.0
"""By how many rounds of all targets chance may move a turn forward. With 0 the order would be the same each time."""


class Turns:
    """Whose turn it is among targets, so that each comes first as often as its weight says, and evenly.

    Smooth weighted round-robin: each turn adds to every target its weight; the one with the most comes first, and the
    sum of these weights is taken from it. Only targets take part that can be asked now. With chance alone, calls in
    flight would gather at one target, which would need more connections then. With no chance at all, a client that
    sends two kinds of requests in turn could have each kind at a target of its own.

    Source: nginx, src/http/ngx_http_upstream_round_robin.c.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self._weights = weights
        self._due = [0.0] * len(weights)
        self._chance = CHANCE * sum(weights)
        self._lock = threading.Lock()

    def take(self, among: Sequence[int]) -> list[int]:
        """These places in the order of this turn."""
        with self._lock:
            due, chance, total = self._due, self._chance, 0.0
            scores: dict[int, float] = {}
            for place in among:
                weight = self._weights[place]
                due[place] += weight
                scores[place] = due[place] + chance * random.random()
                total += weight
            order = sorted(among, key=scores.__getitem__, reverse=True)
            if order:
                due[order[0]] -= total
        return order


def by_session(targets: Sequence[Target], session: str) -> tuple[int, ...]:
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
