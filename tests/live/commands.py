"""What becomes of commands. The facts that are expected are those of recorded histories of real servers."""

from __future__ import annotations

from dataclasses import replace

from panda_airflow.check.reading import NO_TASK
from panda_airflow.check.scenario import Play, Scenario, Wait, ask, scenario_of
from panda_airflow.client.models import Json, Mark
from panda_airflow.waiting.poll_checks import JOB_FINAL
from tests.live.stage import Live
from tests.live.submissions import FAILS, HANGS

COMMANDS: list[Scenario[Live]] = []
scenario = scenario_of(COMMANDS)

NO_FILE = "no file was successfully processed"


@scenario(
    "retry of a failed task",
    "failed",
    "says why",
    "retry: accepted",
    "still failed",
    "attempt 1",
    "failed",
    "6 jobs, five attempts more",
    jobs=6,
)
def _retry(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(FAILS))
    seen = yield stage.end(task_id)
    stage.tell(seen.status, "says why" if NO_FILE in seen.info.error_dialog else "does not say why")
    stage.command("retry", task_id)
    stage.tell(f"still {stage.client.task.get_status(task_id)}")
    seen = yield stage.until(task_id, "the second attempt", lambda seen: seen.info.attempt_nr > 0)
    stage.tell(f"attempt {seen.info.attempt_nr}")
    seen = yield stage.end(task_id)
    stage.tell(seen.status, f"{len(seen.jobs)} jobs{', five attempts more' if len(seen.jobs) == 6 else ''}")


@scenario(
    "retry with new parameters", "retry: accepted", "code 3", "runs again", "attempt 0", "new parameters kept", jobs=6
)
def _retry_with_parameters(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(FAILS))
    yield stage.end(task_id)
    answer = stage.command("retry", task_id, new_parameters={"ramCount": 3000})
    stage.tell(f"code {answer.envelope.data}")
    seen = yield stage.until(task_id, "another job", lambda seen: len(seen.jobs) > 1)
    stage.tell("runs again", f"attempt {seen.info.attempt_nr}")
    kept = seen.info.raw.get("ramCount") == 3000
    stage.tell("new parameters kept" if kept else "old parameters")


@scenario(
    "retry of a task half of which failed",
    "finished, 1 of 2 files",
    "retry: accepted",
    "attempt 1",
    "runs again",
    jobs=7,
)
def _retry_half(stage: Live) -> Play:
    half = "test %RNDM:0 = 1"
    task_id = stage.submit(stage.parameters(half, nEvents=2, nEventsPerJob=1))
    seen = yield stage.end(task_id)
    stage.tell(f"{seen.status}, {seen.info.n_files_finished} of {seen.info.n_files} files")
    stage.command("retry", task_id)
    seen = yield stage.until(task_id, "another job", lambda seen: len(seen.jobs) > 2)
    stage.tell(f"attempt {seen.info.attempt_nr}", "runs again")


@scenario("commands to a task that is done", "kill: WrongState", "finish: WrongState", "retry: WrongState", jobs=1)
def _done(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters())
    yield stage.end(task_id)
    for command in ("kill", "finish", "retry"):
        stage.command(command, task_id)


PRODUCTION: dict[str, dict[str, Json]] = {
    "pause": {}, "resume": {}, "release": {}, "avalanche": {}, "increase_attempts": {"increase": 1},
}  # fmt: skip


@scenario("a manager's commands to a task that is done", *(f"{name}: WrongState" for name in PRODUCTION), jobs=1)
def _done_manager(stage: Live) -> Play:
    manager = stage.manager
    task_id = stage.submit(stage.parameters())
    yield stage.end(task_id)
    for command, arguments in PRODUCTION.items():
        stage.command(command, task_id, manager, **arguments)


@scenario("a manager's commands without the role", *(f"{name}: PermissionDenied" for name in PRODUCTION))
def _no_role(stage: Live) -> None:
    stage.only_plain()
    for command, arguments in PRODUCTION.items():
        stage.command(command, NO_TASK, **arguments)


@scenario(
    "commands to an unknown task", "kill: PermissionDenied", "finish: PermissionDenied", "retry: PermissionDenied"
)
def _unknown(stage: Live) -> None:
    stage.only_plain()
    for command in ("kill", "finish", "retry"):
        stage.command(command, NO_TASK)


