from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest

from panda_airflow.client import ClientConfig, PandaClient, PandaError
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.models import Envelope, TaskInfo
from panda_airflow.client.status import classify
from panda_airflow.client.task_parameters import command_task
from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer
from panda_airflow.steps import lookup
from panda_airflow.steps.kill import reaper

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator, Context

_HOME = tempfile.TemporaryDirectory(prefix="airflow-")


def _isolate() -> None:
    """Give Airflow a home of its own; it reads these once, when it is imported first."""
    assert "airflow.settings" not in sys.modules, "airflow was imported before its home was set"
    dags = Path(_HOME.name) / "dags"
    dags.mkdir()
    os.environ.update(
        AIRFLOW_HOME=_HOME.name,
        AIRFLOW__CORE__DAGS_FOLDER=str(dags),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME.name}/airflow.db",
        AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE="False",
    )


_isolate()

PACE = Pace(registration=0.3, cycle=0.05, command=0.2)

ATTEMPTS = 2
"""How often the client sends a request that fails and may be repeated."""


_SUBMITTED = "SELECT jediTaskID FROM submissions ORDER BY jediTaskID"


@dataclass
class Panda:
    """An embedded server, and what a test asks it."""

    server: DevServer
    client: PandaClient

    def submitted(self) -> list[int]:
        """Every task that was ever accepted, the invisible ones included."""
        return [row["jediTaskID"] for row in self.server.backend.store.rows(_SUBMITTED)]

    def task(self, task_id: int) -> TaskInfo:
        return self.client.task.get_detailed_info(task_id)

    def wait(self, task_id: int, statuses: tuple[str, ...] = ()) -> TaskInfo:
        """Wait until a task has one of these statuses, or any final one."""

        def reached() -> bool:
            row = self.server.backend.store.row("SELECT status FROM tasks WHERE jediTaskID = ?", task_id)
            status = row["status"] if row else ""
            return status in statuses if statuses else classify(status).is_final

        wait_until(reached)
        return self.task(task_id)


def wait_until(reached: Callable[[], object]) -> None:
    """Fail if something does not happen; the time is far more than a loaded machine needs."""
    ends = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


@contextmanager
def serve(root: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Panda]:
    """Run an embedded server that Airflow knows as its default PanDA connection."""
    for name in [name for name in os.environ if name.startswith(("PANDA", "OIDC_", "X509_"))]:
        monkeypatch.delenv(name)
    with DevServer(root, **({"pace": PACE} | options)) as server:
        token = server.token()
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", connection(server, token))
        config = ClientConfig(url=server.url, auth="oidc", vo="wlcg", token=token, retry_budget=0.0)
        with PandaClient(config) as client:
            yield Panda(server, client)
    end_reapers()


def end_reapers() -> None:
    """End the processes that would go on trying to kill tasks of a server that is gone."""
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if reaper.__name__ in process.cmdline():
                process.kill()


def connection(server: DevServer, token: str, **extra: Any) -> str:
    """Describe a server to Airflow."""
    value = json.loads(server.airflow_connection(token))
    value["extra"] |= {"attempts": ATTEMPTS} | extra
    return json.dumps(value)


@pytest.fixture
def panda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panda]:
    """A running embedded server, known to Airflow as ``panda_default``."""
    with serve(tmp_path / "panda", monkeypatch) as running:
        yield running


