"""What becomes of submissions. The facts that are expected are those of recorded histories of real servers."""

from __future__ import annotations

import secrets
from collections.abc import Generator
from typing import Any

from panda_airflow.check.scenario import Play, Scenario, Wait, scenario_of
from panda_airflow.client.models import Json, Mark
from panda_airflow.client.task_parameters import command_task
from tests.live.stage import Live, Seen

SUBMISSIONS: list[Scenario[Live]] = []
scenario = scenario_of(SUBMISSIONS)

FAILS = "exit 3"
HANGS = "sleep 900"
"""Longer than anybody here waits."""
KEY = "liveCheckKey"
MOST_SAID = 150
"""Characters of an error dialog that are told."""
NO_PARENT = 999_999_999
"""No server has counted its tasks that far, and its database has room for the number."""


def run_to_end(stage: Live, **parameters: Json) -> Play:
    """Submit a task and tell how it ends."""
    task_id = stage.submit(stage.parameters(**parameters))
    seen = yield stage.end(task_id)
    stage.tell(f"{len(seen.jobs)} jobs", seen.status, f"files {seen.info.n_files}", f"attempt {seen.info.attempt_nr}")


@scenario("no input, nEvents 3, 1 per job", "3 jobs", "done", "files 3", "attempt 0", jobs=3)
def _events(stage: Live) -> Play:
    return run_to_end(stage, nEvents=3, nEventsPerJob=1)


@scenario("no input, nFiles 3, 1 per job", "1 jobs", "done", "files 1", "attempt 0", jobs=3)
def _files(stage: Live) -> Play:
    return run_to_end(stage, nFiles=3, nFilesPerJob=1)


@scenario("no input, nEvents 2 and nFiles 2", "2 jobs", "done", "files 2", "attempt 0", jobs=2)
def _both(stage: Live) -> Play:
    return run_to_end(stage, nEvents=2, nEventsPerJob=1, nFiles=2, nFilesPerJob=1)


@scenario("command_task with two jobs", "2 jobs", "done", "files 2", "attempt 0", jobs=2)
def _command_task(stage: Live) -> Play:
    split = command_task(stage.task_name, "true", vo="any", jobs=2)
    names = ("nFiles", "nFilesPerJob", "nEvents", "nEventsPerJob")
    return run_to_end(stage, **{name: split[name] for name in names if name in split})


@scenario("eleven jobs", "scouting", "11 jobs", "done", jobs=11)
def _scouts(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters("sleep 5", nEvents=11, nEventsPerJob=1, skipScout=None))
    seen = yield stage.until(task_id, "scouting", lambda seen: seen.status == "scouting" or seen.is_over)
    stage.tell(seen.status)
    seen = yield stage.end(task_id)
    stage.tell(f"{len(seen.jobs)} jobs", seen.status)


@scenario(
    "before a task is registered",
    "status: NotFound",
    "details: empty",
    "jobs: none",
    "not found by name",
    "parameters at once",
    "kill: PermissionDenied",
    "kill: accepted",
    "stops",
    jobs=1,
)
def _window(stage: Live) -> Play:
    stage.only_plain()
    task_id = stage.submit(stage.parameters(HANGS, **{KEY: stage.name}))
    stage.tell(f"status: {stage.ask('task/get_status', task_id=task_id).word}")
    stage.tell("details: something" if stage.client.task.get_details(task_id).out_ds else "details: empty")
    stage.tell(f"jobs: {stage.client.task.get_job_ids(task_id) or 'none'}")
    stage.tell("found by name" if stage.named() else "not found by name")
    ours = stage.client.task.get_task_parameters(task_id).get(KEY) == stage.name
    stage.tell("parameters at once" if ours else "other parameters")
    stage.command("kill", task_id)
    yield stage.shown(task_id)
    stage.command("kill", task_id)
    yield stage.until(task_id, "a stop", lambda seen: seen.status in ("aborting", "toabort", "aborted"))
    stage.tell("stops")


@scenario(
    "what a task keeps of its parameters",
    "found by name",
    "its key",
    "framework airflow",
    "priority 1000",
    "user as the server knows them",
    "ramCount 2000",
    jobs=1,
)
def _keeps(stage: Live) -> Play:
    stage.only_plain()
    more: dict[str, Json] = {KEY: {"by": [stage.name]}, "framework": "airflow", "userName": "x", "taskPriority": 123}
    task_id = stage.submit(stage.parameters(**more))
    seen = yield stage.until(task_id, "defined", lambda seen: seen.status not in ("", "registered"))
    stage.tell("found by name" if stage.named() == [task_id] else "not found by name")
    kept = stage.client.task.get_task_parameters(task_id).get(KEY)
    stage.tell("its key" if kept == more[KEY] else f"another key: {kept}")
    raw = seen.info.raw
    stage.tell(f"framework {raw.get('framework')}", f"priority {raw.get('taskPriority')}")
    user = stage.client.system.get_user_attributes().name
    stage.tell("user as the server knows them" if seen.info.user_name == user else "another user")
    stage.tell(f"ramCount {raw.get('ramCount')}")


@scenario("one name twice, uniqueTaskName not given", "another task", "done", "done", jobs=2)
def _twice(stage: Live) -> Play:
    parameters = stage.parameters(uniqueTaskName=None)
    tasks = [stage.submit(parameters) for _ in range(2)]
    stage.tell("another task" if len(set(tasks)) == len(tasks) else "the same task")
    for task_id in tasks:
        seen = yield stage.end(task_id)
        stage.tell(seen.status)


@scenario("the name of a task that is queued", "DuplicateTask", "code 1", "names it", jobs=1)
def _name_queued(stage: Live) -> None:
    parameters = stage.parameters()
    task_id = stage.submit(parameters)
    answer = stage.submitted(parameters)
    stage.tell(answer.word, f"code {answer.envelope.data}")
    stage.tell("names it" if f"jediTaskID={task_id} " in answer.envelope.message else "does not name it")


