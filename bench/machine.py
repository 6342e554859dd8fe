"""What the figures were measured on: the machine, and the version of everything that took part."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil

from app.version import __version__
from bench.processes import ROOT, WORK
from bench.tools import nginx, node, node_20, wrk

OURS = ("app", "blueprints", "schemas", "wsgi.py", "gunicorn.conf.py")


def machine() -> dict[str, str | int | float]:
    """CPU, cores, memory and kernel, and how busy it was before the run."""
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu.group(1) if cpu else platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": platform.release(),
        "load_before": os.getloadavg()[0],
    }


def versions(before: Path | None = None) -> dict[str, str]:
    """By name; a program that is not there has no version. `before` is the tree that ours is measured against."""
    packages = {name: metadata.version(name) for name in ("flask", "gunicorn", "gevent")}
    return {
        "llm-server": f"{__version__} ({_commit(ROOT)})",
        **({"before": _commit(before)} if before else {}),
        "litellm": _installed("litellm"),
        "portkey": _portkey(),
        "python": platform.python_version(),
        **packages,
        "node": _said(node_20(), "--version").lstrip("v"),
        "node (newer)": _said(node(), "--version").lstrip("v"),
        "nginx": _said(nginx(), "-v").rpartition("/")[2],
        "wrk": _said(wrk(), "--version").partition(" [")[0].removeprefix("wrk "),
        "os": _os(),
    }


def _commit(tree: Path) -> str:
    """Which one, and whether something was changed since."""
    commit = _git(tree, "rev-parse", "--short=10", "HEAD")
    changed = " with changes" if _git(tree, "status", "--porcelain", "--", *OURS) else ""
    return f"{commit or 'no commit'}{changed}"


def _git(tree: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=tree, capture_output=True, text=True)
    return done.stdout.strip()


def _installed(name: str) -> str:
    site = WORK / name / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    found = [item.version for item in metadata.distributions(path=[str(site)]) if item.metadata["Name"] == name]
    return found[0] if found else "–"


def _portkey() -> str:
    file = WORK / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.is_file() else "–"


def _said(program: str | None, option: str) -> str:
    """The first line, wherever the program writes it."""
    if not program:
        return "–"
    done = subprocess.run([program, option], capture_output=True, text=True)
    return (done.stdout + done.stderr).strip().partition("\n")[0].strip()


def _os() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
