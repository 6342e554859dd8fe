"""The scripts and styles of others that the console uses, as npm gives them: `make vendor` copies them, and a test
compares them with what is written down.

preact draws what changes while one looks at it, htm is how its templates are written without a build step, uPlot draws
plots. None of them needs `eval`, a font or another host.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

VENDOR = Path(__file__).parent.parent / "app" / "web" / "console" / "static" / "vendor"
LIST = VENDOR / "vendored.json"
FILES = {
    "preact.js": ("preact", "dist/preact.mjs"),
    "htm.js": ("htm", "dist/htm.mjs"),
    "uPlot.js": ("uplot", "dist/uPlot.iife.min.js"),
    "uPlot.css": ("uplot", "dist/uPlot.min.css"),
}
"""Each by its package and its place there."""


def take_from(modules: Path) -> None:
    """Copy the files and the packages' licences from a `node_modules`, and write down what they are."""
    VENDOR.mkdir(exist_ok=True)
    listed = {}
    for name, (package, place) in FILES.items():
        about = json.loads((modules / package / "package.json").read_text())
        shutil.copyfile(modules / package / place, VENDOR / name)
        shutil.copyfile(modules / package / "LICENSE", VENDOR / f"{package}.LICENSE")
        listed[name] = {
            "package": f"{package} {about['version']}",
            "license": about["license"],
            "sha256": hashlib.sha256((VENDOR / name).read_bytes()).hexdigest(),
        }
    LIST.write_text(json.dumps(listed, indent=2) + "\n")


if __name__ == "__main__":
    take_from(Path(sys.argv[1]))
