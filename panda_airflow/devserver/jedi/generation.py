"""JEDI's job generator at work: which inputs become jobs when, scouts first where there are many."""

from __future__ import annotations

from datetime import timedelta

from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi import refiner
from panda_airflow.devserver.jedi.generator import generate
from panda_airflow.devserver.jedi.registration import parameters_of
from panda_airflow.devserver.storage import jobs, tasks
from panda_airflow.devserver.storage.store import Row

SCOUTS = 10
"""Jobs that go ahead of the others; a task of no more jobs has no scouts."""

_REST = 10
"""How many times longer than a command JEDI leaves a task alone whose modification time is not back-dated.

So a task that was put back to ``ready`` by ``reactivate``, which changes no time, gets its jobs late: in minutes on a
real server.
"""

AVALANCHE = "ava"
"""Unit of wall time that stands for the command to end the scouting."""


def start(backend: Backend, task: Row) -> None:
    """Begin with a task that has rested; one that has jobs runs from now on."""
    task_id = task["jediTaskID"]
    if jobs.active(backend, task_id):
        tasks.set_status(backend, task_id, "scouting" if _scouts(backend, task) else "running")
    elif task["modificationTime"] <= backend.clock() - _rest(backend):
        begin(backend, task)


def _rest(backend: Backend) -> timedelta:
    return min(timedelta(seconds=_REST * backend.pace.command), tasks.AT_ONCE)


def begin(backend: Backend, task: Row) -> None:
    """Broker a task and make its first jobs, or let it end if nothing is left to do."""
    task_id = task["jediTaskID"]
    if task["site"] and task["site"] not in refiner.SITES:
        _park(backend, task)
    elif generate(backend, task, _scouts(backend, task)):
        tasks.lock(backend, task_id)
    else:
        _prepare(backend, task_id)


def _scouts(backend: Backend, task: Row) -> int | None:
    """Say how many inputs go ahead with the scouts; ``None`` where there is no scouting, or not any more."""
    task_id, parameters = task["jediTaskID"], parameters_of(backend, task["jediTaskID"])
    if parameters.get("skipScout"):
        return None
    dataset = refiner.master(backend, task_id)
    by_files = dataset is not None and dataset["type"] == "input"
    scouts = SCOUTS * int((parameters.get("nFilesPerJob") if by_files else None) or 1)
    counted = backend.store.row(
        "SELECT COUNT(*) AS number, COUNT(PandaID) AS taken, "  # noqa: S608 - constant
        f"COALESCE(SUM(status = 'finished'), 0) AS finished FROM contents WHERE {tasks.INPUTS}",
        task_id,
    )
    first_pass = counted and counted["number"] > scouts >= counted["taken"] and not counted["finished"]
    return scouts if first_pass else None


def _park(backend: Backend, task: Row) -> None:
    task_id = task["jediTaskID"]
    why = f"unknown site={task['site']}. brokerage failed for 1 input datasets when trying 1 datasets."
    log = backend.cache / "jedilog" / str(task_id)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{why}\n")
    said = f'<a href="{backend.base_url}/cache/jedilog/{task_id}">log</a> : {why}'
    tasks.set_status(backend, task_id, "pending", oldStatus="ready", errorDialog=said, frozenTime=backend.clock())


def run(backend: Backend, task: Row) -> None:
    """Make jobs of whatever is ready; with no job and no input left, the task is prepared for its end."""
    task_id = task["jediTaskID"]
    if generate(backend, task):
        now = tasks.modification_time("running", backend.clock())
        backend.store.update("tasks", "jediTaskID", task_id, modificationTime=now)
    elif not jobs.active(backend, task_id):
        _prepare(backend, task_id)


def _prepare(backend: Backend, task_id: int) -> None:
    tasks.set_status(backend, task_id, "prepared", errorDialog=None, oldStatus=None)


def scout(backend: Backend, task: Row) -> None:
    """Repeat the scouts that failed while they have attempts left; one that succeeded opens the way for all others."""
    task_id = task["jediTaskID"]
    if task["walltimeUnit"] == AVALANCHE:
        tasks.set_status(backend, task_id, "scouted", errorDialog=None, walltimeUnit=None)
    elif jobs.active(backend, task_id) or generate(backend, task, _taken(backend, task_id)):
        return
    elif tasks.count_inputs(backend, task_id).get("finished"):
        tasks.set_status(backend, task_id, "scouted", errorDialog=None)
    else:
        tasks.set_status(backend, task_id, "tobroken", errorDialog="no scout jobs succeeded")


def _taken(backend: Backend, task_id: int) -> int:
    """Count the inputs that went ahead with the scouts."""
    return int(backend.store.value(f"SELECT COUNT(PandaID) FROM contents WHERE {tasks.INPUTS}", task_id))  # noqa: S608
