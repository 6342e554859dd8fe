"""Remembering: a chat turn of a session that is kept, from the wait for its turn to what is left of it.

The turns of a session come one after the other. In a worker they wait for each other here, first come, first served;
of several workers the one that claims the session in the transaction of its admission goes on, and the others read the
session again (app/sessions/turns.py).
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from app.calls.call import Call
from app.calls.places import Places
from app.errors import ServiceException, ValidationException
from app.ledger.accounts import Principal
from app.ledger.end_users import known_as
from app.models import ChatRequest
from app.services.memory_hook import MemoryHook, ToldTurn
from app.services.running import RunningTurns
from app.services.summaries import Due, Summaries
from app.sessions.conversation import Conversation, Turn
from app.sessions.sessions import Sessions
from app.sessions.turns import OpenTurn, session_busy

Result = TypeVar("Result")

LOOK_SECONDS = 5.0
ASK_SECONDS = 0.05
"""How long to wait before a session is looked at again that another worker has."""


@dataclass(frozen=True)
class NewTurn:
    """A request that wants to be remembered. `opening`: the turns before it if it is the first of its session.
    `max_tokens`: how long its prompt may be, estimated. `speaker`: which version of which character speaks."""

    request: ChatRequest
    opening: Sequence[Turn] = ()
    max_tokens: int = 0
    speaker: str | None = None

    @property
    def session(self) -> str:
        """The session's name."""
        return self.request.session_id or ""

    @property
    def user(self) -> str:
        """The application's end user; empty where it names none."""
        return self.request.user or ""


class Remembering:
    """`max_queue_seconds`: how long a turn waits for the one before. Without `sessions` nothing is remembered."""

    def __init__(
        self,
        sessions: Sessions | None = None,
        memory_hook: MemoryHook | None = None,
        max_queue_seconds: float = 5.0,
        summaries: Summaries | None = None,
        running: RunningTurns | None = None,
    ) -> None:
        self.summaries = summaries
        self._sessions = sessions
        self._running = running or RunningTurns()
        self._hook = memory_hook or MemoryHook()
        self._max_queue_seconds = max_queue_seconds
        self._queues: dict[tuple[int, str], _Queue] = {}
        self._lock = threading.Lock()

    def turn(self, new: NewTurn, principal: Principal, call: Call, answer: Callable[[OpenTurn], Result]) -> Result:
        """Have a turn answered once it is its turn.

        Raises what `answer` does, ChatServiceException 409 `session_busy` when the turn before takes too long, and
        ValidationException: sessions are off, or a history comes with a session that has one.
        """
        sessions, key = self._open(), (owner_of(principal), new.session)
        give_up = time.monotonic() + self._max_queue_seconds
        with self._place(key, call):
            memories = self._recall(new, principal, call)
            is_fresh = bool(new.request.conversation_history)
            while True:
                known = sessions.recent.take(key, new.max_tokens)
                session = sessions.conversation(*key, new.max_tokens) if is_fresh or known is None else known
                if session is None:
                    sessions.begin(*key)
                    continue
                turn = self._begun(session, new, call.request_id, memories)
                try:
                    with self._running.running((turn.key, turn.request_id), call):
                        answered = answer(turn)
                    if turn.is_kept:
                        sessions.recent.put(key, left := turn.after(new.max_tokens))
                        self._summarise(turn, left, new, principal)
                    return answered
                except ServiceException as exc:
                    if exc.error_code != "session_busy":
                        sessions.forget_empty(session)
                        raise
                    # What this worker knew of the session may have been out of date: that alone is no reason to wait.
                    if is_fresh and time.monotonic() >= give_up:
                        raise
                finally:
                    self._tell(turn, new, principal)
                if is_fresh:
                    call.wait(random.uniform(0.5, 1.5) * ASK_SECONDS)
                    call.remaining_seconds()
                is_fresh = True

    def owner(self, principal: Principal) -> int:
        """Whose sessions a caller may look at and change; raises ValidationException where sessions are off."""
        if self._sessions is None:
            raise sessions_off()
        return owner_of(principal)

    def look(self, new: NewTurn, principal: Principal) -> OpenTurn:
        """The turn as it would begin now, for a look at what would be sent; nothing is written."""
        session = self._open().conversation(owner_of(principal), new.session, new.max_tokens) or Conversation(0)
        return self._begun(session, new, "", self._recall(new, principal, Call(LOOK_SECONDS)))

    def _begun(self, session: Conversation, new: NewTurn, request_id: str, memories: Sequence[str]) -> OpenTurn:
        if session.turns and new.request.conversation_history:
            raise ValidationException("is taken with the first turn of a session only", "conversation_history")
        return self._open().open_turn(
            session,
            request_id,
            new.request.user_message,
            before=() if session.turns else new.opening,
            memories=memories,
            character=new.speaker,
        )

    def _recall(self, new: NewTurn, principal: Principal, call: Call) -> tuple[str, ...]:
        """What the memory server knows that belongs to the turn."""
        asked = new.request.user_message, new.session, new.user
        return self._hook.recall(*asked, call, client=client_name(principal))

    def _tell(self, turn: OpenTurn, new: NewTurn, principal: Principal) -> None:
        """Tell the memory server a turn that is remembered."""
        if turn.kept is not None:
            told = ToldTurn(
                client=client_name(principal),
                session=new.session,
                user=new.user,
                turn=turn.number,
                user_message=turn.user_text,
                response_text=turn.kept.answer_text or "",
                interrupted=turn.kept.interrupted,
            )
            self._hook.tell(told)

    def _summarise(self, turn: OpenTurn, left: Conversation, new: NewTurn, principal: Principal) -> None:
        """Have the oldest turns covered by a summary, in the background, if they outgrow the next prompt."""
        if self.summaries is not None:
            due = Due(
                owner=owner_of(principal),
                name=new.session,
                principal=principal,
                credentials=new.request.credentials,
                end_user=known_as(new.request.user),
                model=turn.model,
                max_context_tokens=new.max_tokens,
                room=turn.room,
            )
            self.summaries.consider(due, left)

    def _open(self) -> Sessions:
        if self._sessions is None:
            raise ValidationException("nothing is remembered: sessions are off (setting SESSIONS)", "remember")
        return self._sessions

    @contextlib.contextmanager
    def _place(self, key: tuple[int, str], call: Call) -> Iterator[None]:
        """A place in this worker's queue of the session, until it is over."""
        with self._lock:
            queue = self._queues.setdefault(key, _Queue(1, self._max_queue_seconds))
            queue.users += 1
        try:
            if not queue.take(call):
                raise session_busy()
            try:
                yield
            finally:
                queue.release()
        finally:
            with self._lock:
                queue.users -= 1
                if not queue.users:
                    del self._queues[key]


class _Queue(Places):
    """The turns of one session in this worker, of which one goes on; `users` are those that know it."""

    users = 0


def owner_of(principal: Principal) -> int:
    """Whose sessions a caller has: its client's; without tokens there is one owner."""
    return 0 if principal.account is None else principal.account.id


def sessions_off() -> ValidationException:
    """The answer of the routes of sessions where there are none."""
    error = ValidationException("Nothing is kept here")
    error.explain("Sessions are off (setting SESSIONS)", "세션 기능이 꺼져 있습니다(설정 SESSIONS).")
    return error


def client_name(principal: Principal) -> str:
    """How the memory server is told whose session it is; empty in open mode."""
    return "" if principal.account is None else principal.account.name
