"""Rows that may be there already: an INSERT that says what happens then (ON CONFLICT), as each database writes it."""

from __future__ import annotations

import sys
from typing import Any

import sqlalchemy as sa


def upsert(table: sa.Table, dialect: str) -> Any:
    """SQLAlchemy's `insert(table)` of this dialect. The other one's package would cost each worker 3 MB and 25 ms.

    The engine has imported the one that it needs.
    """
    return sys.modules[f"sqlalchemy.dialects.{dialect}"].insert(table)
