"""Ten times as many callers as slots: those that fit are served as before, the rest are told so at once.

The short form asserts what holds on any machine. With OVERLOAD_SECONDS=60 the figures of the full form are asserted,
too; OVERLOAD_LIMIT and OVERLOAD_QUEUE_SECONDS choose other settings. The figures are printed.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import pytest

from app.ledger.accounts import Limits
from tests.overload import Crowd, Spell, run
from tests.prometheus import samples, value
from tests.records import add_client
from tests.server import Server
from tests.upstream import Upstream, delayed, text

pytestmark = pytest.mark.alone

SECONDS = float(os.environ.get("OVERLOAD_SECONDS") or 6)
PEAK_SECONDS = max(3.0, SECONDS / 4)
IS_FULL = SECONDS >= 60
LIMIT = int(os.environ.get("OVERLOAD_LIMIT") or 20)
QUEUE_SECONDS = float(os.environ.get("OVERLOAD_QUEUE_SECONDS") or 0)
UPSTREAM_SECONDS = 0.5


def percentile(seconds: Sequence[float], share: int) -> float:
    """The milliseconds that `share` percent of them do not exceed."""
    return statistics.quantiles(seconds, n=100)[share - 1] * 1000


def seconds_until_normal(server: Server, headers: dict[str, str]) -> float:
    """How long it takes until every gauge is 0; the request that asks for them does not count."""
    began = time.monotonic()

    def is_normal() -> bool:
        found = samples(server.request("GET", "/metrics", headers=headers).body.decode())
        levels = [value(found, name) for name in ("requests_in_flight", "slots_in_use", "ledger_queue")]
        return levels == [1, 0, 0]

    server.wait_for(is_normal, 30)
    return time.monotonic() - began


def alone_ms(server: Server, headers: dict[str, str]) -> float:
    """The median time of a request while there is no other."""
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert server.chat("hi", headers=headers).status == 200
        took.append(time.monotonic() - began)
    return statistics.median(took) * 1000


def figures(peak: Spell, spell: Spell) -> str:
    """The figures of the crowd, in words."""
    late = [took - QUEUE_SECONDS for took in spell.refused]
    return (
        f"\n{10 * LIMIT} callers, {LIMIT} slots: goodput {spell.goodput:.1f}/s of {peak.goodput:.1f}/s"
        f" ({spell.goodput / peak.goodput:.0%}); {len(late)} refused after {QUEUE_SECONDS:g} s and"
        f" p50 {percentile(late, 50):.1f}, p99 {percentile(late, 99):.1f}, at most {max(late) * 1000:.1f} ms;"
        f" /livez p50 {percentile(spell.probes, 50):.1f}, p99 {percentile(spell.probes, 99):.1f} ms"
        f" (at peak {percentile(peak.probes, 99):.1f} ms)"
    )


def test_who_fits_is_served_and_the_rest_are_told(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """Goodput stays, refusals are 503 with `Retry-After`, the process lives, and afterwards all is as before."""
    upstream.default = delayed(UPSTREAM_SECONDS, text("hello"))
    server = start_server(AUTH_MODE="token", MAX_CONCURRENT_REQUESTS=LIMIT, MAX_QUEUE_SECONDS=QUEUE_SECONDS)
    tokens = {admin: add_client(database_url, Limits(admin=admin), f"client-{admin}") for admin in (True, False)}
    bearer = {admin: {"Authorization": f"Bearer {token}"} for admin, token in tokens.items()}
    before_ms = alone_ms(server, bearer[False])
    few = Crowd(port=server.port, token=tokens[False], callers=LIMIT, seconds=PEAK_SECONDS)
    many = replace(few, callers=10 * LIMIT, seconds=SECONDS)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        peak = process.submit(run, few).result()
        seconds_until_normal(server, bearer[True])
        spell = process.submit(run, many).result()
        normal_seconds = seconds_until_normal(server, bearer[True])
    after_ms = alone_ms(server, bearer[False])
    print(figures(peak, spell))
    print(f"normal after {normal_seconds:.2f} s; alone {before_ms:.1f} ms before, {after_ms:.1f} ms after")
    assert (peak.refused, peak.other, spell.other) == ([], Counter(), Counter())
    assert len(spell.refused) > LIMIT
    assert spell.goodput >= 0.75 * peak.goodput
    if IS_FULL:
        assert spell.goodput >= 0.9 * peak.goodput
        assert percentile(spell.refused, 99) <= 1000 * QUEUE_SECONDS + 100
        assert percentile(spell.probes, 99) <= 100
        assert normal_seconds <= 5
        assert after_ms <= 1.1 * before_ms
