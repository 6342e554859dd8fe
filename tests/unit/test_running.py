"""RunningTurns: an interruption finds the call of its turn, and looking for one costs nothing while no turn runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection

import pytest

from app.calls.call import Call
from app.services.running import RunningTurns
from app.sessions.interruption import Running
from app.store.writer import unavailable

INTERVAL_SECONDS = 0.02


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_turn_of_this_worker_is_ended_at_once() -> None:
    """No other one, not even another of the same session, and none that is over."""
    turns, call = RunningTurns(), Call(60)
    with turns.running((1, "a"), call):
        turns.end((1, "b"))
        turns.end((2, "a"))
        assert call.ended is None
        turns.end((1, "a"))
        assert call.ended == "interrupted"
    later = Call(60)
    with turns.running((1, "b"), later):
        turns.end((1, "a"))
        assert later.ended is None


def test_one_question_is_asked_for_all_turns_and_only_while_there_are_some() -> None:
    """The thread that asks is not there either."""
    asked: list[set[Running]] = []

    def marked(running: Collection[Running]) -> list[Running]:
        asked.append(set(running))
        return [turn for turn in running if turn[0] == 7]

    def is_looking() -> bool:
        return any(thread.name == "interruptions" for thread in threading.enumerate())

    wait_for(lambda: not is_looking())
    turns, calls = RunningTurns(marked, interval_seconds=INTERVAL_SECONDS), [Call(60) for _ in range(10)]
    time.sleep(3 * INTERVAL_SECONDS)
    assert not is_looking()
    for _ in range(2):
        asked.clear()
        with contextlib.ExitStack() as running:
            for number, call in enumerate(calls):
                running.enter_context(turns.running((number, "a"), call))
            wait_for(lambda: len(asked) >= 3)
        assert asked[0] == {(number, "a") for number in range(10)}
        wait_for(lambda: not is_looking())
    assert [call.ended for call in calls] == [None] * 7 + ["interrupted"] + [None] * 2


def test_a_database_that_is_away_is_asked_again() -> None:
    """An interruption is only later then."""
    answers = [unavailable(), unavailable(), [(1, "a")]]

    def marked(running: Collection[Running]) -> list[Running]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    call = Call(60)
    with RunningTurns(marked, interval_seconds=INTERVAL_SECONDS).running((1, "a"), call):
        wait_for(lambda: call.ended == "interrupted")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_look_that_breaks_off_is_begun_again() -> None:
    """With the next turn, for all that go on: a fault of ours must not make this worker deaf."""
    asked: list[int] = []

    def marked(running: Collection[Running]) -> list[Running]:
        asked.append(len(running))
        if len(asked) == 1:
            raise RuntimeError
        return [(1, "a")]

    turns, calls = RunningTurns(marked, interval_seconds=INTERVAL_SECONDS), (Call(60), Call(60))
    with turns.running((1, "a"), calls[0]):
        wait_for(lambda: len(asked) == 1)
        time.sleep(3 * INTERVAL_SECONDS)
        with turns.running((2, "b"), calls[1]):
            wait_for(lambda: calls[0].ended == "interrupted")
