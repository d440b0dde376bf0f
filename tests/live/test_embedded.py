"""The embedded server does in every scenario what real servers did."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from panda_airflow.check.reading import READING
from panda_airflow.check.scenario import Result
from tests.live.__main__ import compare, main
from tests.live.embedded import PATIENCE, embedded
from tests.live.play import KILLING, MOST_JOBS, WRITING, play_all
from tests.live.stage import Live, closing
from tests.live.submissions import HANGS

NAMES = [item.name for item in WRITING] + [item.name for item in READING]


@dataclass
class Played:
    """What came of all scenarios: results by name, jobs, histories by task, and what the runner said."""

    results: dict[str, Result]
    jobs: int
    histories: dict[str, list[dict[str, Any]]]
    said: list[str]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Play all scenarios once."""
    said: list[str] = []
    with embedded(tmp_path_factory.mktemp("live") / "panda") as site:
        results = play_all(site, PATIENCE, said.append)
        return Played({result.scenario: result for result in results}, site.jobs(), site.histories(), said)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "iDDS"])
def test_the_embedded_server_does_what_real_ones_did(played: Played, name: str) -> None:
    result = played.results[name]
    assert str(result) == "; ".join(result.expects)


def test_few_jobs_are_made_and_none_is_left(played: Played) -> None:
    assert sum(item.jobs for item in WRITING) <= MOST_JOBS
    assert 0 < played.jobs <= sum(item.jobs for item in WRITING)
    assert "all ended or killed" in played.said[-1]


def test_an_interrupted_run_leaves_nothing_running(tmp_path: Path) -> None:
    said: list[str] = []
    with embedded(tmp_path / "panda") as site:
        stage = Live(site, "interrupted")
        with suppress(KeyboardInterrupt), closing(site, KILLING, said.append):
            task_id = stage.submit(stage.parameters(HANGS))
            raise KeyboardInterrupt
        ends = time.monotonic() + PATIENCE.seconds
        while site.client.task.get_status(task_id) != "aborted":
            assert time.monotonic() < ends, "the task goes on"
            time.sleep(PATIENCE.interval)
    assert said[0].endswith(f"tasks {task_id}.")
    assert "all ended or killed" in said[1]


def test_histories_are_written_as_those_of_real_servers_were(played: Played) -> None:
    history = played.histories["retry_of_a_failed_task"]
    calls = [entry for entry in history if "call" in entry]
    assert [entry["call"] for entry in calls] == ["task/submit", "task/retry"]
    assert calls[0]["parameters"]["taskName"].endswith(".retry_of_a_failed_task")
    assert (calls[1]["by"], calls[1]["sent"].keys(), calls[1]["answer"]["data"]) == ("bob", {"task_id"}, 0)
    seen = [entry["seen"] for entry in history if "seen" in entry]
    assert seen[0] == {}
    assert (seen[-1]["status"], seen[-1]["taskName is"], seen[-1]["nFilesFailed"]) == ("failed", "ours", 1)
    assert [entry["t"] for entry in history] == sorted(entry["t"] for entry in history)


def test_without_a_server_nothing_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main({}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "No PanDA server is named by PANDA_LIVE_CONN_ID or PANDA_URL_SSL: nothing is checked."
    ]


@pytest.mark.parametrize(
    ("here", "there", "verdict", "code"),
    [
        (Result("s", ("a",), ("a",)), Result("s", ("a",), ("a",)), "same", 0),
        (Result("s", ("a",), ("b",)), Result("s", ("a",), ("a",)), "different", 1),
        (Result("s", ("a",), ("a",)), Result("s", ("a",), ("b",)), "different", 1),
        (Result("s", ("a",), ("b",)), Result("s", ("a",), ("b",)), "same", 1),
        (Result("s", ("a", "c"), ("a",), "c"), Result("s", ("a", "c"), ("a", "c")), "not seen in time", 0),
        (Result("s", ("a", "c"), ("b",), "c"), Result("s", ("a", "c"), ("a", "c")), "different", 1),
        (Result("s", ("a",), skipped="no role"), Result("s", ("a",), ("a",)), "not played", 0),
    ],
)
def test_two_servers_are_compared_with_each_other_and_with_what_is_known(
    here: Result, there: Result, verdict: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare([here], [there]) == code
    row = capsys.readouterr().out.splitlines()[3]
    assert row.endswith(verdict)
