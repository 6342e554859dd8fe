"""Receipt: what happened to one request on its way to upstream.

The exchange makes it and is the only one that writes it. The log line, the metrics, the ledger row and the headers of
the answer read it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from app.models import ApiKey, KeySource, Usage
from app.tokens import TextCount


@dataclass(slots=True)
class Tried:
    """One attempt. `upstream` is empty where there is but one; `model`: the name that was asked for there. `code`: how
    it failed; `began` is monotonic, `seconds` is until the answer began.

    Of one that was given up for another, `usage` and `started` are what upstream counted, and `written` what had come
    of its answer.
    """

    upstream: str
    model: str
    key: ApiKey
    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    code: str | None = None
    may_cost: bool = False
    usage: Usage | None = None
    started: Usage | None = None
    answered_by: str | None = None
    written: TextCount = field(default_factory=TextCount)


@dataclass(slots=True)
class Receipt:
    """Times are seconds. `may_cost`: upstream may have begun to work for the request, so it may bill it.

    `written` counts what has come of a streamed answer: if upstream never counts it, that is the estimate. `started` is
    the input as upstream counted it when it began to answer. `tried` has every attempt; what is said here of usage,
    model, text and cost is the last one's.
    """

    assemble_seconds: float = 0.0
    queue_seconds: float = 0.0
    upstream_seconds: float = 0.0
    first_token_seconds: float | None = None
    tried: list[Tried] = field(default_factory=list)
    key: ApiKey | None = None
    answered: bool = False
    may_cost: bool = False
    usage: Usage | None = None
    started: Usage | None = None
    model: str | None = None
    upstream_request_id: str | None = None
    response_id: str | None = None
    cache_hit: bool | None = None
    code: str | None = None
    settled: bool = False
    written: TextCount = field(default_factory=TextCount)

    @property
    def attempts(self) -> int:
        """How often an upstream was asked."""
        return len(self.tried)

    @property
    def last(self) -> Tried | None:
        """The attempt that answered, or failed last."""
        return self.tried[-1] if self.tried else None

    def begin_attempt(self, tried: Tried) -> None:
        """One more attempt: what the one before has brought is its own from now on."""
        self.close_attempt()
        self.tried.append(tried)
        # Known before the answer: a caller who leaves before it comes has spent this key's money all the same.
        self.key = tried.key
        self.usage = self.started = None
        self.model = self.response_id = None
        self.answered = self.may_cost = False
        if self.written.tokens:
            self.written = TextCount()

    def close_attempt(self) -> None:
        """Keep with the last attempt what is known of it."""
        if (last := self.last) is not None:
            last.usage, last.started, last.answered_by = self.usage, self.started, self.model
            last.may_cost, last.written = self.may_cost, self.written

    @property
    def key_source(self) -> KeySource | None:
        """Whose key paid for the answer; None while there is none."""
        return self.key.source if self.key is not None and self.answered else None
