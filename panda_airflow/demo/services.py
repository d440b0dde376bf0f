"""Processes of the demo, each with its log, and the environment that Airflow's share."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from panda_airflow.client import PandaError
from panda_airflow.demo import leash

TAIL = 25
_FOREIGN = ("AIRFLOW", "PANDA", "OIDC_", "X509_")


class Service:
    """A child process that is ended with everything it has started, even if this process is killed.

    :param name: for people, and for the log file.
    :param module: run by this Python.
    :param arguments: of the module.
    :param environment: the process's whole environment.
    :param logs: directory of its log.
    """

    def __init__(
        self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str], logs: Path
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as log:
            os.fchmod(log.fileno(), 0o600)
            # A session of its own, so that Ctrl-C reaches the demo alone and the demo ends all in order.
            self._process = subprocess.Popen(  # noqa: S603 - our own modules
                [sys.executable, "-m", leash.__name__, module, *arguments],
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """Exit code, or None while it runs."""
        return self._process.poll()

    def tail(self) -> str:
        """Return the last lines of the log, indented."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL:]
        return "\n".join(f"    {line}" for line in [f"{self.log}:", *lines])

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process.stdin:
            self._process.stdin.close()

    def end(self, timeout: float) -> None:
        """Wait for the process to end, then end by force whatever is left.

        :param timeout: seconds to wait.
        """
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, timeout))
        leash.kill_descendants(self._process.pid)
        # An empty group is what is wanted; some systems refuse to signal one that holds only zombies.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Services:
    """The running services; a context manager that ends them all, whatever happens.

    :param logs: directory of the logs.
    :param signals: taken as an interruption.
    """

    def __init__(
        self, logs: Path, signals: Iterable[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ) -> None:
        self._logs = logs
        self._signals = tuple(signals)
        self._running: list[Service] = []
        self._interrupted = False

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        for number in self._signals:
            signal.signal(number, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        for service in self._running:
            service.terminate()
        deadline = time.monotonic() + leash.FAREWELL + 2
        for service in self._running:
            service.end(deadline - time.monotonic())

    def _interrupt(self, *_: object) -> None:
        # An exception here could fall between the start of a process and its place in the list.
        self._interrupted = True

    def start(self, name: str, module: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Service:
        """Start one more."""
        service = Service(name, module, arguments, environment, self._logs)
        self._running.append(service)
        return service

    def finish(self, service: Service, timeout: float) -> None:
        """Wait for a service that ends by itself.

        :param timeout: seconds.
        :raises PandaError: it failed, or did not end in time; with the end of its log.
        """
        self.wait(lambda: service.exit_code is not None, f"{service.name} to end", timeout)
        self.check()
        self._running.remove(service)

    def kill(self, service: Service, timeout: float = 0.0) -> None:
        """End a service and all that it has started by SIGKILL.

        :param timeout: seconds for it to end before that.
        """
        self._running.remove(service)
        service.end(timeout)

    def wait(self, ready: Callable[[], object], what: str, timeout: float) -> None:
        """Wait for something that the services have to do.

        :param ready: asked again and again.
        :param what: is waited for, for the error.
        :param timeout: seconds.
        :raises PandaError: it did not happen in time, or a service failed, with the ends of the logs; or interrupted.
        """
        deadline = time.monotonic() + timeout
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                logs = "\n".join(service.tail() for service in self._running)
                raise PandaError(f"waited {timeout:g} s for {what}.\n{logs}")
            time.sleep(0.25)

    def check(self) -> None:
        """Make sure that it makes sense to go on.

        :raises PandaError: somebody interrupted the demo, or a service failed, with the end of its log.
        """
        if self._interrupted:
            raise PandaError("the demo was interrupted; nothing that it started is left running.")
        for service in self._running:
            if service.exit_code:
                raise PandaError(f"{service.name} failed with exit code {service.exit_code}:\n{service.tail()}")


def free_port() -> int:
    """Find a port of this machine that nobody uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def own_environment(drop: Iterable[str] = _FOREIGN) -> dict[str, str]:
    """Copy the environment without what would make the demo talk to another Airflow or PanDA."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(tuple(drop))}
    return kept | {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


def airflow_environment(home: Path, dags: Path, port: int) -> dict[str, str]:
    """Configure an Airflow that needs nothing but this machine and reacts quickly.

    :param home: AIRFLOW_HOME.
    :param dags: DAGs folder.
    :param port: of the API server.
    """
    settings = {
        "CORE__DAGS_FOLDER": dags,
        "CORE__LOAD_EXAMPLES": False,
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__PARALLELISM": 2,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
        "CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "API__BASE_URL": f"http://127.0.0.1:{port}",
        "API__SECRET_KEY": secrets.token_urlsafe(32),
        "API_AUTH__JWT_SECRET": secrets.token_urlsafe(32),
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.2,
        "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,
        "DATABASE__CHECK_MIGRATIONS": False,
        "USAGE_DATA_COLLECTION__ENABLED": False,
    }
    return own_environment() | {
        "AIRFLOW_HOME": str(home),
        **{f"AIRFLOW__{name}": str(value) for name, value in settings.items()},
    }
