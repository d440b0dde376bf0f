"""A server on which scenarios submit tasks of their own: who asks, what they have made there, and how it ends."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from panda_airflow.check.reading import server_time
from panda_airflow.check.scenario import Answer, NotHere, Stage, Wait, ask
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import ConfigError, NotFound, PandaError, Refused, WrongState
from panda_airflow.client.models import Json, TaskInfo
from panda_airflow.client.session import PandaClient
from panda_airflow.client.status import FINAL_STATUSES, classify
from panda_airflow.client.task_parameters import command_task
from panda_airflow.steps.record import name_filter
from tests.live.history import History

SPLIT = ("nFiles", "nFilesPerJob", "nEvents", "nEventsPerJob")
BACK_DATED = timedelta(hours=12)
"""JEDI back-dates the modification time of active tasks by six hours at most, and clocks may be apart."""
LOOKERS = 8
"""Looks at the server at the same time."""


@dataclass
class Seen:
    """How a task looked last.

    :param info: empty while the server does not show it.
    :param jobs: PandaIDs.
    """

    info: TaskInfo = field(default_factory=TaskInfo)
    jobs: list[int] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.info.status

    @property
    def is_over(self) -> bool:
        return self.status in FINAL_STATUSES


@dataclass
class Own:
    """A task that a scenario has made."""

    client: PandaClient
    history: History
    seen: Seen = field(default_factory=Seen)


class Site:
    """A server, the identities that may ask it, and all that was made there.

    :param config: of whoever asks; with the production role where that is allowed.
    :param parameters: task parameters that every task here needs.
    :param interval: seconds between two looks.
    :param stranger: another identity, which is refused.
    :param user: begins the names of tasks; found out if not given.
    :raises PandaError: the server cannot be asked.
    """

    def __init__(
        self,
        config: ClientConfig,
        parameters: dict[str, Json],
        interval: float,
        stranger: ClientConfig | None = None,
        user: str = "",
    ) -> None:
        self.config = config
        self.interval = interval
        self.client = PandaClient(replace(config, production=False))
        who = self.client.system.get_user_attributes()
        self.is_plain = not who.production
        self.manager = PandaClient(config) if config.production or not self.is_plain else None
        self.stranger = PandaClient(stranger) if stranger else None
        self.parameters = {"vo": config.vo.partition(".")[0]} | parameters
        if not self.parameters["vo"]:
            raise ConfigError("the VO is not given.", advice="Set PANDA_AUTH_VO, or vo in PANDA_LIVE_PARAMETERS.")
        self.user = user or (who.name.split() or ["someone"])[0].lower()
        self.stem = f"user.{self.user}.live.{secrets.token_hex(4)}"
        self.since = server_time(datetime.now(UTC) - BACK_DATED)
        self.tasks: dict[int, Own] = {}
        self.folder = TemporaryDirectory()
        self.endings: list[Callable[[], None]] = [self.folder.cleanup]
        self._pool = ThreadPoolExecutor(LOOKERS)

    def look(self, waits: Sequence[Wait]) -> None:
        """Look at all tasks that something waits for."""
        list(self._pool.map(self._look_at, {wait.task_id for wait in waits if wait.task_id}))

    def _look_at(self, task_id: int) -> None:
        own = self.tasks[task_id]
        with suppress(PandaError):  # an outage: the next round looks again
            own.seen = self._see(own.client, task_id)
            own.history.saw(own.seen.info, len(own.seen.jobs))

    @staticmethod
    def _see(client: PandaClient, task_id: int) -> Seen:
        try:
            info = client.task.get_detailed_info(task_id)
        except NotFound:
            return Seen()
        return Seen(info, client.task.get_job_ids(task_id))

    def histories(self) -> dict[str, list[dict[str, Any]]]:
        """Give what happened to each task, by its name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for own in self.tasks.values():
            name = own.history.name.removeprefix(f"{self.stem}.")
            found[f"{name}_again" if name in found else name] = own.history.entries
        return found

    def jobs(self) -> int:
        """Count the jobs that were made."""
        return sum(len(own.seen.jobs) for own in self.tasks.values())

    def close(self, seconds: float) -> list[int]:
        """Kill all tasks and undo the rest.

        :param seconds: how long to go on where a task cannot be killed yet, since it is not registered.
        :return: tasks that could not be killed.
        """
        self._add_unknown()
        ends = time.monotonic() + seconds
        left = [task_id for task_id in self.tasks if not self._is_ended(task_id)]
        while left and time.monotonic() < ends:
            time.sleep(self.interval)
            left = [task_id for task_id in left if not self._is_ended(task_id)]
        for ending in reversed(self.endings):
            with suppress(PandaError):
                ending()
        self._pool.shutdown()
        return left

    def _add_unknown(self) -> None:
        """Find tasks of ours whose submission was not answered, or that another process submitted."""
        with suppress(PandaError):
            for row in self.client.task.get_tasks_modified_since(self.since).values():
                if row.name.startswith(self.stem) and row.task_id not in self.tasks:
                    self.tasks[row.task_id] = Own(self.client, History(row.name))

    def _is_ended(self, task_id: int) -> bool:
        """Kill a task unless it has ended; say whether that was taken, or done before."""
        client = self.tasks[task_id].client
        try:
            return classify(client.task.get_status(task_id)).is_final or bool(client.task.kill(task_id))
        except WrongState:
            return True
        except PandaError:  # not registered yet, or an outage
            return False


