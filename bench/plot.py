"""`python plot.py FROM.json TO.svg`: draws what bench/growth.py measured, in an environment of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

# The same figures give the same file.
matplotlib.rcParams["svg.hashsalt"] = "llm-server"


def main(measured: str, drawing: str) -> None:
    """One panel for each thing that grows; both axes begin at zero, so a straight line is linear growth."""
    grown = json.loads(Path(measured).read_text())
    figure, panels = pyplot.subplots(2, 2, figsize=(9, 6), constrained_layout=True)
    for panel, (name, points) in zip(panels.flat, grown.items(), strict=True):
        sizes = [point["size"] for point in points]
        for figure_name, label in (("p50_us", "p50, one caller"), ("worker_cpu_us", "worker's CPU")):
            panel.plot(sizes, [point[figure_name] / 1000 for point in points], marker="o", label=label)
        panel.set(xlabel=name, ylabel="ms per request", xlim=0, ylim=0)
        panel.legend()
        panel.grid(alpha=0.3)
    figure.savefig(drawing, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
