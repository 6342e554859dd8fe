"""The alert rules that we ship, and metrics without room for their files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import prometheus_client as prometheus
import pytest
import yaml

from app.process.tally import Seconds, Tally
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


def test_what_was_counted_is_told() -> None:
    """Once, with the sums of all threads; what is counted meanwhile is told the next time."""
    registry = prometheus.CollectorRegistry()
    counter = prometheus.Counter("told", "x", ["label"], registry=registry)
    plain = prometheus.Counter("plain", "x", registry=registry)
    seconds, tally = Seconds("seconds", "x", (0.1, 1), registry), Tally()

    def count(_: int) -> None:
        for _ in range(1000):
            tally.count(counter, ("a",), 2)
            tally.observe(seconds, "/", 0.5)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(4)))
    tally.count(plain)
    assert registry.get_sample_value("told_total", {"label": "a"}) is None
    for more in (0, 3):
        tally.count(counter, ("a",), more)
        tally.tell()
        assert registry.get_sample_value("told_total", {"label": "a"}) == 8000 + more
    assert registry.get_sample_value("plain_total") == 1
    for bound, number in (("0.1", 0), ("1.0", 4000), ("+Inf", 4000)):
        assert registry.get_sample_value("seconds_bucket", {"route": "/", "le": bound}) == number
    assert registry.get_sample_value("seconds_sum", {"route": "/"}) == pytest.approx(2000)


ALONE = """
import os, resource, sys
from pathlib import Path
from app.process.metrics_files import DIRECTORY_VARIABLE, prepare
directory = Path(sys.argv[1])
if not prepare(directory, os.getpid()):
    del os.environ[DIRECTORY_VARIABLE]
from app.process.metrics import Metrics
metrics = Metrics({"slots": lambda: 3.0})
metrics.keep_fresh()
print(b"llm_server_slots 3.0" in metrics.render(), list(directory.glob("*.db")))
# Coverage writes its own file at the end.
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_no_room_for_metrics(tmp_path: Path) -> None:
    """A worker whose files have no room on the disk counts in its own memory; nothing half made is left."""
    command = ["prlimit", "--fsize=100000:unlimited", sys.executable, "-c", ALONE, str(tmp_path)]
    environ = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True, text=True)
    assert done.stdout == "True []\n"
