"""Entry: one request's row in the ledger, from admission to settlement."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from app.calls.call import Call
from app.calls.receipt import Receipt, Tried
from app.ledger.admission import Admitted
from app.ledger.limits import Ask
from app.ledger.pricing import NoPrices, Prices
from app.models import Usage

Written = Callable[[float], bool]
"""Waits for at most so many seconds; tells whether what was settled is durable."""


class Entry:
    """The row is open until it is settled; `settled` is given how the request ended, once."""

    def __init__(
        self,
        ask: Ask,
        call: Call,
        receipt: Receipt,
        prices: Prices | NoPrices,
        settled: Callable[[Entry, str, str | None], Written | None],
        admitted: Admitted | None = None,
    ) -> None:
        self.call = call
        self.receipt = receipt
        self._ask = ask
        self.model = ask.model
        self._prices = prices
        self.reserved_nano = admitted.reserved_nano if admitted else 0
        self.output_limit = admitted.output_limit if admitted else None
        self._priced: tuple[Usage, int | None] | None = None
        self._settled: Callable[[Entry, str, str | None], Written | None] | None = settled
        self._written: Written | None = None

    def cost_nano(self) -> int | None:
        """What the request has cost so far: 0 from the cache and where upstream was not asked, None if unknown."""
        usage, _ = self.usage()
        if self._ask.is_unbounded and self.receipt.usage is None and self._may_cost:
            return None
        if self.receipt.cache_hit or not usage.total_tokens:
            return 0
        if self._priced is None or self._priced[0] is not usage:
            self._priced = usage, self._cost(self.receipt.model or "", usage, self.receipt.last)
        return self._priced[1]

    def _cost(self, model: str, usage: Usage, tried: Tried | None) -> int | None:
        if not usage.total_tokens:
            return 0
        asked, upstream = (tried.model, tried.upstream) if tried else (self._ask.model, "")
        return self._prices.cost_nano(model, usage, asked=asked, upstream=upstream)

    def absorbed(self) -> Iterator[tuple[Tried, Usage, bool, int | None]]:
        """The attempts before the last: tokens, whether these are estimated, and nano-dollars; None if unknown."""
        for tried in self.receipt.tried[:-1]:
            usage, is_estimated = self._usage(tried, tried.may_cost)
            is_unknown = self._ask.is_unbounded and tried.usage is None and tried.may_cost
            yield tried, usage, is_estimated, None if is_unknown else self._cost(tried.answered_by or "", usage, tried)

    def charge_nano(self) -> int | None:
        """What the request costs in the end, with the attempts that were given up on the way.

        Where something was reserved and usage or price is not known, all of it: a limit is a promise. A stream that
        broke off costs what was written until then, but no more than was reserved.
        """
        costs = [cost for *_, cost in self.absorbed()] if self.receipt.attempts > 1 else []
        last = self.charge_of_the_last()
        return None if last is None or None in costs else last + sum(cost or 0 for cost in costs)

    def charge_of_the_last(self) -> int | None:
        """What the attempt costs that answered, or failed last."""
        cost, reserved = self.cost_nano(), self.reserved_nano
        if not reserved or not self._server_paid or self.receipt.cache_hit:
            return cost
        if self.receipt.usage is not None or not self._may_cost:
            return reserved if cost is None else cost
        return min(cost, reserved) if self._ask.streamed and cost is not None else reserved

    @property
    def _may_cost(self) -> bool:
        """Whether upstream may have worked for the request: it did, or it has the request at this moment."""
        return self.receipt.may_cost or self.call.holds_connection

    @property
    def _server_paid(self) -> bool:
        return self.receipt.key is not None and self.receipt.key.source == "default"

    def usage(self) -> tuple[Usage, bool]:
        """Tokens as upstream counted them, or (True) estimated: upstream was asked and then did not come to tell."""
        return self._usage(self.receipt, self._may_cost)

    def _usage(self, told: Receipt | Tried, may_cost: bool) -> tuple[Usage, bool]:
        if told.usage is not None or not may_cost:
            return told.usage or Usage(), False
        began, written = told.started or Usage(self._ask.prompt_tokens), told.written.tokens
        total = began.input_tokens + written
        return dataclasses.replace(began, output_tokens=written, total_tokens=total), bool(total)

    def settle(self, status: str, code: str | None = None) -> bool:
        """Close the row; only the first call counts. Tells whether this was it."""
        settled, self._settled = self._settled, None
        if settled is None:
            return False
        self._written = settled(self, status, code)
        return True

    def wait_until_written(self, seconds: float) -> bool:
        """Wait for what was settled beside the row; tells whether it is durable. True where nothing was."""
        written, self._written = self._written, None
        return written is None or written(seconds)


def unrecorded(ask: Ask, call: Call, receipt: Receipt) -> Entry:
    """The entry of a request that is not written down: its cost is unknown."""
    return Entry(ask, call, receipt, NoPrices(), lambda *_: None)
