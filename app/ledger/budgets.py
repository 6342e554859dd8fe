"""Budgets: an amount of money for a period, which is a day, a month, or all time; days and months are UTC's."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from app.errors import ValidationException
from app.units import MICROSECONDS, NANO

PERIODS = ("day", "month", "total")
BUDGET_PATTERN = r"(\d{1,7})(?:\.(\d{1,9}))?/(" + "|".join(PERIODS) + ")"


def parse_budget(text: str, field: str = "budget_usd") -> tuple[int, str]:
    """Read `5/day`, `100/month` or `20/total` as nano-dollars and period; raises ValidationException for `field`."""
    match = re.fullmatch(BUDGET_PATTERN, text)
    if not match:
        raise ValidationException("must be like 5/day, 0.50/month or 100/total (US dollars)", field)
    return int(match[1]) * NANO + int((match[2] or "").ljust(9, "0")), match[3]


def period_start(period: str, now: int) -> int:
    """When the period that holds the moment `now` began, in microseconds since 1970, UTC."""
    if period == "total":
        return 0
    moment = datetime.fromtimestamp(now / MICROSECONDS, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return int((moment.replace(day=1) if period == "month" else moment).timestamp()) * MICROSECONDS


def period_end(period: str, now: int) -> int | None:
    """When that period ends; None for a budget that never renews."""
    if period == "total":
        return None
    began = datetime.fromtimestamp(period_start(period, now) / MICROSECONDS, UTC)
    ended = began + timedelta(days=1) if period == "day" else (began + timedelta(days=32)).replace(day=1)
    return int(ended.timestamp()) * MICROSECONDS