class Store:
    """Keeps JSON under keys as Airflow's task state store does; dies on demand as a worker does."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.dies_at: tuple[int, str] | None = None
        self._sets = 0

    def get(self, key: str, default: Any = None) -> Any:
        return json.loads(self.values[key]) if key in self.values else default

    def set(self, key: str, value: Any, *, retention: object = None) -> None:
        self._sets += 1
        if self.dies_at == (self._sets, "before"):
            raise WorkerDied
        self.values[key] = json.dumps(value)
        assert json.loads(self.values[key]) == value, "Airflow refuses what is no JSON value, such as a tuple"
        if self.dies_at == (self._sets, "after"):
            raise WorkerDied


class WorkerDied(BaseException):
    """Nothing catches this, as nothing catches SIGKILL."""


@dataclass
class Memory:
    """What remains of a task instance from try to try; call it for the context of the next try."""

    store: Store = field(default_factory=Store)
    max_tries: int = 2
    tries: int = 0

    def __call__(self) -> dict[str, Any]:
        self.tries += 1
        ti = SimpleNamespace(
            dag_id="higgs",
            task_id="fit",
            run_id="manual__2026",
            map_index=-1,
            try_number=self.tries,
            max_tries=self.max_tries,
            start_date=datetime.now(UTC),
            task=SimpleNamespace(retry_delay=timedelta(0)),
            get_first_reschedule_date=lambda _: None,
        )
        return {"ti": ti, "task_state_store": self.store}

    def clear(self) -> None:
        """Do what Airflow does when a person clears a task instance."""
        self.max_tries += 1


@pytest.fixture
def memory() -> Memory:
    """The memory of a task instance that has not run yet."""
    return Memory()


def in_a_worker(step: BaseOperator, context: dict[str, Any]) -> Callable[[], BaseException | None]:
    """Start a step in a thread; return what waits until it has ended, and tells how."""
    ended: list[BaseException | None] = []

    def work() -> None:
        try:
            step.execute(cast("Context", context))
            ended.append(None)
        except PandaError as error:
            ended.append(error)

    threading.Thread(target=work, daemon=True).start()

    def end() -> BaseException | None:
        wait_until(lambda: ended)
        return ended[0]

    return end


def task(command: str = "true", name: str = "user.bob.fit", **more: Any) -> dict[str, Any]:
    """Parameters of a task of two jobs that are not repeated by PanDA itself."""
    return command_task(name, command, vo="wlcg", **({"jobs": 2, "max_attempt": 1} | more))


def unnamed(parameters: dict[str, Any]) -> dict[str, Any]:
    """Leave the name to the operator."""
    return {name: value for name, value in parameters.items() if name != "taskName"}


def fails_once(directory: Path) -> str:
    """A command of which the first job fails when it runs for the first time."""
    return f'seen={directory}/%RNDM:1; [ -e "$seen" ] || [ "$seen" = {directory}/2 ] || {{ touch "$seen"; exit 3; }}'


@dataclass
class Run:
    """A finished DAG run: states, results, last exceptions, links and numbers of tries by task."""

    states: dict[str, str]
    results: dict[str, Any]
    errors: dict[str, BaseException]
    links: dict[str, Any]
    tries: dict[str, int]


@pytest.fixture(scope="session")
def database() -> None:
    """Airflow's database, made once."""
    from airflow.utils import db  # noqa: PLC0415 - not before its home is known

    db.initdb()


@pytest.fixture
def play(database: None) -> Callable[[DAG], Run]:
    """Run a DAG through Airflow, in this process."""
    from tests.support import running  # noqa: PLC0415 - nor this

    return running.play


@pytest.fixture
def askers(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The threads that ask the server."""
    threads, send = set[int](), PandaClient.send

    def noting(client: PandaClient, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        threads.add(threading.get_ident())
        return send(client, endpoint, arguments)

    monkeypatch.setattr(PandaClient, "send", noting)
    return threads


@pytest.fixture(autouse=True)
def no_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """No scheduler takes in the deferrals of these tests, so that no event has to wait for one."""
    from panda_airflow.triggers import base  # noqa: PLC0415 - not before the home of Airflow is known

    monkeypatch.setattr(base, "HOLD", 0.0)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup of a name that is soon repeated."""
    monkeypatch.setattr(lookup, "LOOKUP_INTERVAL", 0.1)


@pytest.fixture(autouse=True)
def nothing_waits_on() -> Iterator[None]:
    """No step is left waiting in a thread, for a server that is gone."""
    yield
    wait_until(lambda: not any(thread.name.startswith("panda-") for thread in threading.enumerate()))


@pytest.fixture(autouse=True)
def forget_secrets() -> Iterator[None]:
    """Each test's tokens leave Airflow's pattern of what to mask; it is compiled anew for each, ever slower."""
    from airflow.sdk._shared.secrets_masker import reset_secrets_masker  # noqa: PLC0415 - nor this

    yield
    reset_secrets_masker()
