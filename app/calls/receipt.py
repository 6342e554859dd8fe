"""Receipt: what happened to one request on its way to upstream.

The exchange makes it and is the only one that writes it. The log line, the metrics, the ledger row and the headers of
the answer read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from app.models import ApiKey, KeySource, Usage
from app.tokens import TextCount


@dataclass(slots=True)
class Receipt:
    """Times are seconds. `may_cost`: upstream may have begun to work for the request, so it may bill it.

    `written` counts what has come of a streamed answer: if upstream never counts it, that is the estimate. `started` is
    the input as upstream counted it when it began to answer.
    """

    assemble_seconds: float = 0.0
    queue_seconds: float = 0.0
    upstream_seconds: float = 0.0
    first_token_seconds: float | None = None
    attempts: int = 0
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
    def key_source(self) -> KeySource | None:
        """Whose key paid for the answer; None while there is none."""
        return self.key.source if self.key is not None and self.answered else None
