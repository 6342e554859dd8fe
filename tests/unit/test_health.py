"""Who rests, for how long, and how it comes back; and how many repetitions an upstream may have."""

from __future__ import annotations

import pytest

from app.calls.call import Call
from app.models import ApiKey
from app.upstreams.errors import connection_error
from app.upstreams.health import FAILURES_IN_A_ROW, PROBE_SECONDS, Health, Rest
from app.upstreams.load import Load
from app.upstreams.retry import AttemptFailed, until_answered

KEY = ApiKey("sk-1", "default")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock, lambda: 1.0)


def fail(health: Health, times: int = FAILURES_IN_A_ROW) -> None:
    for _ in range(times):
        health.asked()
        health.failed("upstream_error")


def test_it_rests_after_five_failures_in_a_row(health: Health) -> None:
    """Four, or five with a success between, are no reason."""
    fail(health, 4)
    health.succeeded()
    fail(health, 4)
    assert (health.rest, health.due_in) == (None, 0)
    fail(health, 1)
    assert health.rest is not None
    assert (health.rest.reason, health.due_in) == ("upstream_error", 30)


def test_failures_of_what_was_under_way_do_not_prolong_it(health: Health) -> None:
    """A hundred requests that fail together are one reason, not twenty."""
    health.asked()
    for _ in range(100):
        health.failed("upstream_error")
    assert health.due_in == 30


@pytest.mark.parametrize("is_over", [False, True])
def test_an_answer_to_what_was_under_way_does_not_end_it(health: Health, clock: Clock, is_over: bool) -> None:
    """It was asked before; what is asked since then counts, during the rest and after it."""
    health.asked()
    health.rest_for(7.5, "upstream_rate_limited")
    clock.now += 7.5 * is_over
    health.succeeded()
    assert health.last_rest is not None
    health.asked()
    health.succeeded()
    assert (health.last_rest, health.due_in) == (None, 0)


def test_each_rest_is_longer_than_the_one_before(health: Health, clock: Clock) -> None:
    """30 s times in a row, at most 300 s; one failed probe is enough."""
    fail(health)
    rests = []
    for _ in range(12):
        rests.append(health.due_in)
        clock.now += health.due_in
        assert health.due_in == 0
        fail(health, 1)
    assert rests == [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300]
    health.asked()
    health.succeeded()
    fail(health)
    assert health.due_in == 30


def test_one_probe_at_a_time(health: Health, clock: Clock) -> None:
    """Others wait for how it goes; a probe that never tells does not keep them away for ever."""
    fail(health)
    clock.now += 30
    health.asked()
    assert health.due_in == PROBE_SECONDS
    clock.now += PROBE_SECONDS
    assert health.due_in == 0
    health.asked()
    health.succeeded()
    assert health.due_in == 0


def test_a_rest_of_known_length(health: Health, clock: Clock) -> None:
    """After a 429 it is as long as upstream has said."""
    health.rest_for(7.5, "upstream_rate_limited")
    assert health.due_in == 7.5
    clock.now += 7.5
    assert (health.rest, health.due_in) == (None, 0)


def test_what_another_worker_knows_is_taken_over(health: Health, clock: Clock) -> None:
    """Its rest goes on in the row, its success forgets all; what was learned here meanwhile stays."""
    assert health.take_over(None, Rest(clock.now + 60, "upstream_error", 2))
    assert health.due_in == 60
    clock.now += 60
    fail(health, 1)
    assert health.due_in == 90
    assert not health.take_over(None, None)
    assert health.take_over(health.last_rest, None)
    fail(health, 4)
    assert health.due_in == 0
    fail(health, 1)
    assert health.due_in == 30


def test_a_fifth_may_be_repetitions() -> None:
    """Three at least, so that one caller of a small server is not told of every hiccup."""
    load = Load()
    assert [load.begin_retry() for _ in range(4)] == [True, True, True, False]
    for _ in range(40):
        load.begin(KEY)
    load.answered()
    assert sum(load.begin_retry() for _ in range(40)) == 5
    load.end_retry()
    assert load.begin_retry()
    load.end(KEY)
    assert (load.total, load.of(KEY), load.of(ApiKey("sk-2", "default"))) == (39, 39, 0)


def test_repetitions_are_saved_up_for() -> None:
    """One for five requests that fail, and three again with a success; of those that were not used no more are left."""
    load = Load()

    def repeated(requests: int) -> int:
        """Each may be repeated twice."""
        made = 0
        for _ in range(requests):
            if load.begin_retry():
                made += 1 + load.retry_again()
                load.end_retry()
        return made

    assert repeated(100) == 22
    assert repeated(100) == 20
    load.answered()
    load.answered()
    assert repeated(5) == 3


@pytest.mark.parametrize(("repeated", "asked"), [(0, 3), (3, 1)])
def test_who_fails_always_is_not_asked_more_often_than_that(repeated: int, asked: int) -> None:
    """Where as much is repeated already as may be, a failure is the answer; what was taken is given back."""
    load, made = Load(), 0
    for _ in range(repeated):
        load.begin_retry()

    def attempt() -> None:
        nonlocal made
        made += 1
        raise AttemptFailed(connection_error(), max_retries=2, pause_seconds=0.0)

    with pytest.raises(AttemptFailed):
        until_answered(attempt, Call(5), load)
    assert made == asked
    assert load.begin_retry() == (repeated == 0)
