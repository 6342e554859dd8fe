"""What is said where the machine lacks a program that tests need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.server import ROOT


def test_without_apt_get_it_says_what_is_missing_and_does_not_fail(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "tests.programs"], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert (said.returncode, said.stderr) == (0, "")
    (line,) = said.stdout.splitlines()
    assert line.startswith("Not on this machine: chromium, chromium-driver, ")
    assert "Tests that need them are skipped" in line
