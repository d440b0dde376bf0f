"""The step that retries a PanDA task in place."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from panda_airflow.client import TaskAborted, TaskFailed
from panda_airflow.client.models import Json, Mark, TaskInfo
from panda_airflow.client.status import RETRYABLE_STATUSES, Outcome, classify
from panda_airflow.client.stored import Account
from panda_airflow.operators.base import PandaTaskOperator
from panda_airflow.steps.base import Context
from panda_airflow.steps.result import LOOK_AGAIN
from panda_airflow.steps.state_store import Memory, clears
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.task import WaitPlan

QUALIFIERS = (
    "no_child_retry", "discard_events", "disable_staging_mode", "keep_gshare_priority", "ignore_hard_exhausted",
)  # fmt: skip
"""Arguments by which ``task/retry`` is qualified."""


class PandaRetryTaskOperator(PandaTaskOperator):
    """Retry the unsuccessful part of a PanDA task in place and wait for it.

    A task that satisfies the step already is left alone; one that is active is waited for. Each retry of the
    Airflow task retries the PanDA task once more.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param new_parameters: task parameters to overwrite, for example more memory.
    :param no_child_retry: leave child tasks alone. This and the next four are those of ``client.task.retry``.
    :param task_retry: when and how often the PanDA task is retried further; where none of the parameters above is
        given, it says also when and with which parameters the first retry is made, which else is at once.
    :param cancel_on_kill: kill the PanDA task when a person ends or clears this step; not by default, since the
        task belongs to the step that submitted it and a killed task cannot be retried.
    :param cancel_on_timeout: kill it when the timeout passes or the step gives up; not by default, as above.

    The other parameters are those of :class:`~panda_airflow.operators.base.PandaTaskOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "jedi_task_id", "new_parameters")
    template_fields_renderers = {"new_parameters": "json"}  # noqa: RUF012 - declared so by Airflow

    def __init__(
        self,
        *,
        jedi_task_id: int | str,
        new_parameters: dict[str, Json] | None = None,
        no_child_retry: bool = False,
        discard_events: bool = False,
        disable_staging_mode: bool = False,
        keep_gshare_priority: bool = False,
        ignore_hard_exhausted: bool = False,
        cancel_on_kill: bool = False,
        cancel_on_timeout: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(cancel_on_kill=cancel_on_kill, cancel_on_timeout=cancel_on_timeout, **kwargs)
        self.jedi_task_id = jedi_task_id
        self.new_parameters = new_parameters
        given = (no_child_retry, discard_events, disable_staging_mode, keep_gshare_priority, ignore_hard_exhausted)
        self.qualifiers = {name: True for name, wanted in zip(QUALIFIERS, given, strict=True) if wanted}

    def obtain(self, context: Context) -> WaitPlan:
        """Retry the task if it ended without satisfying this step, and plan the wait for it."""
        task_id = self.task_id_of(self.jedi_task_id)
        self._check_memory(context)
        info = self.registered(task_id)
        if info.status in self.statuses or not classify(info.status).is_final:
            self.log.info("PanDA task %s is %s: nothing to retry now.", info.task_id, info.status)
            return self.plan(context, info.task_id, time.time())
        if info.status not in RETRYABLE_STATUSES:
            error = TaskAborted if classify(info.status) is Outcome.ABORTED else TaskFailed
            raise error(
                f"PanDA task {info.task_id} is {info.status} and cannot be retried.",
                task_id=info.task_id,
                status=info.status,
                advice="Submit it anew.",
                hopeless=True,
            )
        by_policy = self.task_retry and info.status in self.task_retry.statuses and self.wait_for_completion
        if by_policy and not self.new_parameters and not self.qualifiers:
            self._count_anew(context, info)
            return self.plan(context, info.task_id, time.time())
        self.retry_at_first(context, info, self.new_parameters or {}, **self.qualifiers)
        return self.plan(context, info.task_id, time.time(), Mark.of(info))

    def _check_memory(self, context: Context) -> None:
        """Make sure that an earlier try has not retried a task of another server.

        :raises NotOurs: it has, and nobody has cleared the step since.
        """
        memory, cleared = Memory(context, "panda_retry"), clears(context, self.retries)
        before = memory.recall() or {}
        if before.get("clears") == cleared:
            self.same_account("what an earlier try retried", Account.from_json(before.get("account")))
        else:
            memory.remember({"clears": cleared, "account": asdict(self.account)})

    def _count_anew(self, context: Context, info: TaskInfo) -> None:
        """Give a try whose predecessor used up the policy as many retries once more."""
        history = self.history(context, info.task_id)
        if self.task_retry and history.here >= self.task_retry.attempts and not history.is_pending(info):
            self.remember_history(context, history.anew())

    def retry_note(self, event: WaitEvent) -> str:
        """Say what a retry of the step does after a wait that ended badly."""
        if event["kind"] == "failed":
            can = event["status"] in RETRYABLE_STATUSES
            if self._is_last and can:
                return "This was the last try; a clear of this step retries the PanDA task in place once more."
            return "A retry of this step retries the PanDA task in place." if can else "The task cannot be retried."
        return LOOK_AGAIN
