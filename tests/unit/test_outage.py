"""What the operator is told of an upstream that cannot be reached: why, once, and nothing that is secret."""

from __future__ import annotations

import logging

import pytest

from app.upstreams.outage import Outage
from tests.unit.test_keys import FakeClock

BASE_URL = "https://upstream.example/v1"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged."""
    return [record.getMessage() for record in caplog.records]


def test_a_reason_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Again when it changes, when it comes back, and every five minutes while it lasts."""
    caplog.set_level(logging.ERROR)
    clock = FakeClock()
    outage = Outage(BASE_URL, clock=clock)
    for _ in range(3):
        outage.could_not_connect("connection refused")
    assert lines(caplog) == [f"cannot connect to upstream {BASE_URL}: connection refused"]
    outage.could_not_connect("unknown host")
    assert len(lines(caplog)) == 2
    outage.over()
    outage.could_not_connect("connection refused")
    assert len(lines(caplog)) == 3
    clock.now += 299
    outage.could_not_connect("connection refused")
    assert len(lines(caplog)) == 3
    clock.now += 2
    outage.could_not_connect("connection refused")
    assert len(lines(caplog)) == 4


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://other.example:8443/v1/x?key=sk-secret#y", ", to https://other.example:8443;"),
        ("https://sk-secret@other.example/", ", to https://other.example;"),
        ("/v1/other", "308;"),
        ("", "308;"),
        ("sk-secret", "308;"),
        ("https://sk secret/", "308;"),
        ("http://[::1", "308;"),
        ("http://x:99999/", "308;"),
    ],
)
def test_where_a_redirect_leads(caplog: pytest.LogCaptureFixture, location: str, told: str) -> None:
    """Scheme and host alone."""
    Outage(BASE_URL).misdirected(308, location)
    (line,) = lines(caplog)
    assert told in line
    assert "secret" not in line
    assert line.endswith("check OPENAI_BASE_URL")
