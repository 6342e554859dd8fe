"""How long upstream asks to wait before the next try, in whichever of the usual ways it says so.

Sources: RFC 9110, 10.2.3 (`Retry-After`); OpenAI's SDKs (`retry-after-ms`); OpenAI's and Anthropic's API references,
"Rate limits" (`x-ratelimit-reset-…`, `anthropic-ratelimit-…-reset`); Google's error model (`RetryInfo.retryDelay`).
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime

from app.upstreams.refusals import Refusal

LONGEST_SECONDS = 120
SPAN = re.compile(
    r"(?=\d)(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m(?!s))?"
    r"(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9}(?:\.\d{1,9})?)ms)?"
)
"""`6m0s`, `1h2m3.5s`, `20ms`."""
SPAN_UNITS = (86_400, 3600, 60, 1, 0.001)
RESET = re.compile(
    r"(?:x-ratelimit|anthropic-ratelimit|ratelimit)-(?:reset(?:-(?P<of>[a-z-]{1,40}))?|(?P<by>[a-z-]{1,40})-reset)"
)
EPOCH_SECONDS, EPOCH_MILLISECONDS = 1e9, 1e12
"""From these on a number is a moment and no duration."""


def asked_wait(status: int, headers: Mapping[str, str], refusal: Refusal) -> float | None:
    """Seconds, at most 120; None when upstream says nothing usable. The names of `headers` are in lower case."""
    asked = (
        _milliseconds(headers.get("retry-after-ms", "")),
        parse_retry_after(headers.get("retry-after", "")),
        refusal.retry_seconds,
        # Every answer has these: only where the rate is what upstream refuses for do they tell when to come back.
        _reset(headers) if status == 429 else None,
    )
    return next((min(seconds, LONGEST_SECONDS) for seconds in asked if seconds is not None and seconds > 0), None)


def whole_seconds(wait_seconds: float | None) -> int:
    """The wait as our own `Retry-After` says it: at least 1."""
    return max(1, math.ceil(wait_seconds or 1))


def parse_retry_after(value: str) -> float | None:
    """Seconds in `Retry-After`: a number or an HTTP date."""
    seconds = _number(value)
    return _until_http_date(value) if seconds is None else seconds


def _number(value: str) -> float | None:
    try:
        seconds = float(value)
    except ValueError:
        return None
    return None if math.isnan(seconds) else seconds


def _milliseconds(value: str) -> float | None:
    milliseconds = _number(value)
    return None if milliseconds is None else milliseconds / 1000


def _until_http_date(value: str) -> float | None:
    moment = email.utils.parsedate_tz(value)
    if moment is None:
        return None
    try:
        return email.utils.mktime_tz(moment) - time.time()
    except (OverflowError, ValueError):
        return None


def _reset(headers: Mapping[str, str]) -> float | None:
    """When the limits that are used up are renewed; the last of all where upstream does not say which are."""
    resets = dict(_resets(headers))
    used_up = [seconds for name, seconds in resets.items() if _remaining(headers, name) == 0]
    return max(used_up or resets.values(), default=None)


def _resets(headers: Mapping[str, str]) -> Iterator[tuple[str, float]]:
    for header, value in headers.items():
        match = RESET.fullmatch(header)
        if match and (seconds := _until_reset(value.strip())) is not None:
            yield match["of"] or match["by"] or "", seconds


def _remaining(headers: Mapping[str, str], name: str) -> float | None:
    names = (f"x-ratelimit-remaining-{name}", f"anthropic-ratelimit-{name}-remaining", "x-ratelimit-remaining")
    found = (headers[header] for header in names if header in headers)
    return next((_number(value) for value in found), None)


def _until_reset(value: str) -> float | None:
    """A duration (`6m0s`, `7`), or a moment: seconds or milliseconds since 1970, or RFC 3339."""
    number = _number(value)
    if number is not None and number >= EPOCH_MILLISECONDS:
        return number / 1000 - time.time()
    if number is not None:
        return number - time.time() if number >= EPOCH_SECONDS else number
    if match := SPAN.fullmatch(value):
        return sum(float(part) * unit for part, unit in zip(match.groups(), SPAN_UNITS, strict=True) if part)
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.timestamp() - time.time() if moment.tzinfo else None
