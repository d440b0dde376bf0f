"""What each step that can defer needs of a server, and its arguments."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from panda_airflow.hooks.panda import PandaHook
from tests.airflow.conftest import (
    Panda,
    fails_once,
    task,
    unnamed,
)
from tests.support.commanding import partly_failed


def task_with_lost_file(panda: Panda) -> tuple[int, Path]:
    task_id = panda.client.task.submit(task("echo 125 > mass.txt", outputs=["mass.txt"])).task_id
    panda.wait(task_id, ("done",))
    [output] = panda.client.task.get_datasets_and_files(task_id, ["output"])
    lost = panda.server.backend.cache / output.files[0].lfn
    lost.unlink()
    return task_id, lost


def job(command: str, **more: Any) -> dict[str, Any]:
    """Describe a job that belongs to no task."""
    return {"prodSourceLabel": "user", "VO": "wlcg", "jobParameters": f'-j "" -p "{quote(command)}"', **more}


DATA = Path(__file__).parents[1] / "data"


IDDS = {item["note"]: item["body"] for item in json.loads((DATA / "idds_legacy.json").read_text())}


def request_in(status: str) -> str:
    [answer, [request]] = json.loads(IDDS["get_requests"])
    request["status"]["attributes"]["_name_"] = status
    return json.dumps([answer, [request]])


Arguments = dict[str, Any]


def running(panda: Panda) -> int:
    return reached(panda, "running", "sleep 60")


def reached(panda: Panda, status: str, command: str = "true") -> int:
    task_id = panda.client.task.submit(task(command)).task_id
    panda.wait(task_id, (status,))
    return task_id


def paused(panda: Panda) -> int:
    task_id = running(panda)
    PandaHook().client.task.pause(task_id)  # as Airflow knows the server, with the production role
    panda.wait(task_id, ("paused",))
    return task_id


def jobs_of(panda: Panda, task_id: int) -> list[int]:
    return panda.client.task.get_job_ids(task_id)


SCENES: dict[str, Callable[[Panda], Arguments]] = {
    "PandaSubmitTaskOperator": lambda panda: {"task_parameters": unnamed(task(taskPriority=1000))},
    "PandaRetryTaskOperator": lambda panda: {"jedi_task_id": reached(panda, "finished", fails_once(panda.server.root))},
    "PandaKillTaskOperator": lambda panda: {"jedi_task_id": running(panda)},
    "PandaFinishTaskOperator": lambda panda: {"jedi_task_id": running(panda), "statuses": ["failed"]},
    "PandaPauseTaskOperator": lambda panda: {"jedi_task_id": running(panda)},
    "PandaResumeTaskOperator": lambda panda: {"jedi_task_id": paused(panda), "statuses": ["running"]},
    "PandaReactivateTaskOperator": lambda panda: {"jedi_task_id": reached(panda, "done")},
    "PandaReloadInputOperator": lambda panda: {"jedi_task_id": reached(panda, "done")},
    "PandaIncreaseAttemptsOperator": lambda panda: {
        "jedi_task_id": partly_failed(panda, f"{fails_once(panda.server.root)}; sleep 60"),
        "increase": 1,
        "wait_for_completion": True,
        "statuses": ["running"],
    },
    "PandaFileRecoveryOperator": lambda panda: {"jedi_task_id": task_with_lost_file(panda)[0]},
    "PandaSubmitJobsOperator": lambda panda: {"jobs": [job("true")]},
    "PandaKillJobsOperator": lambda panda: {"job_ids": jobs_of(panda, reached(panda, "done"))},
    "PandaWaitTaskStatusSensor": lambda panda: {"jedi_task_id": [reached(panda, "done")]},
    "PandaWaitJobStatusSensor": lambda panda: {"job_ids": jobs_of(panda, reached(panda, "done"))},
    "PandaServerSensor": lambda panda: {},
}
"""What the embedded server has to hold for a step, and the step's arguments."""
