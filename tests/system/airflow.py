"""A real Airflow of any layout, whose parts can be killed and started again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import psutil
from sqlalchemy import create_engine, text

from panda_airflow.demo import leash
from panda_airflow.demo.rest import AirflowApi
from panda_airflow.demo.services import Service, Services, airflow_environment, free_port

DAGS = Path(__file__).with_name("dags")
START_LIMIT = 300.0
RUN_LIMIT = 180.0
"""Seconds that the slowest scenario may take on a busy machine."""

TRIGGERER = ("triggerer", "--skip-serve-logs")

DATABASE = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"

SQLITE_PATIENCE = 60
SQLITE_IMPATIENCE = 2
"""Seconds to wait for the lock of an SQLite database.

An API server writes its audit log in its event loop, and waits there for requests whose end needs that very loop.
"""

ENDED = ("success", "failed")

IMPATIENT: Mapping[str, object] = {
    "CORE__MAX_ACTIVE_RUNS_PER_DAG": 100,
    "CORE__MAX_ACTIVE_TASKS_PER_DAG": 100,
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 600,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 10,
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 1,
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": 1,
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": 1,
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": 10,
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": 2,
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
    "TRIGGERER__JOB_HEARTBEAT_SEC": 1,
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": 8,
    "WORKERS__EXECUTION_API_TIMEOUT": 30,
}
"""Settings by which Airflow notices in seconds what otherwise takes it minutes."""


@dataclass(frozen=True)
class Layout:
    """What an Airflow is made of.

    :param executor: as in ``[core] executor``.
    :param database: SQLAlchemy URL; empty for an SQLite file of its own.
    :param parts: arguments of each ``airflow`` command, and how many processes run it.
    :param parallelism: task instances that run at the same time.
    :param settings: more settings, ``SECTION__NAME``.
    :param first_dag: one of the DAGs, which all have been read with.
    """

    executor: str = "LocalExecutor"
    database: str = ""
    parts: Mapping[tuple[str, ...], int] = field(
        default_factory=lambda: {
            ("scheduler", "--skip-serve-logs"): 1,
            TRIGGERER: 1,
            ("dag-processor",): 1,
        }
    )
    parallelism: int = 4
    settings: Mapping[str, object] = field(default_factory=dict)
    first_dag: str = "plain_sync"

    def environment(self, home: Path, port: int) -> dict[str, str]:
        """Configure the processes.

        :param port: of the API server.
        """
        settings = {
            "CORE__EXECUTOR": self.executor,
            "CORE__PARALLELISM": self.parallelism,
            "DATABASE__SQL_ALCHEMY_CONN": self.database or f"sqlite:///{home}/airflow.db?timeout={SQLITE_PATIENCE}",
            **IMPATIENT,
            **self.settings,
        }
        changes = {f"AIRFLOW__{name}": str(value) for name, value in settings.items()}
        return airflow_environment(home, DAGS, port) | changes


@dataclass(frozen=True)
class Run:
    """One run of a DAG whose only step is ``fit``."""

    dag_id: str
    run_id: str
    api: AirflowApi

    @property
    def state(self) -> str:
        return self.api.state(self.dag_id, self.run_id)

    @property
    def step(self) -> dict[str, Any]:
        """The task instance."""
        return self.api.steps(self.dag_id, self.run_id)[0]

    def clear(self) -> None:
        """Clear the step, as a person does."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": self.run_id, "task_ids": ["fit"]}
        self.api.post(f"dags/{self.dag_id}/clearTaskInstances", body)

    def mark(self, state: str) -> None:
        """Mark the step, as a person does."""
        self.api.patch(f"dags/{self.dag_id}/dagRuns/{self.run_id}/taskInstances/fit", {"new_state": state})


