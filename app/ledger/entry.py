"""Entry: one request's row in the ledger, from admission to settlement."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from app.calls.call import Call
from app.errors import ServiceException
from app.ledger.admission import Ask
from app.ledger.pricing import NoPrices, Prices
from app.models import Usage
from app.services.tokens import estimate_tokens

ENDINGS = {"client_closed_request": "cancelled", "upstream_timeout": "timeout"}


class Entry:
    """A context manager: leaving it settles. `settled` is given how the request ended, once."""

    def __init__(self, call: Call, ask: Ask, prices: Prices | NoPrices, settled: Callable[[Entry, str, Any], None]):
        self.call = call
        self.cached = False
        self._ask = ask
        self._prices = prices
        self._settled: Callable[[Entry, str, Any], None] | None = settled

    def cost_nano(self) -> int | None:
        """What the request has cost so far: 0 from the cache and where upstream was not asked, None if unknown."""
        usage, _ = self.usage()
        if self.cached or not usage.total_tokens:
            return 0
        return self._prices.cost_nano(self.call.model_answered or "", usage, asked=self._ask.model)

    def usage(self) -> tuple[Usage, bool]:
        """Tokens as upstream counted them; estimated where it was asked and then did not come to tell."""
        if self.call.usage is not None or not self.call.sent:
            return self.call.usage or Usage(), False
        sent, written = self._ask.prompt_tokens, estimate_tokens(self.call.text_seen)
        return Usage(sent, written, sent + written), bool(sent + written)

    def settle(self, status: str, code: str | None = None) -> None:
        """Close the row; only the first call counts."""
        settled, self._settled = self._settled, None
        if settled is not None:
            settled(self, status, code)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc is None:
            self.settle("ok")
        elif isinstance(exc, ServiceException):
            self.settle(ENDINGS.get(exc.error_code, "error"), exc.error_code)
        elif isinstance(exc, GeneratorExit):
            self.settle("cancelled", "client_closed_request")
        else:
            self.settle("error", "internal_error")


def unrecorded(call: Call, ask: Ask) -> Entry:
    """The entry of a request that nobody writes down: its cost is unknown."""
    return Entry(call, ask, NoPrices(), lambda *_: None)
