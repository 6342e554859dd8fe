"""The specification in Korean, for the documentation's page. The names and descriptions of fields stay English, as does
the specification that programs read.

What is translated is found by its English text: a sentence that changes loses its translation, and
tests/api/test_openapi.py says so.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KNOWN: Mapping[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())
SUMMARIES: Mapping[str, str] = KNOWN["summaries"]
"""What each route does, by its endpoint."""


def in_korean(specification: Mapping[str, Any], endpoints: Mapping[str, str]) -> dict[str, Any]:
    """The specification with every text that is known in Korean; `endpoints` by operation id."""
    told: dict[str, Any] = _translated(specification)
    told["info"]["description"] = KNOWN["description"]
    for operations in told["paths"].values():
        for operation in operations.values():
            if "operationId" in operation:
                operation["summary"] = SUMMARIES[endpoints[operation["operationId"]]]
    return told


def _translated(value: Any) -> Any:
    if isinstance(value, list):
        return [_translated(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    return {name: _translated_member(name, member) for name, member in value.items()}


def _translated_member(name: str, member: Any) -> Any:
    if name in {"example", "examples"}:
        return member
    if name == "description" and isinstance(member, str):
        return KNOWN["texts"].get(" ".join(member.split()), member)
    return _translated(member)
