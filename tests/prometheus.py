"""What Prometheus reads: the series of /metrics, taken apart."""

from __future__ import annotations

import re

SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'(\w+)="([^"]*)"')
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(exposed: str) -> Samples:
    """Every series as (name without our prefix, labels)."""
    return {
        (name.removeprefix("llm_server_"), frozenset(LABEL.findall(labels))): float(value)
        for name, labels, value in SAMPLE.findall(exposed)
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """The sum over the series of a name that have these labels."""
    wanted = set(labels.items())
    return sum(number for (series, has), number in found.items() if series == name and wanted <= has)
