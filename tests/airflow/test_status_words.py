"""A misspelt status fails the DAG, not the task; a task whose work is all done satisfies whoever accepts less."""

from __future__ import annotations

from typing import Any

import pytest

from panda_airflow.client import UsageError
from panda_airflow.client.status import check_statuses
from panda_airflow.operators.command import PandaKillTaskOperator
from panda_airflow.operators.idds import PandaIddsCommandOperator
from panda_airflow.operators.job import PandaSubmitJobsOperator
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.idds import PandaWaitIddsRequestSensor
from panda_airflow.sensors.job import PandaWaitJobStatusSensor
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.task_groups import panda_task_group
from panda_airflow.triggers.events import PandaTaskEventTrigger
from tests.airflow.conftest import Memory, Panda, task, unnamed
from tests.support.submitting import submit

pytestmark = pytest.mark.usefixtures("impatient")

STEPS: list[tuple[Any, str, dict[str, Any]]] = [
    (PandaSubmitTaskOperator, "statuses", {"task_parameters": {}}),
    (PandaRetryTaskOperator, "statuses", {"jedi_task_id": 1}),
    (PandaKillTaskOperator, "statuses", {"jedi_task_id": 1}),
    (PandaWaitTaskStatusSensor, "statuses", {"jedi_task_id": 1}),
    (PandaSubmitJobsOperator, "statuses", {"jobs": []}),
    (PandaWaitJobStatusSensor, "statuses", {"job_ids": 1}),
    (PandaIddsCommandOperator, "statuses", {"command": "abort"}),
    (PandaWaitIddsRequestSensor, "statuses", {"request_id": 1}),
]


@pytest.mark.parametrize(("kind", "argument", "more"), STEPS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_word_that_is_none_fails_the_parsing_of_the_dag(kind: Any, argument: str, more: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"{argument} of fit: 'job_word' is no status of a .*; the nearest is"):
        kind(task_id="fit", **more, **{argument: ("job_word",)})
    with pytest.raises(UsageError, match="cannot be templates"):
        kind(task_id="fit", **more, **{argument: "{{ params.status }}"})


@pytest.mark.parametrize(("kind", "argument", "more"), STEPS, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("words", [(), [["done"]], [None], 7], ids=str)
def test_what_nothing_could_satisfy_fails_the_parsing_of_the_dag(
    kind: Any, argument: str, more: dict[str, Any], words: Any
) -> None:
    with pytest.raises(UsageError, match=f"{argument} of fit"):
        kind(task_id="fit", **more, **{argument: words})


@pytest.mark.parametrize(("kind", "word", "meant"), [("job", "done", "finished"), ("task", "cancelled", "aborted")])
def test_a_word_of_another_kind_names_what_was_meant(kind: str, word: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"the nearest is '{meant}'"):
        check_statuses([word], "statuses of fit", kind)


def test_groups_and_watchers_are_told_too() -> None:
    with pytest.raises(UsageError, match="statuses of fit: 'dome' is no status of a task"):
        panda_task_group("fit", task_parameters={}, statuses="dome")
    with pytest.raises(UsageError, match="the nearest is 'done'"):
        PandaTaskEventTrigger(statuses=["dome"])


def test_a_done_task_satisfies_a_step_that_accepts_less_and_is_never_submitted_anew(
    panda: Panda, memory: Memory
) -> None:
    for statuses in ("finished", ("finished",), ("failed",)):
        result = submit(memory, unnamed(task()), wait=True, statuses=statuses)
        assert (result["status"], panda.submitted()) == ("done", [result["jedi_task_id"]])


def test_a_sensor_that_accepts_partly_done_accepts_done(panda: Panda, memory: Memory) -> None:
    task_id = panda.client.task.submit(task()).task_id
    panda.wait(task_id)
    sensor = PandaWaitTaskStatusSensor(task_id="wait", jedi_task_id=task_id, statuses="finished", poke_interval=0.1)
    assert sensor.execute(memory())["status"] == "done"
