"""Interrupting: what was never heard of a session's answer is not remembered, and nobody goes on writing it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from app.ledger.accounts import Principal
from app.models import SESSION_NAME
from app.services.memory_hook import MemoryHook, ToldTurn
from app.services.remembering import client_name, owner_of, sessions_off
from app.services.running import RunningTurns
from app.sessions.interruption import Interruptions, KeptTurn, Running
from app.sessions.stored import session_not_found
from app.sessions.turns import session_busy

WAIT_SECONDS = 5.0
"""How long an interruption waits until the turn that it has cut is written: another worker notices it within a third of
a second, but the turn of one that was killed stays open until the next sweep."""
FIRST_LOOK_SECONDS = 0.01
LONGEST_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Interruption:
    """What is remembered of the last turn now. `turn` is its number, None where the turn that was running failed and
    left nothing. `interrupted`: its answer is not whole."""

    turn: int | None
    answer_text: str | None
    interrupted: bool
    was_running: bool


class Interrupting:
    """Without `interruptions` there are no sessions. `hook` is told a turn once more that was trimmed afterwards."""

    def __init__(
        self,
        interruptions: Interruptions | None,
        running: RunningTurns,
        hook: MemoryHook,
        *,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._interruptions = interruptions
        self._running = running
        self._hook = hook
        self._wait_seconds = wait_seconds

    def interrupt(
        self, principal: Principal, name: str, heard: int | None, request_id: str | None = None
    ) -> Interruption:
        """Cut the turn that goes on, or trim the last one, to the first `heard` characters of its answer (Unicode code
        points); None: all that was delivered. `request_id`: of the turn that is meant.

        Raises ChatServiceException 404 `session_not_found` or `turn_not_found`, 409 `session_busy` where the turn did
        not end in time, 503 `store_unavailable`, and ValidationException where sessions are off.
        """
        if self._interruptions is None:
            raise sessions_off()
        is_name = SESSION_NAME.fullmatch(name)
        found = self._interruptions.begin(owner_of(principal), name, heard, request_id) if is_name else None
        if found is None:
            raise session_not_found()
        if not isinstance(found, KeptTurn):
            return self._end(self._interruptions, found)
        if found.is_trimmed:
            self._tell(found, principal, name)
        return _interruption(found, was_running=False)

    def _end(self, interruptions: Interruptions, turn: Running) -> Interruption:
        """End a turn that goes on, wherever it does."""
        self._running.end(turn)
        give_up, pause = time.monotonic() + self._wait_seconds, FIRST_LOOK_SECONDS
        while not interruptions.is_over(turn):
            if time.monotonic() >= give_up:
                raise session_busy()
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_LOOK_SECONDS)
        return _interruption(interruptions.kept(turn), was_running=True)

    def _tell(self, kept: KeptTurn, principal: Principal, name: str) -> None:
        """Tell the memory server what is left of a turn; it was told all of it when that had been delivered."""
        self._hook.tell(
            ToldTurn(
                client=client_name(principal),
                session=name,
                user=kept.end_user,
                turn=kept.number,
                user_message=kept.turn.user_text or "",
                response_text=kept.turn.answer_text or "",
                interrupted=True,
            )
        )


def _interruption(kept: KeptTurn | None, *, was_running: bool) -> Interruption:
    if kept is None:
        return Interruption(None, None, interrupted=False, was_running=was_running)
    return Interruption(kept.number, kept.turn.answer_text, kept.turn.interrupted, was_running)