@scenario(
    "a task that runs", "its name: DuplicateTask", "code 2", "retry: accepted", "reload_input: WrongState", jobs=1
)
def _running(stage: Live) -> Play:
    parameters = stage.parameters(HANGS)
    task_id = stage.submit(parameters)
    yield stage.running(task_id)
    answer = stage.submitted(parameters)
    stage.tell(f"its name: {answer.word}", f"code {answer.envelope.data}")
    stage.command("retry", task_id)
    stage.command("reload_input", task_id)


@scenario(
    "the name of a task that is done",
    "reactivation accepted",
    "the same task",
    "done",
    "attempt 0",
    "1 jobs",
    "parameters of the first",
    jobs=1,
)
def _name_done(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(**{KEY: "first"}))
    seen = yield stage.end(task_id)
    mark = Mark.of(seen.info)
    answer = stage.submitted(stage.parameters(**{KEY: "second"}))
    stage.tell(answer.envelope.message.partition(".")[0])
    stage.tell("the same task" if answer.envelope.data == task_id else "another task")
    seen = yield stage.until(task_id, "the end again", lambda seen: seen.is_over and Mark.of(seen.info) != mark)
    stage.tell(seen.status, f"attempt {seen.info.attempt_nr}", f"{len(seen.jobs)} jobs")
    key = stage.client.task.get_task_parameters(task_id).get(KEY)
    stage.tell(f"parameters of the {key}")


@scenario("the name of a task that failed", "failed", "reactivation accepted", "runs again", "attempt 0", jobs=6)
def _name_failed(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(FAILS))
    seen = yield stage.end(task_id)
    stage.tell(seen.status)
    stage.tell(stage.submitted(stage.parameters(FAILS)).envelope.message.partition(".")[0])
    seen = yield stage.until(task_id, "another job", lambda seen: len(seen.jobs) > 1)
    stage.tell("runs again", f"attempt {seen.info.attempt_nr}")


@scenario("a name is missing, or too long", "missing: NotCarriedOut", "too long: NotCarriedOut")
def _bad_name(stage: Live) -> None:
    for what, name in (("missing", None), ("too long", stage.task_name + "x" * 256)):
        stage.tell(f"{what}: {stage.submitted(stage.parameters(taskName=name)).word}")


def broken(stage: Live, task_id: int, words: str) -> Generator[Wait, Any, Seen]:
    """Tell what JEDI says about a task that it breaks, and what is left of the name."""
    seen: Seen = yield stage.end(task_id)
    dialog = seen.info.error_dialog
    stage.tell(seen.status, f"says {words if words in dialog else dialog}"[:MOST_SAID])
    stage.tell("keeps its name" if seen.info.name == stage.task_name else "loses its name")
    return seen


@scenario("an unknown input dataset", "broken", "says unknown input dataset", "keeps its name")
def _unknown_input(stage: Live) -> Play:
    dataset = f"{stage.task_name}.nothere"
    item = {"type": "template", "param_type": "input", "value": '-i "${IN/T}"', "dataset": dataset}
    parameters = stage.parameters()
    items = [*parameters["jobParameters"][:2], item, *parameters["jobParameters"][2:]]
    without: dict[str, Any] = {"noInput": None, "nEvents": None, "nEventsPerJob": None}
    task_id = stage.submit(stage.parameters(jobParameters=items, **without))
    yield from broken(stage, task_id, "unknown input dataset")


@scenario("no job parameters", "broken", "says KeyError:'jobParameters'", "keeps its name")
def _no_job_parameters(stage: Live) -> Play:
    yield from broken(stage, stage.submit(stage.parameters(jobParameters=None)), "KeyError:'jobParameters'")


@scenario("no processingType", "broken", "says post-process permanently failed", "loses its name")
def _no_processing_type(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(processingType=None))
    yield from broken(stage, task_id, "post-process permanently failed")


@scenario("an unknown parent", "broken", "says failed to complete", "keeps its name", jobs=1)
def _unknown_parent(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(), parent_tid=NO_PARENT)
    yield from broken(stage, task_id, "failed to complete")


@scenario("an unknown site", "pending", "says unknown site", "kill: accepted", jobs=1)
def _unknown_site(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(site=f"NOSITE_{secrets.token_hex(4)}"))
    seen = yield stage.until(task_id, "pending", lambda seen: seen.status == "pending" or seen.is_over)
    stage.tell(seen.status)
    stage.tell("says unknown site" if "unknown site" in seen.info.error_dialog else "does not say why")
    stage.command("kill", task_id)


@scenario(
    "production role, no priority",
    "broken",
    "says post-process permanently failed",
    "loses its name",
    "user tobeset",
    "not found by name",
    jobs=1,
)
def _no_priority(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(taskPriority=None), stage.manager)
    seen = yield from broken(stage, task_id, "post-process permanently failed")
    stage.tell(f"user {seen.info.user_name}", "found by name" if stage.named() else "not found by name")


@scenario("production role, with priority", "keeps its name", "user as given", "priority 900", jobs=1)
def _with_priority(stage: Live) -> Play:
    user = stage.site.user
    task_id = stage.submit(stage.parameters(taskPriority=900, userName=user), stage.manager)
    seen = yield stage.until(task_id, "defined", lambda seen: seen.status not in ("", "registered"))
    stage.tell("keeps its name" if seen.info.name == stage.task_name else "loses its name")
    stage.tell("user as given" if seen.info.user_name == user else f"user {seen.info.user_name}")
    stage.tell(f"priority {seen.info.raw.get('taskPriority')}")
