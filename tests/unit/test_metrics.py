"""The alert rules that we ship."""

from __future__ import annotations

import re

import yaml

from tests.server import ROOT

RULES = ROOT / "deploy" / "alert-rules.yaml"


def test_the_rules_are_of_prometheus_form() -> None:
    """Groups of rules, each with an expression, a severity and a text that says what to do."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        assert set(group) == {"name", "rules"}
        for rule in group["rules"]:
            assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert set(rule["annotations"]) == {"summary", "description"}
            assert re.fullmatch(r"\d+[smh]", rule["for"])
