"""A process that ends the PanDA tasks of a step that has no time left to do so.

A step that is told to stop has seconds, and the server refuses to kill a task for minutes after its submission, whose
answer may even be on its way still. The process outlives the step, but not the machine or container it runs in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from threading import Thread
from typing import IO, Any

from panda_airflow.client.auth.credentials import account_of
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import NotCarriedOut, NotFound, NotOurs, PandaError, Refused, WrongState
from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.session import PandaClient
from panda_airflow.client.status import ABOUT_TO_ABORT, ACTIVE_STATUSES
from panda_airflow.client.stored import UNKNOWN, Account, known
from panda_airflow.steps import lookup
from panda_airflow.steps.kill import last_words
from panda_airflow.steps.kill.jobs import kill_jobs
from panda_airflow.waiting.driver import NO_FAILURES
from panda_airflow.waiting.ownership import require
from panda_airflow.waiting.task import JEDI_PATIENCE
from panda_airflow.waiting.task_polls import has_database

FAREWELL = 3.0
"""Seconds that a step which is told to stop waits for the process; Airflow grants the step five."""

SURE = 5.0
"""Seconds over which at least three refusals make one that is believed: a database may be away for a moment."""

LAST_WORDS = 30.0
"""Seconds that a step which gives up by itself waits for it."""


@dataclass(frozen=True)
class Target:
    """The task that is to end, or several, or jobs that belong to none.

    :param task_ids: JediTaskIDs; none while the answer to the submission of the task has not come.
    :param name: by which it is looked for then.
    :param mark: where the task, or one that held its name, stood before a command that JEDI may have yet to execute:
        until it has moved on, its end is not the end.
    :param until: epoch seconds until when the server may still have to register it, or to execute that command.
    :param outage: seconds for which a server that is away is waited for.
    :param key: what the task has to carry; empty for those that their user has named. Under it the last words are left.
    :param account: on which server it is, and as whom it is killed.
    :param job_ids: PandaIDs of the jobs, where it is no task.
    """

    task_ids: tuple[int, ...] = ()
    name: str = ""
    mark: Mark | None = None
    until: float = 0.0
    outage: float = 3600.0
    key: str = ""
    account: Account = UNKNOWN
    job_ids: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Write the target as JSON primitives."""
        return asdict(self) | {"task_ids": list(self.task_ids), "job_ids": list(self.job_ids)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Target:
        """Read what :meth:`to_json` wrote, in whatever version."""
        read = {
            "task_ids": tuple(value.get("task_ids", ())),
            "job_ids": tuple(value.get("job_ids", ())),
            "mark": Mark.from_json(value.get("mark")),
            "account": Account.from_json(value.get("account")),
        }
        return cls(**(known(cls, value) | read))

    def __str__(self) -> str:
        """Name the task, or say how many."""
        if self.job_ids:
            return f"each of {len(self.job_ids)} PanDA job(s), the first {self.job_ids[0]},"
        if len(self.task_ids) > 1:
            return f"each of {len(self.task_ids)} PanDA tasks"
        return f"PanDA task {self.task_ids[0] if self.task_ids else self.name}"


def target_of_jobs(job_ids: Sequence[int], account: Account) -> Target:
    """Say which jobs are to end; what became of that is left under the first of them."""
    return Target(key=f"job {job_ids[0]} at {account.server}", account=account, job_ids=tuple(job_ids))


def send_reaper(config: ClientConfig, target: Target, patience: float) -> str:
    """Start the process and give it a moment to succeed.

    :param config: as whom to kill; goes through a file without a name, which nobody else reads.
    :param target: what to kill.
    :param patience: seconds to wait for it.
    :return: what became of the task, as a sentence.
    """
    if (now := account_of(config)).differs_from(target.account):
        return f"{target} was left running: it belongs to {target.account}, and the connection means {now}."
    with TemporaryFile() as order, _errors() as errors:  # a pipe would hold up a long list until the process reads it
        order.write(json.dumps({"config": asdict(config), "target": target.to_json()}, default=str).encode())
        order.seek(0)
        process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-I", "-c", _START, __name__, *filter(os.path.isabs, sys.path)],
            stdin=order,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        fate, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        Thread(target=process.wait, daemon=True).start()  # or it stays a zombie of a process that lives on
        return f"{target} cannot be stopped yet; process {process.pid} goes on trying and tells in {errors.name}."
    if not fate:
        return f"{target} may still be running: process {process.pid} broke, see {errors.name}."
    Path(errors.name).unlink(missing_ok=True)
    return fate.decode()


_START = "import importlib, sys; sys.path += sys.argv[2:]; importlib.import_module(sys.argv[1]).main()"
"""What the process runs, isolated: modules in the working directory, or before Python's own, do not count."""


def _errors() -> IO[bytes]:
    """Open a file that only this user reads and that outlives the step, whose own log cannot be written to then."""
    return NamedTemporaryFile(prefix="panda-reaper-", suffix=".log", delete=False)


def reap(
    client: PandaClient,
    target: Target,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.time,
) -> None:
    """Kill each task as soon as the server lets it be killed; a server that is away is waited for.

    :raises NotCarriedOut: the server could not reach its database in time, and so proved nothing.
    :raises PandaError: one cannot be killed; the others have been told to stop.
    """
    began, rounds, refused = clock(), NO_FAILURES, list[PandaError]()
    left: list[int | None] = [*target.task_ids] or [None]
    while left:
        trouble = list[int | None]()
        rounds = rounds.and_one(began)
        for task_id in left:
            try:
                _kill(client, target, task_id)
            except NotOurs as error:
                refused.append(error)
            except PandaError as error:
                is_answer = isinstance(error, Refused) and has_database(client)
                ends = target.until if is_answer else max(target.until, began + target.outage)
                if clock() < ends or not rounds.are_too_many(clock(), SURE):
                    trouble.append(task_id)
                else:
                    refused.append(error if is_answer else _unanswered(error))
        left = trouble
        if left:
            sleep(lookup.until_registered(clock(), began))
    if refused:
        raise refused[0]


def _unanswered(error: PandaError) -> PandaError:
    """Say what a refusal means by a server that cannot reach its database: nothing."""
    return NotCarriedOut(str(error), advice="Try again later.") if isinstance(error, Refused) else error


def _kill(client: PandaClient, target: Target, task_id: int | None) -> None:
    """Kill a task that may have to be found first.

    :raises PandaError: it could not be killed now.
    """
    if target.job_ids:
        kill_jobs(client, target.job_ids)
        return
    if task_id is None:
        if not target.key:
            raise NotOurs(f"{target} cannot be told from that of somebody else: another version submitted it.")
        found = lookup.ours(client, target.name, target.key, target.until - JEDI_PATIENCE)
        if found is None:
            raise NotFound(f"no task named {target.name} with the key of this step is registered.")
        task_id = found.task_id
    require(client, task_id, target.key)
    try:
        client.task.kill(task_id)
    except WrongState:
        if target.mark and _may_run_on(client.task.get_detailed_info(task_id), target.mark):
            raise


def _may_run_on(info: TaskInfo, mark: Mark) -> bool:
    """Whether the command that JEDI may have yet to execute is still to come, or came just after the refusal."""
    return mark.holds(info) or info.status in ACTIVE_STATUSES - ABOUT_TO_ABORT


def main() -> None:
    """Read what to kill from standard input, kill it, and tell whoever still listens."""
    order = json.load(sys.stdin)
    target = Target.from_json(order["target"])
    try:
        with PandaClient(ClientConfig.from_env({}, **order["config"])) as client:
            reap(client, target)
        fate = f"{target} was told to stop."
    except NotOurs as error:
        fate = str(error)
    except PandaError as error:
        fate = f"{target} may still be running; kill it on the PanDA monitor. {error}"
    sys.stderr.write(f"{fate}\n")
    last_words.leave(target.key, fate)
    with suppress(BrokenPipeError):
        sys.stdout.write(fate)
        sys.stdout.flush()
