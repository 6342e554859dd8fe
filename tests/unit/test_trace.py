"""The trace that a request belongs to: which header names one, and what is passed on."""

from __future__ import annotations

import pytest

from app.calls.trace import TRACEPARENT, Trace

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def test_the_trace_goes_on_with_another_span() -> None:
    """The same id and flags."""
    trace = Trace.of(f"00-{ID}-{SPAN}-01")
    assert trace == (ID, "01")
    onward = [trace.onward() for _ in range(3)]
    assert all(TRACEPARENT.fullmatch(header) and header[3:35] == ID and header[-2:] == "01" for header in onward)
    assert len({header[36:52] for header in onward} | {SPAN}) == 4


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"00-{ID}-{SPAN}",
        f"00-{ID}-{SPAN}-01-x",
        f"01-{ID}-{SPAN}-01",
        f"00-{ID.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"00-{ID}-{SPAN}-01\n",
    ],
)
def test_what_names_no_trace(header: str) -> None:
    """It is not passed on."""
    assert Trace.of(header) is None
