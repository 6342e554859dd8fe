"""The alert rules that we ship, and metrics without room for their files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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
