"""What is written beside a request's row, in the same transactions: the turn of a session that it is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Protocol

import sqlalchemy as sa


@dataclass(frozen=True)
class Ending:
    """How a request ended, and what it used; `cost_nano` (nano-dollars) is None where that is not known. `code` is
    None where it was answered, `model` the one that did."""

    code: str | None
    input_tokens: int
    output_tokens: int
    cost_nano: int | None
    model: str | None


class Beside(Protocol):
    """`key`: what those have in common that must not be written at the same time."""

    @property
    def key(self) -> int: ...

    def hold(self, connection: sa.Connection, keys: Collection[int]) -> None:
        """Keep other transactions away from these keys, all at once and in one order."""

    def claim(self, connection: sa.Connection) -> None:
        """Before the row is opened; raises ServiceException where it must not be."""

    def settled(self, ending: Ending) -> Callable[[sa.Connection], None]:
        """What to write when the row is settled, if it was open until then."""
