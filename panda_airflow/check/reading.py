"""Scenarios that only read: they change nothing on the server, whoever asks."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from panda_airflow.check.scenario import NotHere, Scenario, Stage, scenario_of
from panda_airflow.client.errors import NotFound
from panda_airflow.client.http.connection import TEXT_LIMIT, new_session
from panda_airflow.client.http.network import failures
from panda_airflow.client.models import TaskInfo

READING: list[Scenario[Stage]] = []
scenario = scenario_of(READING)

NO_TASK = 10**12
"""No server has counted its tasks, or jobs, that far."""
LOOK_BACK = timedelta(days=30)
CLOCK_TOLERANCE = timedelta(seconds=60)


def server_time(moment: datetime) -> str:
    """Write a time as the server's methods take it."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def own_tasks(stage: Stage) -> list[TaskInfo]:
    """Read some of the caller's tasks."""
    since = server_time(datetime.now(UTC) - LOOK_BACK)
    return stage.client.task.get_tasks_detailed_info_since(since=since, n_tasks=10)


@scenario("the server lives", "alive")
def _alive(stage: Stage) -> None:
    stage.client.system.is_alive()
    stage.tell("alive")


@scenario("who we are", "a name")
def _identity(stage: Stage) -> None:
    stage.tell("a name" if stage.client.system.get_user_attributes().name else "no name")


@scenario("clocks", "less than a minute apart")
def _clocks(stage: Stage) -> None:
    config = stage.client.config
    url = f"{config.server}/api/v1/system/is_alive"
    with failures(url, "system/is_alive", config.read_timeout, TEXT_LIMIT), new_session() as session:
        answer = session.head(url, verify=config.verify, timeout=config.read_timeout)
    if "Date" not in answer.headers:
        raise NotHere("the server does not tell its time")
    apart = abs(parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC))
    stage.tell("less than a minute apart" if apart < CLOCK_TOLERANCE else f"{apart.total_seconds():.0f} s apart")


@scenario("own tasks", "named, with a status")
def _tasks_since(stage: Stage) -> None:
    tasks = own_tasks(stage)
    if not tasks:
        raise NotHere("this identity has no task of the last 30 days")
    well = all(task.task_id and task.status for task in tasks)
    stage.tell("named, with a status" if well else "without ID or status")


@scenario("one own task", "status as listed", "parameters", "the jobs of its details")
def _own_task(stage: Stage) -> None:
    ended = [task for task in own_tasks(stage) if task.end_time]
    if not ended:
        raise NotHere("this identity has no ended task of the last 30 days")
    task, api = ended[0], stage.client.task
    stage.tell("status as listed" if api.get_status(task.task_id) == task.status else "another status than listed")
    stage.tell("parameters" if "vo" in api.get_task_parameters(task.task_id) else "no parameters")
    known = set(api.get_details(task.task_id).job_ids) <= set(api.get_job_ids(task.task_id))
    stage.tell("the jobs of its details" if known else "other jobs than its details")


@scenario("the feed", "accepted", "a badly written time: accepted, nothing")
def _feed(stage: Stage) -> None:
    since = server_time(datetime.now(UTC) - timedelta(hours=1))
    stage.tell(stage.ask("task/get_tasks_modified_since", since=since).word)
    answer = stage.ask("task/get_tasks_modified_since", since="an hour ago")
    stage.tell(f"a badly written time: {answer.word}, {'rows' if answer.envelope.data else 'nothing'}")


@scenario("filters", "a name nobody has: nothing", "no JSON: InvalidArgument", "a number as value: ServerError")
def _filters(stage: Stage) -> None:
    path, nobody = "task/get_tasks_detailed_info_since", json.dumps({"taskName": f"nobody.{secrets.token_hex(8)}"})
    found = stage.ask(path, filters=nobody).envelope.data
    stage.tell(f"a name nobody has: {'something' if found else 'nothing'}")
    stage.tell(f"no JSON: {stage.ask(path, filters='{bad').word}")
    stage.tell(f"a number as value: {stage.ask(path, filters=json.dumps({'taskName': 1})).word}")


@scenario(
    "an unknown task",
    "status: NotFound",
    "detailed info: NotFound",
    "parameters: NotFound",
    "details with status: NotFound",
    "details: empty",
    "jobs: none",
)
def _unknown_task(stage: Stage) -> None:
    for what, path in (
        ("status", "get_status"),
        ("detailed info", "get_detailed_info"),
        ("parameters", "get_task_parameters"),
    ):
        stage.tell(f"{what}: {stage.ask(f'task/{path}', task_id=NO_TASK).word}")
    stage.tell(f"details with status: {stage.ask('task/get_details', task_id=NO_TASK, include_status=True).word}")
    details = stage.client.task.get_details(NO_TASK)
    stage.tell("details: empty" if not (details.job_ids or details.out_ds) else "details: something")
    stage.tell("jobs: none" if stage.client.task.get_job_ids(NO_TASK) == [] else "jobs: some")


@scenario(
    "what get_status takes",
    "abc: InvalidArgument",
    "2.0: InvalidArgument",
    "nothing: InvalidArgument",
    "no argument: InvalidArgument",
)
def _status_arguments(stage: Stage) -> None:
    for what, value in (("abc", "abc"), ("2.0", "2.0"), ("nothing", "")):
        stage.tell(f"{what}: {stage.ask('task/get_status', task_id=value).word}")
    stage.tell(f"no argument: {stage.ask('task/get_status').word}")


@scenario("arguments of a POST", "an unknown one: InvalidArgument", "text for a number: InvalidArgument")
def _post_arguments(stage: Stage) -> None:
    path = "job/get_description"
    stage.tell(f"an unknown one: {stage.ask(path, job_ids=[NO_TASK], colour='red').word}")
    stage.tell(f"text for a number: {stage.ask(path, job_ids=[str(NO_TASK)]).word}")


@scenario("an unknown job", "status: unknown, tobekilled", "description: none")
def _unknown_job(stage: Stage) -> None:
    [state] = stage.client.job.get_status([NO_TASK])
    stage.tell(f"status: {state.status}, {state.command}")
    described = stage.client.job.get_description([NO_TASK])
    stage.tell("description: none" if described == [None] else "description: something")


@scenario("the cache", "a file nobody sent: not there", "download: NotFound")
def _cache(stage: Stage) -> None:
    found = stage.client.file_server.validate_cache_file(secrets.randbelow(10**9), secrets.randbelow(2**32))
    stage.tell(f"a file nobody sent: {'there' if found else 'not there'}")
    with TemporaryDirectory() as folder:
        try:
            stage.client.download(f"sources.{secrets.token_hex(16)}.tar.gz", Path(folder))
        except NotFound:
            stage.tell("download: NotFound")


@scenario("secrets", "one nobody set: not there")
def _unknown_secret(stage: Stage) -> None:
    key = f"live_{secrets.token_hex(8)}"
    stage.tell(f"one nobody set: {'there' if stage.client.creds.get_user_secrets([key]) else 'not there'}")


@scenario("iDDS", "it lives")
def _idds(stage: Stage) -> None:
    answer = stage.ask("idds/relay_idds_command", command_name="ping")
    if "No section" in answer.envelope.message:
        raise NotHere("no iDDS stands behind this server")
    says = "it lives" if answer.envelope.data == {"Status": "OK"} else answer.envelope.message
    stage.tell(f"{says:.80}")
