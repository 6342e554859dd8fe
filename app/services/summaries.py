"""Summaries: what is kept in a session's prompts of turns that no longer fit.

After a remembered turn has been answered, the oldest turns are covered by a summary if the next prompt would have no
room for all of them. It is made in the background and never in front of an answer, by a request of its own that goes
the way of every request: the turn's client and key, admission and budget, slot, deadline, a row of the ledger. When it
fails nothing else does: the oldest turns are left out, and the next turn tries again (test_summaries.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.calls.call import Call, Calls, new_request_id
from app.config import Config
from app.errors import ChatServiceException, ServiceException
from app.ledger.accounts import Principal
from app.ledger.allowances import SUMMARY_ROUTE
from app.ledger.limits import Ask
from app.models import Credentials, Generation, Message
from app.services.completing import Completing
from app.services.exchange import Exchange
from app.sessions.conversation import Conversation, Turn, newest
from app.sessions.sessions import Sessions
from app.tokens import beginning, estimate_tokens
from app.upstreams.errors import bad_response
from app.upstreams.fleet import NATIVE

logger = logging.getLogger(__name__)

SECONDS = 120.0
"""The deadline of a summary, where REQUEST_TIMEOUT is not earlier."""
AT_ONCE = 8
"""So many are made at once in a worker, and with at most a quarter of its slots. Another session's has to wait for its
next turn."""
CLAIMS = 5
"""So often a summary is begun while turns keep ending; then it is left to the last of them."""
PARTS = 8
"""So many are made after one turn, one after the other, where there is more to cover than one prompt can hold."""
MIN_CONTEXT_TOKENS = 200
"""Where a prompt may not have as many, a summary would take the room of the newest turns."""
TEMPERATURE = 0.3


class Counter(Protocol):
    """Counts requests; see app/process/metrics.py."""

    def opened(self) -> None:
        """A request has come."""

    def answered(self, call: Call, *, route: str, status: int, code: str | None, timed: bool) -> None:
        """A request is over."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """A session whose turns outgrow its prompts, and the turn that showed it: who asked and who paid for it, its model,
    `max_context_tokens`, and how many of these past turns may have (`room`)."""

    owner: int
    name: str
    principal: Principal
    credentials: Credentials
    end_user: str | None
    model: str
    max_context_tokens: int
    room: int

    @property
    def most(self) -> int:
        """How many tokens uncovered turns may have before they are summarised."""
        return max(0, self.room * 3 // 4)

    @property
    def left(self) -> int:
        """How many they have at most afterwards, but for the newest turn: so not every turn has a summary made."""
        return max(0, self.room // 2)

    def is_for(self, uncovered: Sequence[Turn]) -> bool:
        """Whether these are too many turns."""
        return sum(turn.tokens for turn in uncovered) > self.most


class Summaries:
    """Those of one worker. `is_stopping`: no more are begun."""

    def __init__(
        self,
        sessions: Sessions,
        exchange: Exchange,
        config: Config,
        calls: Calls,
        counter: Counter,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._sessions = sessions
        self._exchange = exchange
        self._completing = Completing(exchange)
        self._config = config
        self._calls = calls
        self._counter = counter
        self._is_stopping = is_stopping
        self._at_once = max(1, min(AT_ONCE, exchange.slots.size // 4))
        self._going: dict[tuple[int, str], Due | None] = {}
        """Sessions whose summary is being made; with what was due of one meanwhile."""
        self._running = Calls()
        self._lock = threading.Lock()

    def consider(self, due: Due, session: Conversation) -> None:
        """Begin a summary in the background if this session needs one; neither waits nor raises."""
        if due.max_context_tokens < MIN_CONTEXT_TOKENS or not due.is_for(session.recent):
            return
        key = due.owner, due.name
        with self._lock:
            if key in self._going:
                self._going[key] = due
                return
            if len(self._going) >= self._at_once:
                return
            self._going[key] = None
        threading.Thread(target=self._work, args=(due,), name="summary", daemon=True).start()

    def flush(self, seconds: float) -> None:
        """Wait until none is being made, for at most so many seconds."""
        give_up = time.monotonic() + seconds
        while self._going and time.monotonic() < give_up:
            time.sleep(0.01)

    def stop(self, seconds: float) -> None:
        """Give up what is being made, and all that comes; wait until it is settled, for at most so many seconds."""
        self._running.end("shutting_down")
        self.flush(seconds)

    def _work(self, due: Due) -> None:
        key = due.owner, due.name
        next_due: Due | None = due
        while next_due is not None:
            has_lost = self._loses(next_due)
            with self._lock:
                next_due, self._going[key] = (self._going[key] if has_lost else None), None
                if next_due is None:
                    del self._going[key]

    def _loses(self, due: Due) -> bool:
        """Make what is due; tell whether turns kept ending between the look at the session and the claim. Then the last
        of them has been considered already, and nobody else would make its summary."""
        try:
            for _ in range(PARTS):
                if self._is_stopping() or not self._unless_busy(due):
                    break
        except ServiceException as exc:
            # Its code is in the request's line, or the database is away.
            return exc.error_code == "session_busy"
        except Exception:
            logger.exception("a summary failed by a fault of ours")
        return False

    def _unless_busy(self, due: Due) -> bool:
        """As `_next`; again where a turn has ended between the look at its session and the claim."""
        for _ in range(CLAIMS - 1):
            try:
                return self._next(due)
            except ChatServiceException as exc:
                if exc.error_code != "session_busy":
                    raise
        return self._next(due)

    def _next(self, due: Due) -> bool:
        """Cover the oldest turns once; tell whether that was done. Raises ServiceException."""
        session = self._sessions.conversation(due.owner, due.name, due.most)
        if session is None or not due.is_for(session.recent):
            return False
        last = session.turns - max(1, len(newest(session.recent, due.left)))
        if last <= session.summary_turns:
            return False
        turns = self._sessions.oldest(session, last, due.max_context_tokens // 2)
        call = Call(min(self._config.request_timeout, SECONDS), request_id=new_request_id())
        for calls in (self._calls, self._running):
            calls.add(call)
        failure: ServiceException | None = None
        try:
            return self._made(due, session, turns, call)
        except ServiceException as exc:
            failure = exc
            raise
        finally:
            for calls in (self._calls, self._running):
                calls.discard(call)
            self._tell(call, len(turns), failure)

    def _made(self, due: Due, session: Conversation, turns: Sequence[Turn], call: Call) -> bool:
        """Have a model write the summary of these turns and of the summary before them; tell whether it is kept."""
        generation = self._generation(due, session, turns)
        ask = Ask(
            route=SUMMARY_ROUTE,
            model=generation.model,
            session_id=due.name,
            prompt_tokens=sum(estimate_tokens(message["content"]) for message in generation.messages),
            max_tokens=generation.max_tokens,
            end_user=due.end_user,
        )
        summary = self._sessions.open_summary(session, call.request_id, session.summary_turns + len(turns))
        with self._exchange.open(ask, due.credentials, due.principal, call, dialect=NATIVE, beside=summary) as exchange:
            text = self._completing.complete(exchange, generation, None).completion.output_text
            summary.text = beginning(_without_thoughts(text), due.max_context_tokens // 4)
            if not summary.text:
                raise bad_response()
        self._sessions.recent.drop((due.owner, due.name))
        return exchange.is_written and summary.is_kept

    def _generation(self, due: Due, session: Conversation, turns: Sequence[Turn]) -> Generation:
        most = due.max_context_tokens // 4
        return Generation(
            messages=[{"role": "system", "content": self._config.summary_prompt}, _told(session.summary, turns, most)],
            model=self._config.summary_model or due.model,
            instructions="",
            max_tokens=min(self._config.summary_max_tokens, most),
            temperature=TEMPERATURE,
            defaults=frozenset({"temperature"}),
        )

    def _tell(self, call: Call, turns: int, failure: ServiceException | None) -> None:
        """Count the request and write its line, as those of other requests are. That another worker makes the summary
        is no request."""
        if failure is not None and failure.error_code == "session_busy":
            return
        self._counter.opened()
        code, status = (None, 200) if failure is None else (failure.error_code, failure.status)
        self._counter.answered(call, route=SUMMARY_ROUTE, status=status, code=code, timed=True)
        fields = {
            "request_id": call.request_id,
            "route": SUMMARY_ROUTE,
            "code": code or "-",
            "turns": turns,
            "total_ms": round(call.elapsed_seconds * 1000, 1),
        }
        logger.info("summary %s", " ".join(f"{name}={value}" for name, value in fields.items()), extra=fields)


def _told(summary: str, turns: Sequence[Turn], most: int) -> Message:
    """What is to be summarised, between tags that the prompt names. Of one text no more than `most` tokens."""
    said = [
        f"{speaker}: {beginning(text, most)}"
        for turn in turns
        for speaker, text in (("user", turn.user_text), ("assistant", turn.answer_text))
        if text
    ]
    before = f"<summary>\n{summary}\n</summary>\n\n" if summary else ""
    return {"role": "user", "content": f"{before}<conversation>\n{chr(10).join(said)}\n</conversation>"}


def _without_thoughts(text: str) -> str:
    """What a model wrote behind its thoughts, where it shows them."""
    return text.rpartition("</think>")[2].strip()
