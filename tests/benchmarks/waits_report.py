"""Writes down what the waits benchmark has measured: a page with the machine it was taken on, and a plot."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path

from tests.benchmarks.waits_result import LEGEND, NAMES, Result

WIDTH, HEIGHT, MARGIN = 400, 260, 60
COLOURS = {"triggers": "#1f77b4", "polls": "#d62728"}
"""Of each way that is plotted; what is measured without Airflow goes on the line of what is measured with it."""

PANELS: tuple[tuple[str, Callable[[Result], float]], ...] = (
    ("requests in all", lambda one: one.asked),
    ("CPU seconds of the waiting process", lambda one: one.cpu),
    ("MB of memory for all waits", lambda one: one.memory * one.number / 1e6),
    ("seconds from end to event, 99th percentile", lambda one: one.quantile(0.99)),
)

Point = tuple[float, float]


def write(folder: Path, text: str, found: Sequence[Result]) -> None:
    """Write both.

    :param folder: where to.
    :param text: tables and figures.
    """
    folder.mkdir(exist_ok=True)
    (folder / "waits.svg").write_text(plot(found))
    head = f"# Waiting for many tasks\n\nBy `make bench`, {machine()}."
    page = [head, f"```\n{text}\n```", LEGEND, "![How the costs grow with the number of tasks](waits.svg)"]
    (folder / "waits.md").write_text("\n\n".join(page) + "\n")


def machine() -> str:
    """Describe this machine and the moment."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines() if platform.system() == "Linux" else []
    model = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), platform.machine())
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, on {os.cpu_count()} cores ({model}), {platform.system()}, "
        f"Python {platform.python_version()}; load average at the end {os.getloadavg()[1]:.1f} (5 minutes)"
    )


def plot(found: Sequence[Result]) -> str:
    """Draw how each cost grows with the number of tasks, both on logarithmic scales."""
    panels = [_panel(title, cost, found, place) for place, (title, cost) in enumerate(PANELS)]
    legend = [
        f'<text x="{MARGIN + 260 * place}" y="20" fill="{colour}">{escape(NAMES[way])}</text>'
        for place, (way, colour) in enumerate(COLOURS.items())
    ]
    size = f'width="{2 * WIDTH}" height="{2 * HEIGHT + 30}"'
    style = 'font-family="sans-serif" font-size="12"'
    white = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>', white, *legend, *panels, "</svg>\n"])


def _panel(title: str, cost: Callable[[Result], float], found: Sequence[Result], place: int) -> str:
    lines = {colour: _points(way, cost, found) for way, colour in COLOURS.items()}
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    across, up = _scale(xs, MARGIN, WIDTH - 30), _scale(ys, HEIGHT - 40, 40)
    drawn = [_line(colour, [(across(x), up(y)) for x, y in points]) for colour, points in lines.items()]
    ticks = [_text(across(x), HEIGHT - 15, f"{x:,.0f}") for x in sorted(set(xs))]
    ticks += [_text(MARGIN - 28, up(y) + 4, f"{y:,.3g}" if y < 1000 else f"{y:,.0f}") for y in (min(ys), max(ys))]
    frame = (
        f'<rect x="{MARGIN}" y="30" width="{WIDTH - MARGIN - 20}" height="{HEIGHT - 60}" fill="none" stroke="#999"/>'
    )
    head = _text((WIDTH + MARGIN) / 2, 22, title)
    moved = f'transform="translate({place % 2 * WIDTH} {place // 2 * HEIGHT + 25})"'
    return "\n".join([f"<g {moved}>", head, frame, *ticks, *drawn, "</g>"])


def _points(way: str, cost: Callable[[Result], float], found: Sequence[Result]) -> list[Point]:
    ways = {way, "feed"} if way == "triggers" else {way}
    return sorted((one.number, max(cost(one), 0.01)) for one in found if one.way in ways)


def _scale(values: Sequence[float], low: float, high: float) -> Callable[[float], float]:
    """Place values between two coordinates by their logarithms."""
    first, last = math.log(min(values)), math.log(max(values))
    return lambda value: low + (high - low) * (math.log(value) - first) / ((last - first) or 1.0)


def _line(colour: str, points: Sequence[Point]) -> str:
    path = " ".join(f"{x:.0f},{y:.0f}" for x, y in points)
    dots = [f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>' for x, y in points]
    return "\n".join([f'<polyline points="{path}" fill="none" stroke="{colour}"/>', *dots])


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{escape(text)}</text>'
