"""Server module ``task``, as a client sees it."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from panda_airflow.client.models import Envelope, Json
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.handlers.task_queries import (
    get_datasets_and_files,
    get_detailed_info,
    get_details,
    get_job_descriptions,
    get_job_ids,
    get_jumbo_job_datasets,
    get_parent_detailed_info,
    get_status,
    get_task_parameters,
    get_tasks_detailed_info_since,
    get_tasks_modified_since,
)
from panda_airflow.devserver.jedi.commands import (
    NOT_FOUND,
    REACTIVATION,
    REFUSED,
    REGISTERED,
    RETRIES_JOBS,
    SERVER_ERROR,
    acceptance,
    comment,
    refusal,
)
from panda_airflow.devserver.jedi.generation import begin
from panda_airflow.devserver.jedi.registration import (
    FAILED,
    NEW_TASK,
    RETRIED_JOBS,
    put_command,
    register,
    submitted_parameters,
)
from panda_airflow.devserver.storage import jobs, tasks
from panda_airflow.devserver.storage.store import DatabaseDown

__all__ = [
    "avalanche",
    "change_attribute",
    "change_modification_time",
    "change_priority",
    "change_split_rule",
    "disable_job_cloning",
    "enable_job_cloning",
    "enable_jumbo_jobs",
    "finish",
    "get_datasets_and_files",
    "get_detailed_info",
    "get_details",
    "get_job_descriptions",
    "get_job_ids",
    "get_jumbo_job_datasets",
    "get_parent_detailed_info",
    "get_status",
    "get_task_parameters",
    "get_tasks_detailed_info_since",
    "get_tasks_modified_since",
    "increase_attempts",
    "kill",
    "kill_unfinished_jobs",
    "pause",
    "reactivate",
    "reassign",
    "reassign_global_share",
    "release",
    "reload_input",
    "resume",
    "retry",
    "submit",
]

_ATTRIBUTES = ["ramCount", "wallTime", "cpuTime", "coreCount"]
_SPLIT_RULES = [
    "AI", "TW", "EC", "MF", "NG", "NI", "NF", "ES", "NJ", "AV", "IL", "LI", "LC", "CC", "OT", "UZ", "IM", "NP",
]  # fmt: skip
_NO_TASK = Envelope(False, "Task not found")
_MORE_ATTEMPTS = 5
_SHARE = "root"


def _must(caller: Identity | None) -> Identity:
    """Say that validation has let only callers with an identity through."""
    if caller is None:
        raise RuntimeError("this method was called without an identity")
    return caller


def _command(
    backend: Backend,
    caller: Identity | None,
    task_id: int,
    command: str,
    said: str | None = None,
    **parameters: Json,
) -> Envelope:
    """Register a command if the task's status allows it.

    :param said: what stands in the task's error dialog when the command is executed; who gave it if not given.
    """
    said = said or comment(command, _must(caller).name)
    try:
        with backend.store.transaction():
            task = tasks.get(backend, task_id)
            if task is None:
                return Envelope(False, f"jediTaskID={task_id} not found", NOT_FOUND)
            words = refusal(command, task["status"], production=_must(caller).production)
            if words:
                return Envelope(False, words, REFUSED)
            put_command(backend, task_id, command, parameters, said)
    except DatabaseDown:
        return Envelope(False, "failed to register command", SERVER_ERROR)
    return Envelope(True, acceptance(command, task_id), REGISTERED)


def submit(
    backend: Backend, caller: Identity | None, task_parameters: dict[str, Json], parent_tid: int | None = None
) -> Envelope:
    """Store a task; JEDI takes it later."""
    try:
        code, message, task_id = register(backend, _must(caller), task_parameters, parent_tid)
    except DatabaseDown:
        (code, message), task_id = FAILED, None
    accepted = code in (NEW_TASK, REACTIVATION)
    return Envelope(accepted, message, task_id if accepted else code)


def kill(backend: Backend, caller: Identity | None, task_id: int, broadcast: bool = False) -> Envelope:
    """Register the command to kill a task."""
    return _command(backend, caller, task_id, "kill")


def finish(
    backend: Backend, caller: Identity | None, task_id: int, soft: bool = False, broadcast: bool = False
) -> Envelope:
    """Register the command to finish a task, after its running jobs if soft."""
    said = comment("finish", _must(caller).name, *(["soft"] if soft else []))
    return _command(backend, caller, task_id, "finish", said, soft=soft)


def retry(
    backend: Backend,
    caller: Identity | None,
    task_id: int,
    new_parameters: dict[str, Json] | str | None = None,
    no_child_retry: bool = False,
    discard_events: bool = False,
    disable_staging_mode: bool = False,
    keep_gshare_priority: bool = False,
    ignore_hard_exhausted: bool = False,
) -> Envelope:
    """Register the command to retry a task; the reply says success whatever its code.

    Child tasks are not retried with it here.
    """
    user = _must(caller)
    if new_parameters:
        return _retry_with(backend, user, task_id, new_parameters)
    given = {
        "sole": no_child_retry, "discard": discard_events, "staged": disable_staging_mode,
        "keep": keep_gshare_priority, "transcend": ignore_hard_exhausted and user.production,
    }  # fmt: skip
    said = comment("retry", user.name, *(name for name, wanted in given.items() if wanted))
    reply = _command(backend, caller, task_id, "retry", said)
    task = tasks.get(backend, task_id) if reply.data == REFUSED else None
    if task and task["status"] in RETRIES_JOBS and task["prodSourceLabel"] == "user":
        return _retry_jobs(backend, task_id, task["status"], REGISTERED)
    return Envelope(True, reply.message, reply.data)


def _retry_jobs(backend: Backend, task_id: int, status: str, code: int) -> Envelope:
    tasks.increase_attempts(backend, task_id, _MORE_ATTEMPTS)
    words = f"retry has been triggered for failed jobs while the task is still {status}"
    return Envelope(True, words, code)


def _retry_with(backend: Backend, caller: Identity, task_id: int, new_parameters: dict[str, Json] | str) -> Envelope:
    """Run a task again with other parameters; what was submitted is the base, not what an earlier retry changed.

    :raises ValueError: the parameters are text, but no JSON, which is a 500 as on a real server.
    """
    changes = json.loads(new_parameters) if isinstance(new_parameters, str) else new_parameters
    try:
        merged = (submitted_parameters(backend, task_id) or {}) | changes
        code, message, _ = register(backend, caller, merged, active_too=True)
    except (LookupError, TypeError) as error:
        return Envelope(True, f"new parameter conversion failed with {error}", SERVER_ERROR)
    except DatabaseDown:
        code, message = FAILED
    if code == RETRIED_JOBS:
        return _retry_jobs(backend, task_id, message, REACTIVATION)
    return Envelope(True, message, code)


def pause(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """Register the command to pause a task."""
    return _command(backend, caller, task_id, "pause")


def resume(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """Register the command to resume a paused task."""
    return _command(backend, caller, task_id, "resume")


def release(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """Register the command to release files that are being staged; there is nothing to stage here."""
    return _command(backend, caller, task_id, "release")


def avalanche(backend: Backend, caller: Identity | None, task_id: int) -> Envelope:
    """Register the command to skip scouting."""
    return _command(backend, caller, task_id, "avalanche")


def reassign(
    backend: Backend,
    caller: Identity | None,
    task_id: int,
    site: str | None = None,
    cloud: str | None = None,
    nucleus: str | None = None,
    mode: str | None = None,
) -> Envelope:
    """Register the command to move a task elsewhere; anybody may."""
    if site is not None:
        said = f"site:{site}:y"
    else:
        said = f"nucleus:{nucleus}:n" if nucleus is not None else f"cloud:{cloud}:n"
    said += f":{mode} reassign" if mode in ("nokill", "soft") else ""
    return _command(backend, caller, task_id, "reassign", said, site=site, cloud=cloud, nucleus=nucleus, mode=mode)


def reload_input(
    backend: Backend, caller: Identity | None, task_id: int, ignore_hard_exhausted: bool = False
) -> Envelope:
    """Register the command to look for new input, in any ended task that is not broken; anybody may."""
    said = json.dumps([{}, ["transcend"] if ignore_hard_exhausted else []])
    return _command(backend, caller, task_id, "incexec", said)


def reactivate(
    backend: Backend,
    caller: Identity | None,
    task_id: int,
    keep_attempt_nr: bool = False,
    trigger_job_generation: bool = False,
) -> Envelope:
    """Put a task back to ``ready`` from the beginning.

    Nothing but the status changes, so JEDI makes jobs late, unless it is triggered: it leaves a task alone that was
    modified not long ago.
    """
    try:
        with backend.store.transaction():
            number = tasks.reset_inputs(backend, task_id, keep_attempts=keep_attempt_nr)
            backend.store.update("tasks", "jediTaskID", task_id, status="ready")
            task = tasks.get(backend, task_id)
            if trigger_job_generation and task:
                begin(backend, task)
    except DatabaseDown:
        return Envelope(False, "DB error", SERVER_ERROR)
    return Envelope(True, f"updated {number} inputs and task {task_id} was reactivated ", REGISTERED)


def increase_attempts(backend: Backend, caller: Identity | None, task_id: int, increase: int) -> Envelope:
    """Allow the jobs of an active task more attempts."""
    if increase < 0:
        return Envelope(False, f"increase must be a positive integer, got {increase}")
    allowed = ["running", "scouting", "ready"]
    try:
        task = tasks.get(backend, task_id)
        if task is None:
            return Envelope(False, f"jediTaskID={task_id} not found", SERVER_ERROR)
        status, old = task["status"], task["oldStatus"]
        if status not in allowed and old not in allowed:
            words = f"command rejected since status={status} or oldStatus={old} not in {allowed}"
            return Envelope(False, words, NOT_FOUND)
        number, again = tasks.increase_attempts(backend, task_id, increase)
    except DatabaseDown:
        return Envelope(False, "DB error", SERVER_ERROR)
    return Envelope(True, f"increased attemptNr for {number} inputs ({again} reactivated)", REGISTERED)


def _change(backend: Backend, task_id: int, **columns: Any) -> Envelope:
    try:
        changed = backend.store.update("tasks", "jediTaskID", task_id, **columns)
    except DatabaseDown:
        return Envelope(False, "Exception while changing the attribute")
    return Envelope(True, f"{changed} tasks changed") if changed else _NO_TASK


def change_attribute(
    backend: Backend, caller: Identity | None, task_id: int, attribute_name: str, value: int
) -> Envelope:
    """Change one of the resources that a task asks for."""
    if attribute_name not in _ATTRIBUTES:
        return Envelope(False, f"{attribute_name} is not a valid attribute. Valid attributes are {_ATTRIBUTES}")
    return _change(backend, task_id, **{attribute_name: value})


def change_modification_time(backend: Backend, caller: Identity | None, task_id: int, hour_offset: int) -> Envelope:
    """Turn the clock of a task."""
    try:
        return _change(backend, task_id, modificationTime=backend.clock() + timedelta(hours=hour_offset))
    except OverflowError:
        return Envelope(False, f"failed to convert {hour_offset} to time")


def change_priority(backend: Backend, caller: Identity | None, task_id: int, priority: int) -> Envelope:
    """Change the priority of a task and of its jobs that have not started."""
    reply = _change(backend, task_id, currentPriority=priority)
    if reply.success:
        backend.store.run(
            "UPDATE jobs SET currentPriority = ? WHERE jediTaskID = ? AND jobStatus IN ('defined', 'activated')",
            priority,
            task_id,
        )
    return reply


def change_split_rule(
    backend: Backend, caller: Identity | None, task_id: int, attribute_name: str, value: str
) -> Envelope:
    """Change how a task is split into jobs."""
    if attribute_name not in _SPLIT_RULES:
        words = f"{attribute_name} is not a valid attribute. Valid attributes are {_SPLIT_RULES}"
        return Envelope(False, words, NOT_FOUND)
    try:
        rule = backend.store.value("SELECT splitRule FROM tasks WHERE jediTaskID = ?", task_id)
    except DatabaseDown:
        return Envelope(False, "Exception while changing the split rule")
    kept = [part for part in (rule or "").split(",") if part and not part.startswith(f"{attribute_name}=")]
    return _change(backend, task_id, splitRule=",".join([*kept, f"{attribute_name}={value}"]))


def kill_unfinished_jobs(
    backend: Backend,
    caller: Identity | None,
    task_id: int,
    code: int | None = None,
    use_email_as_id: bool = False,
) -> Envelope:
    """Kill the jobs of a task that have not ended; the list says of each job whether it was."""
    user = _must(caller)
    try:
        found = backend.store.rows("SELECT * FROM jobs WHERE jediTaskID = ? ORDER BY PandaID", task_id)
        return Envelope(True, "", [jobs.kill_for(backend, user, job, code) for job in found])
    except DatabaseDown:
        return Envelope(True, "", [])


def reassign_global_share(
    backend: Backend, caller: Identity | None, task_id_list: list[int], share: str, reassign_running_jobs: bool
) -> Envelope:
    """Move tasks to another global share; there is only ``root`` here."""
    if share != _SHARE:
        return Envelope(False, f"Share {share} is not a leave share ", SERVER_ERROR)
    for task_id in task_id_list:
        backend.store.update("tasks", "jediTaskID", task_id, gshare=share)
    return Envelope(True, "OK", REGISTERED)


def enable_job_cloning(
    backend: Backend,
    caller: Identity | None,
    jedi_task_id: int,
    mode: str | None = None,
    multiplicity: int | None = None,
    num_sites: int | None = None,
) -> Envelope:
    """Accept that jobs be cloned; the embedded server makes no clones."""
    return Envelope(True, None)  # type: ignore[arg-type]


def enable_jumbo_jobs(
    backend: Backend,
    caller: Identity | None,
    task_id: int,
    jumbo_jobs_total: int,
    jumbo_jobs_per_site: int | None = None,
) -> Envelope:
    """Break as panda-server 1.0.4 does.

    :raises AttributeError: always.
    """
    raise AttributeError("'int' object has no attribute 'subprocess_env'")


def disable_job_cloning(backend: Backend, caller: Identity | None, jedi_task_id: int) -> Envelope:
    """Accept that jobs be no longer cloned."""
    return Envelope(True, None)  # type: ignore[arg-type]
