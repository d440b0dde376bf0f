"""What another version of the package has stored is read, with fields that are missing or new: no step fails for it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from panda_airflow.client import ServerError
from panda_airflow.operators.workflow import PandaSubmitWorkflowOperator
from panda_airflow.sensors.job import PandaWaitJobStatusSensor
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.steps.once import at_most_once
from tests.airflow.conftest import Memory, Panda, task

STORED: list[tuple[str, dict[str, Any], bool]] = [
    ("panda_clears", {"ended": 1}, True),
    ("panda_clears", {"clears": 2, "max_tries": 2, "news": 1}, True),
    ("panda_once", {"clears": 2, "news": 1}, False),
    ("panda_once", {"sent": True}, True),  # before a clear
]


@pytest.mark.parametrize(("key", "value", "sends"), STORED)
def test_a_request_is_made_at_most_once_whatever_is_remembered_of_it(
    panda: Panda, memory: Memory, key: str, value: dict[str, Any], sends: bool
) -> None:
    memory.store.values[key] = json.dumps(value)
    step, sent = PandaSubmitWorkflowOperator(task_id="flow", workflow_definition={}), list[int]()
    with suppress(AirflowFailException):
        at_most_once(step, memory(), "the request", lambda: sent.append(1))
    assert bool(sent) == sends


def run_of(panda: Panda) -> tuple[int, list[int]]:
    """Run a task; return it and its jobs."""
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    panda.wait(task_id, ("running",))
    return task_id, panda.client.task.get_job_ids(task_id)


@pytest.mark.parametrize("stored", [{}, {"seen": {"news": 1}, "news": 1}], ids=["earlier", "later"])
def test_a_sensor_goes_on_with_what_it_has_seen(panda: Panda, memory: Memory, stored: dict[str, Any]) -> None:
    task_id, jobs = run_of(panda)
    sensors: dict[str, Any] = {
        "panda_watches": PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=task_id),
        "panda_poll": PandaWaitJobStatusSensor(task_id="sense", job_ids=jobs),
    }
    for key, sensor in sensors.items():
        context = memory()
        memory.store.values[key] = json.dumps({"try": memory.tries} | stored)
        assert not sensor.poke(context).is_done
        assert memory.store.get(key)["since"] > 0


def test_a_sensor_knows_each_watch_of_a_later_version(panda: Panda, memory: Memory) -> None:
    task_id, _ = run_of(panda)
    context = memory()
    watch = json.dumps({"status": "running", "news": 1})
    memory.store.values["panda_watches"] = json.dumps({"try": 1, "since": 1.0, "seen": {"waiting": {watch: [task_id]}}})
    sensor: Any = PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=task_id)
    assert not sensor.poke(context).is_done


def test_failures_that_a_later_version_has_counted_are_read(panda: Panda, memory: Memory) -> None:
    sensor = PandaWaitTaskStatusSensor(task_id="sense", jedi_task_id=1)
    counted = sensor._unread({"number": 1, "since": 1.0, "news": 1}, ServerError("Nothing can be read."))
    assert counted == {"number": 2, "since": 1.0}
