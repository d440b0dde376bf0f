"""What the demo's DAG has to find, computed in one pass by the physicists' own library."""

from __future__ import annotations

import csv
import math
from collections import Counter
from importlib.resources import files
from typing import Any

TABLE = "particle2026.csv"
SLICES = 6
"""Parts that the example DAG cuts the table into, a job for each."""


def particle_summary() -> dict[str, Any]:
    """Summarise the whole table: counts by kind, extremes of mass (MeV) and measured lifetime (s)."""
    from particle.pdgid import is_baryon, is_lepton, is_meson  # noqa: PLC0415 - an optional dependency

    kinds: Counter[str] = Counter()
    widths, masses = [], []
    lines = (files("particle.data") / TABLE).read_text().splitlines()
    for row in csv.DictReader(line for line in lines if not line.startswith("#")):
        number = int(row["ID"])
        tests = {"lepton": is_lepton, "meson": is_meson, "baryon": is_baryon}
        kinds[next((name for name, test in tests.items() if test(number)), "other")] += 1
        masses.append((float(row["Mass"]), row["Name"]))
        if float(row["Width"]) > 0:
            widths.append((float(row["Width"]), row["Name"]))
    return {
        "particles": kinds.total(),
        "kinds": dict(kinds),
        "heaviest": max(masses),
        "longest_lived": _lifetime(*min(widths)),
        "shortest_lived": _lifetime(*max(widths)),
    }


def _lifetime(width: float, name: str) -> tuple[float, str]:
    from particle.particle.kinematics import width_to_lifetime  # noqa: PLC0415 - an optional dependency

    return width_to_lifetime(width) * 1e-9, name


def lost_slices(jobs: dict[str, str]) -> list[str]:
    """List the slices of the table that no job of their own has processed.

    :param jobs: PandaIDs by number of the slice, counted from 1.
    """
    owners = Counter(jobs.values())
    numbers = map(str, range(1, SLICES + 1))
    return [number for number in numbers if number not in jobs or owners[jobs[number]] > 1]


def agree(one: Any, other: Any) -> bool:
    """Compare two summaries; numbers may differ in the seventh digit, as constants of nature do between sources."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(agree(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(agree, one, other))
    if isinstance(one, float) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)
