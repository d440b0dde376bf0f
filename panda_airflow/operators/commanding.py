"""What the steps that command a PanDA task have in common: JEDI executes a command minutes after it is registered."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from typing import Any, ClassVar

from panda_airflow.client import NotFound, PandaError, WrongState
from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.stored import Account
from panda_airflow.operators.base import PandaTaskOperator
from panda_airflow.steps.base import Context
from panda_airflow.steps.result import TaskResult
from panda_airflow.steps.state_store import Memory, clears
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.task import WaitPlan


class PandaCommandOperator(PandaTaskOperator):
    """Base of the steps that command a task and wait until it shows that JEDI has obeyed.

    A task that was submitted moments ago is waited for. A task that is already as wanted is left alone. A retry
    of the Airflow task after the loss of a worker gives the command again only where that is harmless. Neither a
    kill of the step nor its timeout kills the PanDA task, unless the author says so.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param statuses: statuses that show success; any other final status fails the step.
    :param timeout: longest wait, as a timedelta or in seconds, counted from the command.

    The other parameters are those of :class:`~panda_airflow.operators.base.PandaTaskOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "jedi_task_id")
    also_accepts = ()
    what: str = "The command to"
    """What the command does, up to the name of the task."""
    runs_jobs: ClassVar[bool] = False
    """Whether the command is given so that new jobs run."""
    is_hollow_without: ClassVar[bool] = False
    """Whether an end without any new job is no success."""
    repeatable: ClassVar[bool] = False
    """Whether the command does no harm to a task that has moved on since it was given first."""

    def __init__(
        self,
        *,
        jedi_task_id: int | str,
        statuses: Sequence[str] = ("done",),
        timeout: timedelta | float | None = None,
        cancel_on_kill: bool = False,
        cancel_on_timeout: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            statuses=statuses,
            timeout=timeout,
            cancel_on_kill=cancel_on_kill,
            cancel_on_timeout=cancel_on_timeout,
            **kwargs,
        )
        self.jedi_task_id = jedi_task_id
        self._is_repeated = False

    @abstractmethod
    def command(self, task_id: int) -> object:
        """Send the command."""

    def is_needless(self, info: TaskInfo) -> bool:
        """Whether the task is as wanted already."""
        return info.status in self.statuses

    def obtain(self, context: Context) -> WaitPlan:
        """Give the command unless it is needless or was given before, and plan the wait for its effect."""
        given = self._given(context)
        info = self.registered(self.task_id_of(self.jedi_task_id))
        if given is None and self.is_needless(info):
            self.log.info("PanDA task %s is %s already: there is nothing to do.", info.task_id, info.status)
            return self.plan(context, info.task_id, time.time())
        if given is None or self._shall_repeat(info, given):
            given = {"mark": asdict(Mark.of(info)), "since": time.time(), "clears": clears(context, self.retries)}
            given |= {"was": info.status, "newest": self._newest_job(info.task_id)}
            Memory(context, "panda_command").remember(given | {"account": asdict(self.account)})
            self._give(info)
        return self.plan(context, info.task_id, given.get("since", time.time()), Mark.from_json(given.get("mark")))

    def _finish(self, context: Context, event: WaitEvent) -> TaskResult:
        """Tell in the result what the command has done, too."""
        self._is_repeated = event["kind"] == "timeout" and self._would_repeat(context, event["task_id"])
        given = self._given(context)
        result = super()._finish(context, self._unless_hollow(event, (given or {}).get("newest", 0)))
        if given:
            result["message"] = self._effect(given, result)
            self.log.info("%s", result["message"])
        return result

    def _unless_hollow(self, event: WaitEvent, newest: int) -> WaitEvent:
        """Believe the good end of a task that was to run again only if new jobs ran."""
        if not self.is_hollow_without or event["kind"] != "ended" or not event["status"]:
            return event
        if any(job_id > newest for job_id in self.client.task.get_details(event["task_id"]).job_ids):
            return event
        return {**event, "kind": "failed", "note": "It was to run again, and no new job ran: nothing was done."}

    def _effect(self, given: dict[str, Any], result: TaskResult) -> str:
        what = f"{self.what} PanDA task {result['jedi_task_id']}, which was {given.get('was')}"
        if not result["status"]:
            return f"{what}: it is registered, and JEDI carries it out in a few minutes."
        files = result["files"] or {"finished": 0, "total": 0}
        jobs = f"; {self._new_jobs(result['jedi_task_id'], given.get('newest', 0))}" if self.runs_jobs else ""
        return f"{what}: it is {result['status']}, {files['finished']} of {files['total']} inputs finished{jobs}."

    def _newest_job(self, task_id: int) -> int:
        """Return the newest PandaID before the command, from which new ones are told, or 0."""
        if not self.runs_jobs:
            return 0
        with suppress(NotFound):
            return max(self.client.task.get_details(task_id).job_ids, default=0)
        return 0

    def _new_jobs(self, task_id: int, newest: int) -> str:
        try:
            number = sum(job_id > newest for job_id in self.client.task.get_details(task_id).job_ids)
        except PandaError as error:
            return f"whether new jobs ran cannot be read: {error}"
        return f"{number} new jobs ran" if number else "no new job ran, as there was no input for one"

    def retry_note(self, event: WaitEvent) -> str:
        """Say what a retry of the step does after a wait that ended badly."""
        repeated = "JEDI may have dropped the command; a retry of this step gives it again."
        return repeated if self._is_repeated else super().retry_note(event)

    def _given(self, context: Context) -> dict[str, Any] | None:
        """Recall the command that an earlier try gave, or was about to give, since the last clear.

        :raises NotOurs: the connection meant another server or user then.
        """
        given = Memory(context, "panda_command").recall()
        if not given or given.get("clears") != clears(context, self.retries):
            return None
        self.same_account("the command of an earlier try", Account.from_json(given.get("account")))
        return given

    def _would_repeat(self, context: Context, task_id: int) -> bool:
        """Whether a retry of this step, as far as can be told now, gives the command again."""
        given = self._given(context)
        if given is None or self.cancel_on_timeout:
            return False
        with suppress(PandaError):  # the timeout must not be hidden by what follows
            return self._shall_repeat(self.look(task_id), given)
        return False

    def _shall_repeat(self, info: TaskInfo, given: dict[str, Any]) -> bool:
        """Whether to give a command again that an earlier try gave, or was about to give."""
        mark = Mark.from_json(given.get("mark"))
        return (mark is not None and mark.holds(info)) or (self.repeatable and not self.is_needless(info))

    def _give(self, info: TaskInfo) -> None:
        """Send the command; a refusal is no harm if the task has become what was wanted meanwhile."""
        try:
            self.command(info.task_id)
        except WrongState:
            now = self.look(info.task_id)
            if not self.is_needless(now):
                raise
            self.log.info("PanDA task %s has become %s by itself.", now.task_id, now.status)
        else:
            self.log.info("PanDA task %s was %s; the command is registered.", info.task_id, info.status)
