"""Count and rank the particles of one slice of a PDG table; the payload of one PanDA job.

Usage: ``particle_slice.py TABLE SLICE SLICES`` with slices counted from 1; writes ``slice.json``.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections import Counter
from pathlib import Path

HBAR = 6.582119569e-22
"""Reduced Planck constant in MeV s."""

FAILING_ATTEMPTS = {2: 1, 5: 2}
"""Attempts that fail on purpose, by slice, so that there is something to retry."""

Row = dict[str, str]


def kind(pdg_id: int) -> str:
    """Classify a particle by the quarks that its PDG number spells."""
    number = abs(pdg_id)
    if number in range(11, 19):
        return "lepton"
    quarks = [number // place % 10 for place in (1000, 100, 10)]
    if all(quarks):
        return "baryon"
    return "meson" if all(quarks[1:]) else "other"


def analyse(rows: list[Row]) -> dict[str, object]:
    """Sum up rows of the table: counts by kind, the extremes of mass (MeV) and of measured lifetime (s)."""
    masses = [(float(row["Mass"]), row["Name"]) for row in rows]
    lifetimes = [(HBAR / float(row["Width"]), row["Name"]) for row in rows if float(row["Width"]) > 0]
    return {
        "particles": len(rows),
        "kinds": Counter(kind(int(row["ID"])) for row in rows),
        "heaviest": max(masses),
        "longest_lived": max(lifetimes),
        "shortest_lived": min(lifetimes),
    }


def main(table: str, number: int, slices: int) -> None:
    """Analyse every ``slices``-th row, beginning with row ``number``."""
    attempt = int(os.environ.get("PanDA_AttemptNr", "1"))  # noqa: SIM112 - as pilots spell it
    if attempt <= FAILING_ATTEMPTS.get(number, 0):
        sys.exit(f"slice {number} fails on purpose in attempt {attempt}")
    lines = [line for line in Path(table).read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    result = analyse(rows[number - 1 :: slices]) | {"slice": number, "job": os.environ["PandaID"]}  # noqa: SIM112
    Path("slice.json").write_text(json.dumps(result))
    print(f"slice {number} of {slices}: {result}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
