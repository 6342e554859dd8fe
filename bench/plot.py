"""`python plot.py costs|growth FROM.json TO.svg`: draws what was measured, in an environment of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

# The same figures give the same file.
matplotlib.rcParams["svg.hashsalt"] = "llm-server"
OURS, FLOOR, PEERS = "#1f77b4", "#7f7f7f", "#c7c7c7"
COLUMNS = 3
FAR = 4
"""A bar this many times as long as the middle one is cut off, for all others would be too short to be compared."""


def main(kind: str, measured: str, drawing: str) -> None:
    """Read one file and write the other."""
    draw = {"costs": costs, "growth": growth}[kind]
    figure = draw(json.loads(Path(measured).read_text()))
    figure.savefig(drawing, metadata={"Date": None})


def costs(bars: list[dict[str, Any]]) -> Any:
    """One bar for each server and route, and a line over it for the range of the rounds."""
    bars = bars[::-1]
    medians = sorted(bar["median"] for bar in bars)
    limit = 1.25 * max(each for each in medians if each <= FAR * medians[len(medians) // 2])
    figure, panel = pyplot.subplots(figsize=(9, 0.8 + 0.4 * len(bars)), constrained_layout=True)
    for place, bar in enumerate(bars):
        colour = {"ours": OURS, "direct": FLOOR}.get(bar["whose"], PEERS)
        shown = min(bar["median"], limit)
        panel.barh(place, shown, color=colour)
        if bar["median"] > limit:
            panel.text(shown, place, f"{bar['median']:,.0f}, beyond this axis → ", va="center", ha="right")
            continue
        panel.plot([bar["least"], bar["most"]], [place, place], color="black", linewidth=1)
        panel.text(max(bar["median"], bar["most"]), place, f" {bar['median']:,.0f}", va="center")
    panel.set(xlabel="processor time of one request, µs, 16 callers", xlim=(0, limit))
    panel.set_yticks(range(len(bars)), [bar["title"] for bar in bars])
    panel.grid(axis="x", alpha=0.3)
    panel.set_axisbelow(True)
    return figure


def growth(grown: dict[str, list[dict[str, float]]]) -> Any:
    """One panel for each thing that grows; both axes begin at zero, so a straight line is linear growth."""
    rows = -(-len(grown) // COLUMNS)
    figure, panels = pyplot.subplots(rows, COLUMNS, figsize=(4.4 * COLUMNS, 3 * rows), constrained_layout=True)
    for unused in panels.flat[len(grown) :]:
        unused.set_visible(False)
    for panel, (name, points) in zip(panels.flat, grown.items(), strict=False):
        sizes = [point["size"] for point in points]
        for figure_name, label in (("p50_us", "p50"), ("worker_cpu_us", "worker's CPU")):
            panel.plot(sizes, [point[figure_name] / 1000 for point in points], marker="o", label=label)
        panel.set(xlabel=name, ylabel="ms per request", xlim=0, ylim=0)
        panel.legend()
        panel.grid(alpha=0.3)
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
