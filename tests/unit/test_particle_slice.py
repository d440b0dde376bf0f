"""The analysis that the demo's jobs run."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from panda_airflow.demo.expected import SLICES, TABLE, agree, lost_slices, particle_summary

SCRIPT = Path(__file__).parents[2] / "dags_examples" / "analysis" / "particle_slice.py"


def run(directory: Path, *arguments: str, attempt: int = 1) -> subprocess.CompletedProcess[str]:
    table = str(files("particle.data") / TABLE)
    environment = {"PanDA_AttemptNr": str(attempt), "PandaID": "7"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), table, *arguments],
        cwd=directory, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_one_slice_of_one_is_what_the_particle_library_finds(tmp_path: Path) -> None:
    assert run(tmp_path, "1", "1").returncode == 0
    found = json.loads((tmp_path / "slice.json").read_text())
    assert (found.pop("slice"), found.pop("job")) == (1, "7")
    assert agree(found, particle_summary())


def test_a_wrong_summary_does_not_agree() -> None:
    right = particle_summary()
    for name in right:
        assert not agree({other: value for other, value in right.items() if other != name}, right)
    assert not agree(right | {"particles": 668}, right)
    assert not agree(right | {"heaviest": (172600.0, "b")}, right)
    assert not agree(right | {"longest_lived": (878.4, "n")}, right)


def test_a_slice_without_a_job_of_its_own_is_named() -> None:
    jobs = {str(number): str(100 + number) for number in range(1, SLICES + 1)}
    assert lost_slices(jobs) == []
    assert lost_slices({number: job for number, job in jobs.items() if number != "4"}) == ["4"]
    assert lost_slices(jobs | {"5": jobs["2"]}) == ["2", "5"]


@pytest.mark.parametrize(("attempt", "exit_code"), [(1, 1), (2, 1), (3, 0)])
def test_slice_five_fails_twice_and_says_so(tmp_path: Path, attempt: int, exit_code: int) -> None:
    ended = run(tmp_path, "5", "6", attempt=attempt)
    assert ended.returncode == exit_code
    assert (f"fails on purpose in attempt {attempt}" in ended.stderr) == bool(exit_code)
    assert (tmp_path / "slice.json").exists() != bool(exit_code)


def test_the_slices_hold_every_row_once(tmp_path: Path) -> None:
    lines = (files("particle.data") / TABLE).read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    counts = []
    for number in range(1, 7):
        assert run(tmp_path, str(number), "6", attempt=3).returncode == 0
        counts.append(json.loads((tmp_path / "slice.json").read_text())["particles"])
    assert sum(counts) == len(rows)
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(
    ("number", "kind"),
    [(11, "lepton"), (-18, "lepton"), (211, "meson"), (130, "meson"), (2212, "baryon"), (1103, "other"), (6, "other")],
)
def test_a_kind_is_read_from_the_number(number: int, kind: str) -> None:
    assert runpy.run_path(str(SCRIPT))["kind"](number) == kind
