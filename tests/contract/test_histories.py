"""Histories recorded on a real server, played against the embedded one: what both showed, value by value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer
from tests.support.comparison import Comparison
from tests.support.histories import Player, StepClock, masked

RECORDED: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "data" / "histories.json").read_text()
)["histories"]

BRIEF = {
    "": "the registration window may be over before the first look",
    "registered": "JEDI refines a task right after its registration",
    "defined": "the contents feeder follows the refiner",
    "ready": "a task that has nothing to do leaves it at once",
    "prepared": "the post-processor follows at once",
    "toretry": "the commando goes on at once",
    "toincexec": "the commando goes on at once",
    "aborting": "without jobs there is nothing to wait for",
}
"""Statuses that the embedded server shows, and that a recorder who looks every second or so may have missed."""

LOCKED = ("ready", "running", "rerefine", "toabort")
"""Statuses in which the modification time may be true for moments: each part of JEDI that works on a task sets it."""

ALLOWED = [
    (
        "kill_in_registration_window",
        "toabort: jobs [1] recorded, 0 to 0 played",
        "the recorded JEDI made a job while it aborted the task, and hung on that; which comes first is luck",
    ),
    (
        "three_input_files_two_per_job",
        "files: ",
        "the recorded site's data management was simulated and gave every file the scope of the experiment",
    ),
]
"""All differences that are allowed: the history, the beginning of the line that says it, and why."""


@pytest.fixture
def player(tmp_path: Path) -> Iterator[Player]:
    clock = StepClock()
    pace = Pace(registration=2, command=3, slots=4)
    with DevServer(tmp_path / "panda", pace=pace, clock=clock, by_hand=True) as server:
        _plant_files(server, "user.alice.hist.3files")
        yield Player(server, clock, tmp_path / "flag")


def _plant_files(server: DevServer, name: str) -> None:
    """Put a dataset of three files into the place of the recorded site's data management."""
    store = server.backend.store
    dataset = store.insert("datasets", jediTaskID=0, datasetName=name, type="output", status="done")
    for number in (1, 2, 3):
        lfn = f"{name}.{number:06d}.dat"
        store.insert("contents", jediTaskID=0, datasetID=dataset, lfn=lfn, status="finished")
        (server.backend.cache / lfn).write_text(lfn)


@pytest.mark.parametrize("name", RECORDED)
def test_a_history_is_the_same_on_both_servers(player: Player, name: str) -> None:
    played = player.play(RECORDED[name])
    found = list(Comparison(BRIEF, LOCKED).differences(masked(RECORDED[name]), played))
    allowed = [line for history, line, _ in ALLOWED if history == name]
    assert [difference for difference in found if not any(map(difference.startswith, allowed))] == []
    assert len(found) == len(allowed), "a difference that is allowed is gone: strike it out"


@pytest.mark.parametrize("name", RECORDED)
def test_a_history_is_the_same_as_itself(name: str) -> None:
    history = masked(RECORDED[name])
    assert list(Comparison(BRIEF, LOCKED).differences(history, history)) == []


@pytest.mark.parametrize(
    ("place", "changes"),
    [
        (-1, {"status": "done"}),
        (-1, {"jobs": 21}),
        (-1, {"nFilesFailed": 1}),
        (-1, {"errorDialog": None}),
        (-1, {"endTime": "2026-11-27T05:18:05.403691"}),
        (-1, {"modificationTime": "2026-11-27T04:19:32.277471"}),
        (12, {"startTime": "2026-11-27T05:18:11.000000"}),
        (12, {"attemptNr": 0}),
        (12, {"stateChangeTime": "2026-11-27T05:16:58.503906"}),
        (3, {"userName": "alice"}),
        (3, {"ramCount": None}),
        (11, {"data": 4}),
    ],
)
def test_a_value_that_differs_is_found(place: int, changes: dict[str, Any]) -> None:
    recorded = masked(RECORDED["fails_then_plain_retry_twice"])
    changed = deepcopy(recorded)
    entry = changed[place]
    entry["seen" if "seen" in entry else "answer"] |= changes
    assert list(Comparison(BRIEF, LOCKED).differences(recorded, changed))
