"""JSON as it is sent: what the two writers have in common, and who writes what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.json_bytes import dump_json


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, -1, 1.5, 0.1, True, None, "x"], "b": {}},
        '안녕 \U0001f600 \\ " \n \x00 \x7f \u2028',
        2**63 - 1,
        2**64 + 1,
        {"maximum": -(2**70), "text": "안녕"},
        1e22,
        1.7976931348623157e308,
        5e-324,
        {str(number): number for number in range(1000)},
        [[[[]]]] * 3,
    ],
)
def test_what_is_read_again_is_what_was_written(value: Any) -> None:
    """Compact and in UTF-8, whatever the size of its numbers."""
    written = dump_json(value)
    assert json.loads(written.decode()) == value
    assert b": " not in written
    assert "안녕".encode() in written or "안녕" not in str(value)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("half \ud800", b'"half ?"'),
        ({"x": float("nan")}, b'{"x":null}'),
        ([float("inf")], b"[null]"),
        ({1: 2}, b'{"1":2}'),
    ],
)
def test_what_json_cannot_carry(value: Any, written: bytes) -> None:
    """The bytes are JSON, always."""
    assert dump_json(value) == written


def test_what_cannot_be_written_is_an_error() -> None:
    """As with the standard library, so that Flask's own writer is asked."""
    with pytest.raises(TypeError):
        dump_json({"x": object()})
