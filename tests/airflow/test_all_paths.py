"""The same answers of a server end in the same result, or the same error in the same words, on every path of a wait.

The paths: an operator in a worker and in the triggerer; a sensor that pokes, reschedules and defers; and all five
again in a DAG that Airflow runs. The server is a script: each look at a task gets the next answer of its history.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count, repeat
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowException, AirflowRescheduleException, AirflowSensorTimeout, TaskDeferred

from panda_airflow.client import (
    PandaError,
    ServerAway,
    TaskAborted,
    TaskFailed,
    TaskOutcome,
    TaskPartlyDone,
    WaitTimeout,
)
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.waiting.feed import backoff
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import Memory, Run, task
from tests.support.rude_server import CLOSE, Rude, reply, serve
from tests.support.triggers import by_sdk, event_of

Play = Callable[[DAG], Run]
Make = Callable[..., Any]


@dataclass(frozen=True)
class Seen:
    """What a look at a task shows."""

    status: str
    attempt: int = 0

    def told(self, task_id: int) -> bytes:
        changed = {"__datetime__": f"2026-01-0{1 + self.attempt}T00:00:00"}
        data = {"jediTaskID": task_id, "taskName": "user.bob.fit", "status": self.status, "attemptNr": self.attempt}
        said = {"stateChangeTime": changed, "errorDialog": f"JEDI found it {self.status}"}
        return envelope(data | said | {"nFiles": 4, "nFilesFinished": 3, "nFilesFailed": 1, "taskType": "anal"})


def envelope(data: Any, message: str = "", *, success: bool = True) -> bytes:
    return reply(json.dumps({"success": success, "message": message, "data": data}))


MISSING = envelope(None, "Task not found", success=False)
AWAY = reply("down for maintenance", "503 Service Unavailable")
PAGE = reply("<html>We will be back</html>")
CUT = reply('{"success": true, "data": {"status": "do')
STRANGER = reply("<html>It works!</html>", "404 Not Found")
TROUBLE = [CLOSE, AWAY, PAGE, CUT, MISSING]

Look = Seen | bytes
RUNNING = Seen("running")


def after(*looks: Look) -> list[Look]:
    """A task that runs, then this; the last look stays."""
    return [RUNNING, *looks]


HISTORIES: dict[str, list[Look]] = {
    "done at once": [Seen("done")],
    "slow to register": [MISSING, MISSING, Seen("registered"), RUNNING, Seen("done")],
    "unknown word": after(Seen("sublimating"), Seen("done")),
    "trouble between": after(*TROUBLE, RUNNING, *TROUBLE, Seen("done")),
    "trouble at first": [CLOSE, AWAY, Seen("done")],
    "finished": after(Seen("finished")),
    "failed": after(*TROUBLE, Seen("failed")),
    "exhausted": after(Seen("exhausted")),
    "broken": [MISSING, Seen("broken")],
    "aborted": after(Seen("aborting"), Seen("aborted")),
    "outage": after(CLOSE),
    "outage from the start": [AWAY],
    "not PanDA": [STRANGER],
    "running for ever": [RUNNING],
    "mended by a retry": [*[Seen("failed")] * 3, Seen("running", 1), Seen("done", 1)],
    "failing again": [*[Seen("failed")] * 3, Seen("failed", 1)],
    "finished, then moved on by itself": [Seen("finished"), Seen("running", 1), Seen("done", 1)],
}

JOB = {"PandaID": 7, "jobStatus": "failed", "computingSite": "CERN", "pilotErrorCode": 1212, "pilotErrorDiag": "memory"}


class Script:
    """Plays a server; a task goes through the history after which it was named, or that a test gave it."""

    def __init__(self) -> None:
        self.rude = Rude([])
        self._ids = count(1001)
        self._looks: dict[int, Iterator[Look]] = {}
        self._parameters: dict[int, Any] = {}
        self.acts: list[tuple[str, int]] = []

    def begin(self, history: str) -> int:
        looks = HISTORIES[history]
        task_id = next(self._ids)
        # Nobody can look before the registration: so the look of a worker before it defers takes nothing away.
        self._looks[task_id] = chain([MISSING], looks, repeat(looks[-1]))
        return task_id

    def answer(self) -> bytes:
        request = self.rude.requests[-1]
        target = urlsplit(request.target)
        given: dict[str, Any] = json.loads(request.body) if request.body else dict(parse_qsl(target.query))
        method = target.path.removeprefix("/api/v1/")
        if method == "task/submit":
            task_id = self.begin(given["task_parameters"]["taskName"])
            self._parameters[task_id] = given["task_parameters"]
            return envelope(task_id, f"succeeded. new jediTaskID={task_id}")
        return self._about(method, int(given.get("task_id", 0)))

    def _about(self, method: str, task_id: int) -> bytes:
        if method == "task/get_detailed_info":
            look = next(self._looks[task_id])
            return look.told(task_id) if isinstance(look, Seen) else look
        if method in ("task/kill", "task/retry"):
            self.acts.append((method, task_id))
            return envelope(0, "command is registered")
        if method == "task/get_task_parameters":
            return envelope(self._parameters.get(task_id, {}))
        return envelope(OTHERS[method])


OTHERS: dict[str, Any] = {
    "task/get_tasks_detailed_info_since": [],
    "task/get_details": {"outDS": "user.bob.out/", "statistics": "finished*3,failed*1", "PandaID": [7]},
    "task/get_job_descriptions": [JOB],
    "system/is_alive": None,
    "creds/get_user_secrets": "{}",
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """A server that follows a script, known to Airflow; no request to it is repeated, and no trouble is sat out."""
    monkeypatch.setattr(backoff, "LONGEST_TROUBLE", 0.05)
    script = Script()
    with serve(script.answer) as script.rude:
        extra = {"vo": "wlcg", "attempts": 1, "real_load_balancer": True, "monitor_url": "http://monitor"}
        value = {"conn_type": "panda", "host": script.rude.url, "password": "token", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", json.dumps(value))
        yield script


def patience(history: str) -> float:
    """Seconds for which looks may fail."""
    return 0.0 if history.startswith("outage") else 3600.0


def operator(history: str, task_id: str = "fit", **more: Any) -> PandaSubmitTaskOperator:
    options = {"poll_interval": 0.01, "outage": patience(history)} | more
    return PandaSubmitTaskOperator(task_id=task_id, task_parameters=task(name=history), **options)


def sensor_of(script: Script, history: str) -> Make:
    """Make equal sensors for one task."""
    jedi_task_id = script.begin(history)

    def sensor(task_id: str = "sense", **more: Any) -> PandaWaitTaskStatusSensor:
        options = {"poke_interval": 0.01, "outage": patience(history)} | more
        return PandaWaitTaskStatusSensor(task_id=task_id, jedi_task_id=jedi_task_id, **options)

    return sensor


def straight(make: Make) -> Any:
    return make().execute(Memory(max_tries=0)())


def rescheduled(make: Make) -> Any:
    """Look with a new sensor each time, as workers do."""
    context = Memory(max_tries=0)()
    context["ti"].get_first_reschedule_date = lambda _: context["ti"].start_date
    while True:
        try:
            return make(mode="reschedule").execute(context)
        except AirflowRescheduleException:
            continue


def deferred(make: Make) -> Any:
    """Defer, wait in a trigger made from what was stored, go on in another worker with the stored event."""
    context = Memory(max_tries=0)()
    with pytest.raises(TaskDeferred) as stopped:
        make(deferrable=True).execute(context)
    deferral = stopped.value
    while True:  # a retry in place is sent by a worker, which defers again
        kwargs = {**(deferral.kwargs or {}), "event": event_of(by_sdk(deferral.trigger))}
        try:
            return make(deferrable=True).resume_execution(deferral.method_name, kwargs, context)
        except TaskDeferred as again:
            deferral = again


Told = tuple[str, str]
"""What a path came to: a name of an exception, or a status, and all its words."""


def told(result: Any) -> Told:
    """Leave out what tells one task and one time from another."""
    is_error = isinstance(result, BaseException)
    words = str(result) if is_error else json.dumps(result)
    for pattern, word in ((r"\b10\d\d\b", "ID"), (r"\d{4}-\d\d-\d\dT[\d:]+\+00:00", "TIME"), (r"\d+\.\d+ s", "N s")):
        words = re.sub(pattern, word, words)
    return (type(result).__name__ if is_error else result["status"], words)


def path(walk: Callable[[], Any]) -> Told:
    try:
        return told(walk())
    except (PandaError, AirflowException) as error:
        return told(error)


def operators(play: Play, history: str, **options: Any) -> dict[str, Told]:
    """Walk every path of an operator."""

    def make(**more: Any) -> PandaSubmitTaskOperator:
        return operator(history, **options, **more)

    with DAG(name_of(history, "operators")) as dag:
        make(task_id="dag_worker")
        make(task_id="dag_triggerer", deferrable=True)
    return {"worker": path(lambda: straight(make)), "triggerer": path(lambda: deferred(make))} | played(play, dag)


def sensors(script: Script, play: Play, history: str, **options: Any) -> dict[str, Told]:
    """Walk every path of a sensor; each has a task of its own."""
    walks: dict[str, Callable[[Make], Any]] = {"poke": straight, "reschedule": rescheduled, "defer": deferred}
    ways: dict[str, dict[str, Any]] = {"poke": {}, "reschedule": {"mode": "reschedule"}, "defer": {"deferrable": True}}

    def maker() -> Make:
        make = sensor_of(script, history)
        return lambda **more: make(**options, **more)

    with DAG(name_of(history, "sensors")) as dag:
        for name, way in ways.items():
            maker()(task_id=f"dag_{name}", **way)
    return {name: path(partial(walk, maker())) for name, walk in walks.items()} | played(play, dag)


def played(play: Play, dag: DAG) -> dict[str, Told]:
    run = play(dag)
    return {name: told(run.errors.get(name) or run.results[name]) for name in run.states}


def name_of(history: str, kind: str) -> str:
    return re.sub(r"\W+", "_", f"{history} {kind}")


def one(paths: dict[str, Told]) -> Told:
    """All paths came to the same; say which did not."""
    [[same, _], *others] = ((words, [n for n, w in paths.items() if w == words]) for words in set(paths.values()))
    assert not others, paths
    return same


ENDS: dict[str, tuple[str, str]] = {
    "done at once": ("done", '"finished": 3'),
    "slow to register": ("done", "user.bob.out"),
    "unknown word": ("done", "http://monitor/task/ID/"),
    "trouble between": ("done", "user.bob.fit"),
    "trouble at first": ("done", "user.bob.fit"),
    "finished": (TaskPartlyDone.__name__, "ended as finished.\nJEDI says: JEDI found it finished"),
    "failed": (TaskFailed.__name__, "1 job(s): pilot error 1212: memory (sites CERN"),
    "exhausted": (TaskFailed.__name__, "ended as exhausted"),
    "broken": (TaskFailed.__name__, "ended as broken"),
    "aborted": (TaskAborted.__name__, "ended as aborted"),
    "outage": (ServerAway.__name__, "its last status was running.\nNo look succeeded since TIME"),
    "outage from the start": (ServerAway.__name__, "its last status was unknown.\nNo look succeeded since TIME"),
    "not PanDA": (TaskOutcome.__name__, "HTTP 404"),
}

OWN_WORDS = (
    r"\n(A retry of this step|This was the last try|The task cannot be retried)[^\n]*",
    r" PanDA task ID was told to stop\.",
)
"""What only differs between operator and sensor: a retry of an operator does more than look again, and an operator
that gives up kills its task, as it owns it. On the paths of each these words are the same, too."""


@pytest.mark.parametrize("history", ENDS)
def test_the_same_history_ends_alike_on_every_path(script: Script, play: Play, history: str) -> None:
    by_operators = one(operators(play, history))
    by_sensors = one(sensors(script, play, history))
    name, words = ENDS[history]
    assert by_operators[0] == by_sensors[0] == name
    assert words in by_operators[1]
    assert common(by_operators) == common(by_sensors)


def common(outcome: Told) -> str:
    return re.sub("|".join(OWN_WORDS), "", outcome[1])


@pytest.mark.parametrize(
    ("history", "name", "words", "retries"),
    [
        ("mended by a retry", "done", '"total": 4', 1),
        ("failing again", TaskFailed.__name__, "Attempts of the task: 2, 1 of them retries by this step.", 1),
        ("finished, then moved on by itself", "done", '"total": 4', 0),
        ("aborted", TaskAborted.__name__, "ended as aborted", 0),
    ],
)
def test_a_task_is_retried_in_place_alike_on_every_path_of_an_operator(
    script: Script, play: Play, history: str, name: str, words: str, retries: int
) -> None:
    policy = TaskRetryPolicy(attempts=1, delay=0)
    paths = operators(play, history, task_retry=policy)
    outcome = one(paths)
    assert outcome[0] == name
    assert words in outcome[1]
    assert [act for act, _ in script.acts] == ["task/retry"] * retries * len(paths)


def test_a_deadline_ends_an_operator_alike_on_every_path(script: Script, play: Play) -> None:
    paths = operators(play, "running for ever", timeout=0.3)
    outcome = one(paths)
    assert outcome[0] == WaitTimeout.__name__
    assert "did not end in time; its last status was running.\nThe deadline was TIME. The PanDA task" in outcome[1]
    assert [act for act, _ in script.acts] == ["task/kill"] * len(paths)


def test_a_deadline_ends_a_sensor_alike_on_every_path_but_for_airflows_own_words(script: Script, play: Play) -> None:
    paths = sensors(script, play, "running for ever", timeout=0.3)
    in_triggerer = {name: paths.pop(name) for name in ("defer", "dag_defer")}
    for airflow_says, words in (
        (in_triggerer, "its last status was running.\nThe deadline was TIME."),
        (paths, "Sensor has timed out; run duration of N seconds exceeds the specified timeout of 0.3."),
    ):
        outcome = one(airflow_says)
        assert outcome[0] == AirflowSensorTimeout.__name__
        assert words in outcome[1]
    assert script.acts == []
