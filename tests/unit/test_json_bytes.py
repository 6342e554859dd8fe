"""JSON as it is sent and looked at: what the two libraries have in common, and who writes and reads what."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.json_bytes import GLANCED_MAX_BYTES, dump_json, glance_json


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


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -1, 1.5, 0.1, -0, -0.0, true, null, "x"], "b": {}}',
        '"half \\ud83d"',
        '{"half": "\\ude00"}',
        "[NaN, Infinity, 1e999]",
        '{"a": 1, "a": 2}',
        "18446744073709551615",
        "-9223372036854775808",
        '"안녕 \\u2028 \\ud83d\\ude00"',
        " [ ] \n",
        json.dumps("x" * GLANCED_MAX_BYTES),
    ],
)
def test_what_is_glanced_at_is_what_the_standard_library_reads(text: str) -> None:
    """Cut surrogate pairs, which streams have, and numbers that are none included."""
    assert repr(glance_json(text.encode())) == repr(json.loads(text))


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"'a'", b"[1,]", b"01", b'"\xff"', b'"\n"', b"\xef\xbb\xbf{}", b"[" * 100_000]
)
def test_what_is_no_json_is_an_error_for_both(raw: bytes) -> None:
    """The standard library says the last word."""
    with pytest.raises((ValueError, RecursionError)):
        glance_json(raw)


def test_a_glance_makes_a_float_of_a_whole_number_beyond_64_bits() -> None:
    """Why nothing that is written again is read so."""
    least, most = glance_json(b"[-9223372036854775809, 18446744073709551616]")
    assert (type(least), least, type(most), most) == (float, -(2.0**63), float, 2.0**64)
