"""How long upstream asks to wait: every form in which it may say so, and nonsense in each."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest

from app.upstreams.refusals import Refusal
from app.upstreams.waits import asked_wait, whole_seconds


def in_seconds(seconds: float) -> datetime:
    """A moment so far from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


def wait(headers: Mapping[str, str], status: int = 429, delay: float | None = None) -> float | None:
    """What is read of these headers."""
    return asked_wait(status, headers, Refusal(retry_seconds=delay))


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "3600"}, 120),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "200", "retry-after": "1"}, 0.2),
        ({"retry-after-ms": "x", "retry-after": "3"}, 3),
        ({"x-ratelimit-reset-requests": "20s"}, 20),
        ({"x-ratelimit-reset-requests": "120ms"}, 0.12),
        ({"x-ratelimit-reset-tokens": "1m3.5s"}, 63.5),
        ({"x-ratelimit-reset-tokens": "1h2m3s"}, 120),
        ({"x-ratelimit-reset-requests": "11"}, 11),
        ({"x-ratelimit-reset": "12"}, 12),
        ({"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "9s"}, 9),
        (
            {
                "x-ratelimit-reset-requests": "2s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "9s",
                "x-ratelimit-remaining-tokens": "100",
            },
            2,
        ),
        ({"x-ratelimit-reset-requests": "9s", "retry-after": "3"}, 3),
        *[({"retry-after": value}, None) for value in ("", "abc", "nan", "-1", "0", "Wed, 21 Oct 2015 07:28:00 GMT")],
        *[({"x-ratelimit-reset-tokens": value}, None) for value in ("", "s", "1x", "nan", "-5", "9" * 400 + "s")],
    ],
)
def test_asked_wait(headers: Mapping[str, str], seconds: float | None) -> None:
    """The most exact form wins; what says nothing is left to the next."""
    assert wait(headers) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "headers",
    [
        {"retry-after": email.utils.format_datetime(in_seconds(60), usegmt=True)},
        {"x-ratelimit-reset": str(int(time.time()) + 60)},
        {"x-ratelimit-reset": str(int(time.time() * 1000) + 60_000)},
        {"anthropic-ratelimit-requests-reset": in_seconds(60).isoformat()},
        {"anthropic-ratelimit-requests-reset": in_seconds(60).isoformat().replace("+00:00", "Z")},
    ],
)
def test_moments(headers: Mapping[str, str]) -> None:
    """A moment is waited for from now; collecting and running the tests takes a while."""
    assert 0 < (wait(headers) or 0) <= 61


def test_only_a_rate_limit_is_about_limits() -> None:
    """Every answer of OpenAI's tells when its limits are renewed: of a 503 that says nothing."""
    limits = {"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"}
    assert wait(limits, 503) is None
    assert wait(limits | {"retry-after": "2"}, 503) == 2


def test_googles_delay_is_in_the_body() -> None:
    """Where no header says it."""
    assert wait({}, delay=37.0) == 37
    assert wait({"retry-after": "2"}, delay=37.0) == 2


@pytest.mark.parametrize(("seconds", "whole"), [(None, 1), (0.2, 1), (1.2, 2), (37.0, 37)])
def test_whole_seconds(seconds: float | None, whole: int) -> None:
    """Our own header never asks to come back too early."""
    assert whole_seconds(seconds) == whole
