"""MemoryHook: what the operator's memory server knows, for a turn that is remembered, and the turn told to it.

It helps and is never needed: a turn goes on without it, after RECALL_SECONDS at most, whatever that server does. It is
told in the background, from a bounded queue, so it is never in front of an answer either. What failed is counted, and
told in one log line a minute.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from app.calls.call import Call
from app.errors import ServiceException
from app.json_bytes import dump_json, is_writable
from app.tokens import estimate_tokens
from app.upstreams.json import read_json
from app.upstreams.memory_server import MemoryFailed, MemoryServer, Reason

logger = logging.getLogger(__name__)

RECALL_SECONDS = 0.3
TELL_SECONDS = 5.0
PAUSE_SECONDS = 1.0
"""Before the second and last try to tell a turn."""
QUERY_MAX_BYTES = 1000
"""Of the user's message, in UTF-8. A URL makes three times as much of it, and gunicorn reads lines of 4,094 bytes."""
MEMORIES_MAX = 100
WAITING_TURNS = 256
WAITING_CHARACTERS = 16 * 1024 * 1024
"""How many turns, and how much text, may wait until they have been told."""
TELLERS = 4
LOG_SECONDS = 60.0

FAILURES: tuple[tuple[str, str], ...] = (
    *((step, reason) for step in ("recall", "tell") for reason in (*get_args(Reason), "error")),
    ("tell", "queue_full"),
)
"""What is counted: which step failed, and why. `error` is a fault of our own."""


@dataclass(frozen=True, kw_only=True)
class ToldTurn:
    """A turn as the memory server is told it; the fields' names are the wire's.

    `client` is the name of the client, empty in open mode: a session belongs to one client, and another client may
    have one of the same id. `user` is the application's end user, empty where it names none. `response_text` is what
    was delivered, all of it unless `interrupted`.
    """

    client: str
    session: str
    user: str
    turn: int
    user_message: str
    response_text: str
    interrupted: bool


class MemoryHook:
    """The hook of one worker; without a `server` nothing is recalled and nobody is told.

    `failed` counts a failure by step and reason; `clock` is in seconds.
    """

    def __init__(
        self,
        server: MemoryServer | None = None,
        *,
        max_tokens: int = 1000,
        failed: Callable[[str, str], None] = lambda step, reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._max_tokens = max_tokens
        self._count = failed
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: queue.Queue[ToldTurn] = queue.Queue(WAITING_TURNS)
        self._waiting_turns = self._waiting_characters = 0
        self._has_tellers = False
        self._told_at, self._failures = -math.inf, 0

    def recall(self, query: str, session: str, user: str, call: Call, *, client: str = "") -> tuple[str, ...]:
        """What is remembered that belongs to `query`, best first; empty when the memory server is of no use.

        Takes RECALL_SECONDS at most, and raises nothing but what ended `call`.
        """
        if self._server is None:
            return ()
        asked = {"query": _beginning(query), "session": session, "user": user, "client": client}
        try:
            return within(read_memories(self._server.get(asked, RECALL_SECONDS, call)), self._max_tokens)
        except ServiceException:
            raise
        except Exception as exc:
            self._failed("recall", exc)
        return ()

    def tell(self, turn: ToldTurn) -> None:
        """Have a turn told in the background. Neither waits nor raises; with too many waiting, this one is lost."""
        if self._server is None:
            return
        if not self._has_room(turn):
            self._report("tell", "queue_full", "")
            return
        self._waiting.put_nowait(turn)
        self._start_tellers(self._server)

    def flush(self, seconds: float) -> None:
        """Wait until every turn has been told, for at most so many seconds."""
        give_up = time.monotonic() + seconds
        while self._waiting_turns and time.monotonic() < give_up:
            time.sleep(0.01)

    def _has_room(self, turn: ToldTurn) -> bool:
        """Whether one more turn may wait; from now on it does."""
        with self._lock:
            characters = self._waiting_characters + _length(turn)
            if self._waiting_turns >= WAITING_TURNS or characters > WAITING_CHARACTERS:
                return False
            self._waiting_turns, self._waiting_characters = self._waiting_turns + 1, characters
            return True

    def _start_tellers(self, server: MemoryServer) -> None:
        """With the first turn, so after any fork."""
        with self._lock:
            is_first, self._has_tellers = not self._has_tellers, True
        for _ in range(TELLERS if is_first else 0):
            threading.Thread(target=self._work, args=(server,), name="memory-hook", daemon=True).start()

    def _work(self, server: MemoryServer) -> None:
        while True:
            turn = self._waiting.get()
            try:
                _tell(server, turn)
            except Exception as exc:
                self._failed("tell", exc)
            with self._lock:
                self._waiting_turns -= 1
                self._waiting_characters -= _length(turn)

    def _failed(self, step: str, exc: Exception) -> None:
        if isinstance(exc, MemoryFailed):
            self._report(step, exc.reason, exc.detail)
        else:
            # The exception's text may hold what the turn holds.
            self._report(step, "error", type(exc).__name__)

    def _report(self, step: str, reason: str, detail: str) -> None:
        self._count(step, reason)
        with self._lock:
            self._failures += 1
            if self._clock() - self._told_at < LOG_SECONDS:
                return
            self._told_at, number, self._failures = self._clock(), self._failures, 0
        origin = self._server.origin if self._server else "-"
        told = f"{reason}, {detail}" if detail else reason
        logger.warning("memory hook %s: %s failed (%s); %d since the last such line", origin, step, told, number)


def read_memories(raw: bytes) -> tuple[str, ...]:
    """The texts of an answer: a JSON list, or an object with a list `memories`; without a body there are none.

    Blank texts are left out. Raises MemoryFailed `bad_answer` for anything else, and for more than MEMORIES_MAX.
    """
    if not raw:
        return ()
    try:
        found = read_json(raw)
    except ServiceException:
        raise MemoryFailed("bad_answer", "no JSON") from None
    texts = found.get("memories") if isinstance(found, dict) else found
    if not isinstance(texts, list) or not all(isinstance(text, str) and is_writable(text) for text in texts):
        raise MemoryFailed("bad_answer", "no list of texts")
    if len(texts) > MEMORIES_MAX:
        raise MemoryFailed("bad_answer", f"more than {MEMORIES_MAX} texts")
    return tuple(text for text in texts if text.strip())


def within(memories: tuple[str, ...], max_tokens: int) -> tuple[str, ...]:
    """The first of them, as many as have `max_tokens` (estimated) together."""
    for place, memory in enumerate(memories):
        max_tokens -= estimate_tokens(memory)
        if max_tokens < 0:
            return memories[:place]
    return memories


def _tell(server: MemoryServer, turn: ToldTurn) -> None:
    """Tell a turn; once more when that fails. Raises MemoryFailed."""
    body = dump_json(dataclasses.asdict(turn))
    try:
        server.post(body, TELL_SECONDS)
    except MemoryFailed:
        time.sleep(PAUSE_SECONDS)
        server.post(body, TELL_SECONDS)


def _beginning(query: str) -> str:
    """As much of the beginning as is QUERY_MAX_BYTES long, in whole characters."""
    return query[:QUERY_MAX_BYTES].encode("utf-8", "replace")[:QUERY_MAX_BYTES].decode("utf-8", "ignore")


def _length(turn: ToldTurn) -> int:
    return len(turn.user_message) + len(turn.response_text)