@scenario(
    "a manager's commands to an unknown task",
    "kill: NotFound",
    "retry: NotFound",
    "reload_input: NotFound",
    "reactivate: updated 0 inputs",
)
def _unknown_manager(stage: Live) -> None:
    manager = stage.manager
    for command in ("kill", "retry", "reload_input"):
        stage.command(command, NO_TASK, manager)
    message = ask(manager, "task/reactivate", task_id=NO_TASK).envelope.message
    stage.tell(f"reactivate: {message.partition(' and ')[0]}")


@scenario(
    "reload_input of a task that is done", "reload_input: accepted", "done", "1 jobs", "attempt 0", "moved", jobs=1
)
def _reload(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters())
    seen = yield stage.end(task_id)
    mark = Mark.of(seen.info)
    stage.command("reload_input", task_id)
    seen = yield stage.until(task_id, "the end again", lambda seen: seen.is_over and Mark.of(seen.info) != mark)
    stage.tell(seen.status, f"{len(seen.jobs)} jobs", f"attempt {seen.info.attempt_nr}", "moved")


@scenario(
    "kill of a task that runs",
    "kill: accepted",
    "kill: accepted",
    "says kill by",
    "aborted",
    "kill: WrongState",
    jobs=1,
)
def _kill(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(HANGS))
    yield stage.running(task_id)
    stage.command("kill", task_id)
    stage.command("kill", task_id)
    seen = yield stage.until(task_id, "a stop", lambda seen: seen.status in ("aborting", "toabort", "aborted"))
    stage.tell("says kill by" if "kill by" in seen.info.error_dialog else "does not say who")
    seen = yield stage.end(task_id)
    stage.tell(seen.status)
    stage.command("kill", task_id)


@scenario("finish of a task that runs", "finish: accepted", "failed", "says finish by", "says why", jobs=1)
def _finish(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(HANGS))
    yield stage.running(task_id)
    stage.command("finish", task_id)
    seen = yield stage.end(task_id)
    stage.tell(seen.status, "says finish by" if "finish by" in seen.info.error_dialog else "does not say who")
    stage.tell("says why" if NO_FILE in seen.info.error_dialog else "does not say why")


@scenario(
    "pause and resume", "pause: accepted", "paused", "pause: WrongState", "retry: WrongState", "resume: accepted",
    "goes on", jobs=2,
)  # fmt: skip
def _pause(stage: Live) -> Play:
    manager = stage.manager
    task_id = stage.submit(stage.parameters(HANGS))
    yield stage.running(task_id)
    stage.command("pause", task_id, manager)
    seen = yield stage.until(task_id, "paused", lambda seen: seen.status == "paused")
    stage.tell(seen.status)
    stage.command("pause", task_id, manager)
    stage.command("retry", task_id)
    stage.command("resume", task_id, manager)
    yield stage.running(task_id)
    stage.tell("goes on")


@scenario(
    "reactivate a failed task", "reactivate: accepted", "ready at once", "times as before", "says what it said", jobs=6
)
def _reactivate(stage: Live) -> Play:
    manager = stage.manager
    task_id = stage.submit(stage.parameters(FAILS))
    before = (yield stage.end(task_id)).info
    stage.command("reactivate", task_id, manager)
    info = stage.client.task.get_detailed_info(task_id)
    stage.tell(f"{info.status} at once")
    same = replace(Mark.of(info), status=before.status) == Mark.of(before)
    stage.tell("times as before" if same else "another time")
    stage.tell("says what it said" if info.error_dialog == before.error_dialog else "says something else")


@scenario("commands of a stranger", "status readable", "kill: PermissionDenied", "finish: PermissionDenied",
          "retry: PermissionDenied", "pause: PermissionDenied", jobs=1)  # fmt: skip
def _stranger(stage: Live) -> Play:
    stranger = stage.stranger
    task_id = stage.submit(stage.parameters(HANGS))
    yield stage.shown(task_id)
    stage.tell("status readable" if stranger.task.get_status(task_id) else "no status")
    for command in ("kill", "finish", "retry", "pause"):
        stage.command(command, task_id, stranger)


@scenario("kill of a job", "the job: yes", "an unknown job: no", "the job ends", jobs=1)
def _kill_job(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(HANGS))
    seen = yield stage.running(task_id)
    [job_id] = seen.jobs
    for what, number in (("the job", job_id), ("an unknown job", NO_TASK)):
        [taken] = stage.client.job.kill([number])
        stage.tell(f"{what}: {'yes' if taken else 'no'}")
    yield Wait("the end of the job", lambda: stage.client.job.get_status([job_id])[0].status in JOB_FINAL)
    stage.tell("the job ends")