class Airflow:
    """The processes of one Airflow; a context manager that ends them all.

    :param layout: what to start.
    :param home: AIRFLOW_HOME, made here.
    :param environment: more variables, such as connections.
    """

    def __init__(self, layout: Layout, home: Path, environment: Mapping[str, str]) -> None:
        self.layout = layout
        self.home = home
        self._port = free_port()
        self._environment = layout.environment(home, self._port) | dict(environment)
        self._services = Services(home / "services", signals=())
        self._engine = create_engine(self._environment[DATABASE])
        self._parts: dict[str, list[tuple[tuple[str, ...], Service]]] = {}
        self._runs = self._starts = 0
        self.api = AirflowApi(f"http://127.0.0.1:{self._port}")

    def __enter__(self) -> Self:
        self._services.__enter__()
        try:
            self._start_all()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._services.__exit__()
        self._engine.dispose()

    def _start_all(self) -> None:
        began = datetime.now(UTC)
        self._services.finish(self._launch("migrate", ["db", "migrate"]), START_LIMIT)
        if not self.layout.database:
            with closing(sqlite3.connect(self.home / "airflow.db")) as database:
                database.execute("PRAGMA journal_mode=WAL")
        self.start("api-server", "--host", "127.0.0.1", "--port", str(self._port))
        for command, number in self.layout.parts.items():
            for _ in range(number):
                self.start(*command)
        self._services.wait(self.api.is_ready, "Airflow's API server", START_LIMIT)
        first = self.layout.first_dag
        self._services.wait(lambda: self.api.was_parsed(first, began), "Airflow to read the DAGs", START_LIMIT)
        self._services.wait(lambda: not self.api.unhealthy(), "all parts of Airflow", START_LIMIT)

    def start(self, *command: str) -> None:
        """Start one more process of a part, such as ``triggerer``."""
        self._starts += 1
        service = self._launch(f"{command[0]}-{self._starts}", command)
        self._parts.setdefault(command[0], []).append((command, service))

    def kill(self, part: str, number: int = -1, patience: float = 0.0) -> tuple[str, ...]:
        """SIGKILL a process of a part, with all that it has started.

        :param number: which one of those that run, in the order of their start; the last by default.
        :param patience: seconds for it to end in order before that.
        :return: what it was started with.
        """
        command, service = self._parts[part].pop(number)
        if patience:
            service.terminate()
        self._services.kill(service, patience)
        return command

    def stop(self, part: str) -> None:
        """End a process of a part in order, as a rolling deploy does."""
        self.kill(part, patience=leash.FAREWELL + 2)

    def restart(self, part: str, pause: float = 0.0) -> None:
        """SIGKILL a process of a part and start it again.

        :param pause: seconds without it.
        """
        command = self.kill(part)
        time.sleep(pause)
        self.start(*command)
        self._services.wait(self.api.is_ready, "Airflow's API server", START_LIMIT)

    def _launch(self, name: str, arguments: Sequence[str]) -> Service:
        environment = dict(self._environment)
        if arguments[0] == "api-server":
            was, now = f"?timeout={SQLITE_PATIENCE}", f"?timeout={SQLITE_IMPATIENCE}"
            environment[DATABASE] = environment[DATABASE].replace(was, now)
        return self._services.start(name, "airflow", list(arguments), environment)

    def prepare(self, dag_id: str) -> Run:
        """Name a DAG run that is to be started."""
        self._runs += 1
        return Run(dag_id, f"run{self._runs}", self.api)

    def start_run(self, run: Run, **conf: Any) -> Run:
        """Start a DAG run.

        :param conf: parameters of the DAG.
        """
        self.api.trigger(run.dag_id, dag_run_id=run.run_id, conf=conf)
        return run

    def run(self, dag_id: str, **conf: Any) -> Run:
        """Start a DAG run.

        :param conf: parameters of the DAG.
        """
        return self.start_run(self.prepare(dag_id), **conf)

    def wait(self, reached: Callable[[], object], what: str, seconds: float = RUN_LIMIT) -> None:
        """Wait for something that Airflow has to do; fail with the ends of all logs."""

        def slowly() -> bool:
            time.sleep(0.25)
            return bool(reached())

        self._services.wait(slowly, what, seconds)

    def process_of(self, run: Run) -> psutil.Process | None:
        """Find the process that works on a step, below its supervisor; None where no worker does."""
        number = run.step["id"]
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(process.info["cmdline"] or ())
            if number in title and "LocalExecutor" not in title:
                return process
        return None

    def query(self, sql: str, **parameters: Any) -> list[Any]:
        """Ask, or change, Airflow's database."""
        with self._engine.begin() as connection:
            result = connection.execute(text(sql), parameters)
            return list(result) if result.returns_rows else []

    def finish(self, *runs: Run) -> list[str]:
        """Wait until DAG runs have ended; return the states of their steps."""
        for run in runs:
            self.wait(lambda run=run: run.state in ENDED, f"{run.dag_id} {run.run_id} to end")  # type: ignore[misc]
        return [str(run.step["state"]) for run in runs]

    def reach(self, state: str, *runs: Run) -> None:
        """Wait until the steps of DAG runs are in a state."""
        for run in runs:
            self.wait(lambda run=run: run.step["state"] == state, f"{run.dag_id} {run.run_id} to be {state}")  # type: ignore[misc]

    def log_of(self, run: Run) -> str:
        """Read all that a step has logged."""
        logs = sorted(self.home.glob(f"logs/dag_id={run.dag_id}/run_id={run.run_id}/**/*.log*"))
        return "\n".join(path.read_text(errors="replace") for path in logs)
