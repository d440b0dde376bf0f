"""One step in the life of a task, for every status in which JEDI has something to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import uuid4

from panda_airflow.client.models import Json
from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.devserver import jobs, refiner, tasks
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.generator import generate
from panda_airflow.devserver.registration import parameters_of
from panda_airflow.devserver.store import Row

SCOUTS = 10
"""Jobs that go ahead of the others, unless the task skips them."""

_NOBODY = "tobeset"

Step = Callable[[Backend, Row], None]


def register(backend: Backend, before: datetime) -> None:
    """Make a task of every submission whose registration window has passed.

    Until it is refined the task has neither its name nor its owner.

    :param before: time of submission up to which it has, naive UTC.
    :raises DatabaseDown: the database is down.
    """
    sql = "SELECT * FROM submissions WHERE status = 'waiting' AND submitTime <= ? ORDER BY jediTaskID"
    for submission in backend.store.rows(sql, before):
        task_id, now = submission["jediTaskID"], backend.clock()
        with backend.store.transaction():
            backend.store.insert(
                "tasks",
                jediTaskID=task_id,
                taskName=str(uuid4()),
                status="registered",
                userName=_NOBODY,
                creationDate=submission["submitTime"],
                modificationTime=now,
                stateChangeTime=now,
                reqID=task_id,
                parent_tid=submission["parent_tid"] or task_id,
            )
            backend.store.update("submissions", "jediTaskID", task_id, status="registered")


def _refine(backend: Backend, task: Row) -> None:
    task_id, parameters = task["jediTaskID"], parameters_of(backend, task["jediTaskID"]) or {}
    try:
        refined = refiner.refine(parameters)
        if twins := _twins(backend, task_id, parameters):
            said = f"toabort since there is duplicated task -> jediTaskID={twins}"
            columns = refined.attributes | {"taskName": None, "errorDialog": said}
            tasks.set_status(backend, task_id, "toabort", **columns)
        elif _waits_for_parent(backend, task):
            _hold(backend, task, refined, f"pending until parent task {task['parent_tid']} is done")
        else:
            _define(backend, task, refined)
    except refiner.CannotRefine as error:
        break_task(backend, task_id, str(error))


def _define(backend: Backend, task: Row, refined: refiner.Refined) -> None:
    try:
        refiner.feed(backend, task["jediTaskID"], refined)
    except refiner.InputMissing as error:
        if not refined.parameters.get("waitInput"):
            raise
        _hold(backend, task, refined, str(error))
    else:
        columns = refined.attributes | {"startTime": backend.clock(), "oldStatus": None, "errorDialog": None}
        tasks.set_status(backend, task["jediTaskID"], "defined", **columns)


def _hold(backend: Backend, task: Row, refined: refiner.Refined, why: str) -> None:
    if task["status"] != "pending":
        columns = refined.attributes | {"oldStatus": "registered", "errorDialog": why}
        tasks.set_status(backend, task["jediTaskID"], "pending", **columns)


def _twins(backend: Backend, task_id: int, parameters: dict[str, Json]) -> str:
    """List the other tasks of this name that were refined before; production tasks meet them only here."""
    if parameters.get("uniqueTaskName") is not True:
        return ""
    rows = backend.store.rows(
        "SELECT jediTaskID FROM tasks WHERE userName = ? AND taskName = ? AND jediTaskID <> ?",
        parameters["userName"],
        parameters["taskName"],
        task_id,
    )
    return ",".join(str(row["jediTaskID"]) for row in rows)


def _waits_for_parent(backend: Backend, task: Row) -> bool:
    if task["parent_tid"] == task["jediTaskID"]:
        return False
    parent = tasks.get(backend, task["parent_tid"])
    if parent and parent["status"] in ("failed", "broken", "aborted"):
        raise refiner.CannotRefine(f"parent task {task['parent_tid']} failed to complete")
    return parent is None or parent["status"] not in FINAL_STATUSES


def break_task(backend: Backend, task_id: int, why: str) -> None:
    """Give a task up as broken.

    One that breaks in refinement never gets its name, which stays reserved all the same.

    :param why: for the error dialog.
    :raises DatabaseDown: the database is down.
    """
    tasks.set_status(backend, task_id, "broken", errorDialog=why)


def _to(status: str) -> Step:
    def step(backend: Backend, task: Row) -> None:
        tasks.set_status(backend, task["jediTaskID"], status)

    return step


def _start(backend: Backend, task: Row) -> None:
    """Broker the task and make its first jobs."""
    if task["site"] and task["site"] not in refiner.SITES:
        _park(backend, task)
        return
    parameters = parameters_of(backend, task["jediTaskID"]) or {}
    scouting = not parameters.get("skipScout") and not task["attemptNr"]
    generate(backend, task, SCOUTS if scouting else None)
    tasks.set_status(backend, task["jediTaskID"], "scouting" if scouting else "running", activatedTime=backend.clock())


def _park(backend: Backend, task: Row) -> None:
    task_id = task["jediTaskID"]
    why = f"unknown site={task['site']}. brokerage failed for 1 input datasets when trying 1 datasets."
    log = backend.cache / "jedilog" / str(task_id)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"{why}\n")
    said = f'<a href="{backend.base_url}/cache/jedilog/{task_id}">log</a> : {why}'
    tasks.set_status(backend, task_id, "pending", oldStatus="ready", errorDialog=said, frozenTime=backend.clock())


def _run(backend: Backend, task: Row) -> None:
    """Make jobs of whatever is ready; with no job and no input left, finish."""
    if not generate(backend, task) and not jobs.active(backend, task["jediTaskID"]):
        tasks.set_status(backend, task["jediTaskID"], "prepared")


def _scout(backend: Backend, task: Row) -> None:
    task_id = task["jediTaskID"]
    if jobs.active(backend, task_id):
        return
    inputs = tasks.count_inputs(backend, task_id)
    again = backend.store.value(
        "SELECT COUNT(*) FROM contents WHERE jediTaskID = ? AND status = 'ready' AND attemptNr > 0", task_id
    )
    if inputs.get("finished"):
        tasks.set_status(backend, task_id, "scouted")
    elif again:
        generate(backend, task, min(again, SCOUTS))
    else:
        tasks.set_status(backend, task_id, "tobroken", errorDialog="no scout jobs succeeded")


def _finish(backend: Backend, task: Row) -> None:
    if not jobs.active(backend, task["jediTaskID"]):
        tasks.set_status(backend, task["jediTaskID"], "passed")


def _conclude(backend: Backend, task: Row) -> None:
    """Give the task the final status that its inputs deserve."""
    inputs = tasks.count_inputs(backend, task["jediTaskID"])
    finished, total = inputs.get("finished", 0), sum(inputs.values())
    if not finished:
        said = "failed since no file was successfully processed"
        tasks.set_status(backend, task["jediTaskID"], "failed", errorDialog=said)
    else:
        tasks.set_status(backend, task["jediTaskID"], "done" if finished == total else "finished", errorDialog=None)


def _abort(backend: Backend, task: Row) -> None:
    running = jobs.active(backend, task["jediTaskID"])
    for job in running:
        jobs.kill(backend, job, "JEDI")
    if not running:
        tasks.set_status(backend, task["jediTaskID"], "toabort")


def _reassign(backend: Backend, task: Row) -> None:
    if not any(job["commandToPilot"] for job in jobs.active(backend, task["jediTaskID"])):
        tasks.set_status(backend, task["jediTaskID"], "ready", oldStatus=None, errorDialog=None)


def _retry(backend: Backend, task: Row) -> None:
    _again(backend, task, "ready")


def _refine_again(backend: Backend, task: Row) -> None:
    parameters = parameters_of(backend, task["jediTaskID"]) or {}
    try:
        refiner.add_inputs(backend, task["jediTaskID"], parameters)
    except refiner.CannotRefine as error:
        break_task(backend, task["jediTaskID"], str(error))
        return
    attributes = {name: parameters[name] for name in ("site", "cloud", "ramCount") if name in parameters}
    tasks.set_status(backend, task["jediTaskID"], "defined", **attributes)


def _again(backend: Backend, task: Row, status: str) -> None:
    """Begin another attempt of a task that had ended."""
    parameters = parameters_of(backend, task["jediTaskID"]) or {}
    attempts = int(parameters.get("maxAttempt") or refiner.DEFAULT_MAX_ATTEMPT)
    tasks.retry_failed_inputs(backend, task["jediTaskID"], attempts)
    tasks.set_status(
        backend,
        task["jediTaskID"],
        status,
        attemptNr=task["attemptNr"] + 1,
        oldStatus=None,
        errorDialog=None,
        endTime=None,
    )


STEPS: dict[str, Step] = {
    "registered": _refine,
    "pending": _refine,
    "defined": _to("ready"),
    "ready": _start,
    "scouting": _scout,
    "scouted": _to("running"),
    "running": _run,
    "prepared": _conclude,
    "finishing": _finish,
    "passed": _conclude,
    "aborting": _abort,
    "toabort": _to("aborted"),
    "tobroken": _to("broken"),
    "toretry": _retry,
    "toincexec": lambda backend, task: _again(backend, task, "rerefine"),
    "rerefine": _refine_again,
    "toreassign": _reassign,
}
"""What JEDI does with a task in each status."""
