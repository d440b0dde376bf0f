"""Everything at once: what counts is that no work is lost, none is done twice and none is left running."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import pytest

from tests.system.airflow import ENDED, Airflow, Run
from tests.system.panda import Panda

pytestmark = pytest.mark.system

FAULTS = 100
STEPS = 30
AT_ONCE = 8
LIMIT = 400.0

Kind = Literal["drop_before", "drop_after", "garbage", "refuse", "delay", "database_down", "sigkill"]
KINDS: tuple[Kind, ...] = ("drop_before", "drop_after", "garbage", "refuse", "delay", "database_down", "sigkill")


@dataclass
class Chaos:
    """Makes trouble of random kinds and counts what took effect."""

    airflow: Airflow
    panda: Panda
    dice: random.Random = field(default_factory=lambda: random.Random(1303))  # noqa: S311 - no secret
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.counts.total() + len(self.panda.server.faults.recorded)

    def strike(self, active: list[Run]) -> None:
        """Do one kind of harm."""
        kind = self.dice.choice(KINDS)
        if kind == "sigkill":
            self._kill_one(active)
        elif kind == "database_down":
            self._take_database_down()
        else:
            self.panda.server.faults.inject(kind, self.dice.choice(["task/submit", "task/*"]), seconds=1.0)

    def _kill_one(self, active: list[Run]) -> None:
        process = self.airflow.process_of(self.dice.choice(active))
        if process:
            process.kill()
            self.counts["sigkill"] += 1

    def _take_database_down(self) -> None:
        store = self.panda.server.backend.store
        store.down = True
        time.sleep(0.7)
        store.down = False
        self.counts["database_down"] += 1


def test_under_a_hundred_faults_no_work_is_lost_doubled_or_orphaned(
    airflow: Airflow, panda: Panda, capsys: pytest.CaptureFixture[str]
) -> None:
    chaos, runs = Chaos(airflow, panda), list[Run]()
    panda.server.faults.recorded.clear()
    ends, active = time.monotonic() + LIMIT, list[Run]()
    while active or chaos.total < FAULTS or len(runs) < STEPS:
        assert time.monotonic() < ends, [(run.run_id, run.step["state"]) for run in active]
        if len(active) < AT_ONCE and (chaos.total < FAULTS or len(runs) < STEPS):
            active.append(airflow.run(chaos.dice.choice(["patient_sync", "patient_deferrable"]), command="sleep 1"))
            runs.append(active[-1])
        if chaos.total < FAULTS:
            chaos.strike(active)
        time.sleep(0.3)
        active = [run for run in active if run.state not in ENDED]
    panda.settle(*runs)
    books = {run: panda.book(run) for run in runs}
    lost = sum(
        run.step["state"] != "success" or not any(e.status == "done" for e in book) for run, book in books.items()
    )
    duplicated = sum(len(book) > 1 or any(e.attempt or e.jobs_finished > 1 for e in book) for book in books.values())
    orphaned = sum(not entry.is_over for book in books.values() for entry in book)
    kinds = chaos.counts + Counter(kind for kind, _ in panda.server.faults.recorded)
    with capsys.disabled():
        print(f"\nsteps={len(runs)} kinds={dict(kinds)}")  # noqa: T201 - for the log
        print(f"faults={chaos.total} {lost=} {duplicated=} {orphaned=}")  # noqa: T201
    assert (lost, duplicated, orphaned) == (0, 0, 0), books