class Live(Stage):
    """Where one scenario submits and commands.

    :param site: the server.
    :param name: ends the names of its tasks.
    """

    def __init__(self, site: Site, name: str) -> None:
        super().__init__(site.client)
        self.site = site
        self.name = "_".join(name.replace(",", "").replace(":", "").split())
        self.task_name = f"{site.stem}.{self.name}"

    def tell(self, *facts: str) -> None:
        """Note what was seen, without the name that only this run has."""
        super().tell(*(fact.replace(self.task_name, "NAME") for fact in facts))

    @property
    def manager(self) -> PandaClient:
        """The client with the production role."""
        if self.site.manager is None:
            raise NotHere("needs a connection that asks for the production role")
        return self.site.manager

    @property
    def stranger(self) -> PandaClient:
        """The client of somebody else."""
        if self.site.stranger is None:
            raise NotHere("needs a second identity")
        return self.site.stranger

    def only_plain(self) -> None:
        """Do not play where every identity has the production role."""
        if not self.site.is_plain:
            raise NotHere("this identity has the production role")

    def parameters(
        self, command: str = "true", outputs: Sequence[str] = (), sandbox: str | None = None, **more: Json
    ) -> dict[str, Json]:
        """Describe a task of one job that runs once; ``None`` takes a parameter away."""
        vo = self.site.parameters["vo"]
        base = command_task(self.task_name, command, vo=vo, outputs=outputs, sandbox=sandbox, max_attempt=1)
        kept = {name: value for name, value in base.items() if name not in SPLIT}
        split = {} if more.keys() & set(SPLIT) else {"nEvents": 1, "nEventsPerJob": 1}
        wanted = kept | split | {"uniqueTaskName": True} | self.site.parameters | more
        return {name: value for name, value in wanted.items() if value is not None or name == "transHome"}

    def submit(self, parameters: dict[str, Json], by: PandaClient | None = None, **arguments: Json) -> int:
        """Submit a task that is expected to be taken.

        :raises Refused: it is not.
        """
        answer = self.submitted(parameters, by, **arguments)
        if answer.word != "accepted":
            raise Refused(f"the task is not taken: {answer.envelope.message}")
        return int(answer.envelope.data)

    def submitted(self, parameters: dict[str, Json], by: PandaClient | None = None, **arguments: Json) -> Answer:
        """Submit, and note what comes of it."""
        client = by or self.client
        answer = ask(client, "task/submit", task_parameters=parameters, **arguments)
        task_id = answer.envelope.data
        if answer.word == "accepted" and task_id not in self.site.tasks:
            self.site.tasks[task_id] = Own(client, History(self.task_name))
        self._note("task/submit", {"task_parameters": parameters, **arguments}, answer, client)
        return answer

    def command(self, method: str, task_id: int, by: PandaClient | None = None, **arguments: Json) -> Answer:
        """Command a task and tell how that is received.

        :param method: of server module ``task``.
        """
        client = by or self.client
        sent = {"task_id": task_id, **arguments}
        answer = ask(client, f"task/{method}", **sent)
        self._note(f"task/{method}", sent, answer, client)
        self.tell(f"{method}: {answer.word}")
        return answer

    def _note(self, path: str, sent: dict[str, Any], answer: Answer, client: PandaClient) -> None:
        task_id = sent.get("task_id") or answer.envelope.data
        who = {id(self.site.manager): "prod", id(self.site.stranger): "stranger"}.get(id(client), self.site.user)
        if own := self.site.tasks.get(task_id):
            own.history.called(path, who, sent, answer.envelope)

    def miss(self, what: str) -> None:
        """Note in the history of this scenario's tasks what did not come in time."""
        for own in self.site.tasks.values():
            if own.history.name == self.task_name:
                own.history.missed(what)

    def until(self, task_id: int, what: str, over: Callable[[Seen], Any]) -> Wait:
        """Wait for a task to look in a certain way."""
        own = self.site.tasks[task_id]

        def come() -> Seen | None:
            return own.seen if over(own.seen) else None

        return Wait(what, come, task_id)

    def shown(self, task_id: int) -> Wait:
        """Wait for a task to be registered under its own name."""
        name = self.task_name
        return self.until(task_id, "registered", lambda seen: seen.info.name == name or seen.is_over)

    def running(self, task_id: int) -> Wait:
        """Wait for a task to run."""
        return self.until(task_id, "running", lambda seen: seen.status == "running")

    def end(self, task_id: int) -> Wait:
        """Wait for a task to end."""
        return self.until(task_id, "the end", lambda seen: seen.is_over)

    def named(self) -> list[int]:
        """Look the name of this scenario's task up."""
        found = self.client.task.get_tasks_detailed_info_since(filters=name_filter(self.task_name))
        return [info.task_id for info in found if info.name == self.task_name]

    def file(self, name: str, content: bytes) -> Path:
        """Write a file."""
        path = Path(self.site.folder.name) / name
        path.write_bytes(content)
        return path


@contextmanager
def closing(site: Site, seconds: float, report: Callable[[str], Any]) -> Iterator[None]:
    """Leave nothing running, however this ends."""
    try:
        yield
    finally:
        report(f"Ending what is left of the tasks {', '.join(map(str, site.tasks))}.")
        left = site.close(seconds)
        report(f"{len(site.tasks)} tasks with {site.jobs()} jobs on {site.config.server}, all ended or killed.")
        if left:
            report(f"These could not be killed: {', '.join(map(str, left))}. Kill them by hand.")


def airflow_connection(config: ClientConfig) -> str:
    """Write a configuration as an Airflow connection, in JSON, with its secrets."""
    default = ClientConfig()
    extra = {name: value for name, value in vars(config).items() if value != vars(default)[name]}
    return json.dumps({"conn_type": "panda", "extra": extra}, default=str)
