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
from collections.abc import Callable, Iterator
from typing import TypeVar

from app.calls.call import Call
from app.calls.places import Places
from app.errors import ChatServiceException, ValidationException
from app.ledger.accounts import Principal
from app.models import ChatRequest, Message
from app.sessions.conversation import Conversation, turns_of
from app.sessions.sessions import Sessions
from app.sessions.turns import OpenTurn, session_busy

Result = TypeVar("Result")

SESSION_MAX_CONTEXT_TOKENS = 8000
"""`max_context_tokens` of a remembered turn where neither the request nor the setting says one."""
ASK_SECONDS = 0.05
"""How long to wait before a session is looked at again that another worker has."""


class Remembering:
    """`max_queue_seconds`: how long a turn waits for the one before. Without `sessions` nothing is remembered."""

    def __init__(
        self, sessions: Sessions | None = None, max_queue_seconds: float = 5.0, max_context_tokens: int = 0
    ) -> None:
        self._sessions = sessions
        self._max_context_tokens = max_context_tokens or SESSION_MAX_CONTEXT_TOKENS
        self._max_queue_seconds = max_queue_seconds
        self._queues: dict[tuple[int, str], _Queue] = {}
        self._lock = threading.Lock()

    def turn(
        self,
        request: ChatRequest,
        history: list[Message],
        principal: Principal,
        call: Call,
        answer: Callable[[OpenTurn], Result],
    ) -> Result:
        """Have a turn answered once it is its turn; `history` is what the request brings of its own.

        Raises what `answer` does, ChatServiceException 409 `session_busy` when the turn before takes too long, and
        ValidationException: sessions are off, or a history comes with a session that has one.
        """
        sessions, owner, name = self._open(), owner_of(principal), request.session_id or ""
        give_up = time.monotonic() + self._max_queue_seconds
        with self._place(owner, name, call):
            while True:
                conversation = sessions.conversation(owner, name, self.max_context_tokens(request))
                if conversation is None:
                    sessions.begin(owner, name)
                    continue
                _check_history(conversation, history)
                turn = sessions.open_turn(
                    conversation, call.request_id, request.user_message, before=tuple(turns_of(history))
                )
                try:
                    return answer(turn)
                except ChatServiceException as exc:
                    if exc.error_code != "session_busy" or time.monotonic() >= give_up:
                        raise
                call.wait(random.uniform(0.5, 1.5) * ASK_SECONDS)
                call.remaining_seconds()

    def owner(self, principal: Principal) -> int:
        """Whose sessions a caller may look at and change; raises ValidationException where sessions are off."""
        self._open()
        return owner_of(principal)

    def max_context_tokens(self, request: ChatRequest) -> int:
        """How long the prompt of a remembered turn may be, in estimated tokens."""
        return request.max_context_tokens or self._max_context_tokens

    def look(self, request: ChatRequest, history: list[Message], principal: Principal) -> Conversation:
        """The session as a turn would find it now, for a look at what would be sent; nothing is written."""
        sessions = self._open()
        name, most = request.session_id or "", self.max_context_tokens(request)
        conversation = sessions.conversation(owner_of(principal), name, most) or Conversation(0)
        _check_history(conversation, history)
        return conversation

    def _open(self) -> Sessions:
        if self._sessions is None:
            raise ValidationException("nothing is remembered: sessions are off (setting SESSIONS)", "remember")
        return self._sessions

    @contextlib.contextmanager
    def _place(self, owner: int, name: str, call: Call) -> Iterator[None]:
        """A place in this worker's queue of the session, until it is over."""
        key = owner, name
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


def _check_history(conversation: Conversation, history: list[Message]) -> None:
    if history and conversation.turns:
        raise ValidationException("is taken with the first turn of a session only", "conversation_history")
