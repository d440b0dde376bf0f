"""Retries of a PanDA task in place: each is recorded before it is sent, so that no lost process makes it twice.

A triggerer has nowhere to record anything: where a wait in it finds that a retry is due, it ends, and the worker that
goes on records the retry, sends it and defers again. Whichever process is killed, at whichever point, the record says
which retries there were; the last of them is sent once more where the task has not moved, which replaces it on the
server, too.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from panda_airflow.client import (
    AuthError,
    ConfigError,
    InvalidArgument,
    NotCarriedOut,
    NotFound,
    PandaError,
    PermissionDenied,
    Refused,
    ServerError,
    TaskAborted,
    TransportError,
    UsageError,
)
from panda_airflow.client.models import Json, Mark, TaskInfo
from panda_airflow.steps.base import Context
from panda_airflow.steps.kill.reaper import Target
from panda_airflow.steps.lineage import TaskLineage
from panda_airflow.steps.state_store import Memory
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.ownership import require
from panda_airflow.waiting.task import JEDI_PATIENCE, WaitPlan
from panda_airflow.waiting.task_polls import has_database
from panda_airflow.waiting.task_retry import RetryHistory, TaskRetryPolicy


class RetriesInPlace(TaskLineage):
    """What a step needs for retries of its PanDA task."""

    task_retry: TaskRetryPolicy | None
    outage: float
    _key: str
    _target: Target | None
    _told_to_stop: bool

    @abstractmethod
    def look(self, jedi_task_id: int) -> TaskInfo:
        """Read the state of a task."""

    @abstractmethod
    def plan(self, context: Context, jedi_task_id: int, since: float, mark: Mark | None = None) -> WaitPlan:
        """Plan the wait for a task."""

    def history(self, context: Context, task_id: int) -> RetryHistory:
        """Recall the retries of a task that this step has recorded."""
        return RetryHistory.of(task_id, self._key, Memory(context, "panda_retries").recall())

    def remember_history(self, context: Context, history: RetryHistory) -> None:
        """Record the retries of a task."""
        Memory(context, "panda_retries").remember(history.to_json())

    def retry_at_first(self, context: Context, info: TaskInfo, new_parameters: Mapping[str, Json], **how: bool) -> None:
        """Begin a try of this step with a retry, which those of a policy do not count; see :meth:`retry_in_place`."""
        self.retry_in_place(context, info, new_parameters, **how)
        self.remember_history(context, self.history(context, info.task_id).anew())

    def retry_in_place(
        self,
        context: Context,
        info: TaskInfo,
        new_parameters: Mapping[str, Json],
        *,
        by_policy: bool = False,
        **qualifiers: bool,
    ) -> None:
        """Record a retry of an ended task and have it registered.

        :param new_parameters: task parameters to overwrite, if any.
        :param by_policy: whether its parameters are those of the policy.
        :param qualifiers: further arguments of ``task/retry``.
        :raises UsageError: the server would make a new task of a production task that is retried with these.
        :raises NotOurs: the task is not this step's.
        """
        if self._told_to_stop:
            raise TaskAborted("the step was told to stop before it retried its PanDA task.", task_id=info.task_id)
        if new_parameters and info.raw.get("taskType", "anal") != "anal":
            raise UsageError(
                f"PanDA task {info.task_id} is a production task: new parameters would make its retry another task.",
                advice="Retry it without new parameters, or submit the other one by a step of its own.",
            )
        history = self.history(context, info.task_id)
        self.remember_history(context, history.noted(info, time.time(), by_policy=by_policy))
        require(self.client, info.task_id, self._key)
        self._expect_move(info)
        overwrite: dict[str, Any] = {"new_parameters": dict(new_parameters)} if new_parameters else {}
        self._send_retry(info.task_id, **overwrite | qualifiers)
        changed = "".join(f", {name}={value!r:.80}" for name, value in new_parameters.items())
        self.log.info("PanDA task %s ended as %s: its retry is registered%s.", info.task_id, info.status, changed)

    def _expect_move(self, info: TaskInfo) -> None:
        """Know that a kill has to wait for the retry that JEDI has yet to execute."""
        until = time.time() + JEDI_PATIENCE
        self._target = Target((info.task_id,), "", Mark.of(info), until, key=self._key, account=self.account)

    def _send_retry(self, task_id: int, **given: Any) -> None:
        """Have a retry registered; a single refusal of what is this step's to retry proves nothing.

        A server that cannot reach its database for a moment says that the caller is not the owner.

        :raises NotCarriedOut: the server cannot reach its database.
        """
        try:
            self.client.task.retry(task_id, **given)
        except (PermissionDenied, InvalidArgument) as refusal:
            self.log.warning("%s Asking again.", refusal)
            if not has_database(self.client):
                raise NotCarriedOut(str(refusal), endpoint="task/retry", advice="Try again later.") from refusal
            self.client.task.retry(task_id, **given)

    def retry_by_policy(self, context: Context, plan: WaitPlan, event: WaitEvent) -> WaitPlan | WaitEvent:
        """Retry the task of a wait whose policy says so: plan the next wait, or say how the step ends.

        :raises NotOurs: the task is not this step's.
        """
        try:
            info = self.look(plan.task_id)
        except PandaError as error:  # the wait itself says how long looks may fail
            self.log.warning("PanDA task %s was to be retried: %s", plan.task_id, error)
            return plan
        policy, history = self.task_retry, self.history(context, plan.task_id)
        if policy and info.status not in policy.statuses:
            return replace(plan, made=history.here)
        if policy is None or (history.here >= policy.attempts and not history.is_pending(info)):
            return event
        try:
            parameters = policy.parameters_of(history.number(info))
            self.retry_in_place(context, info, parameters, by_policy=True)
        except (NotFound, AuthError, ConfigError, TransportError, ServerError) as trouble:
            return self._not_registered(context, plan, event, info, trouble)
        except (UsageError, Refused) as refusal:
            return self._refused(plan, event, info, refusal)
        return replace(plan, mark=Mark.of(info), since=time.time(), made=self.history(context, plan.task_id).here)

    def _refused(self, plan: WaitPlan, event: WaitEvent, info: TaskInfo, refusal: PandaError) -> WaitPlan | WaitEvent:
        """End the step, unless the task has moved meanwhile."""
        if not Mark.of(info).holds(self.look(plan.task_id)):
            return replace(plan, mark=None)
        return {**event, "note": f"Its retry could not be registered: {refusal}"}

    def _not_registered(
        self, context: Context, plan: WaitPlan, event: WaitEvent, info: TaskInfo, trouble: PandaError
    ) -> WaitPlan | WaitEvent:
        """Wait on, and send the retry again after a pause, for as long as an outage may last."""
        history = self.history(context, plan.task_id)
        is_pending = history.is_pending(info)
        self.log.warning("The retry of PanDA task %s was not registered: %s", plan.task_id, trouble)
        if is_pending and time.time() >= history.sent[-1].at + self.outage:
            return {**event, "note": f"Its retry could not be registered: {trouble}"}
        return replace(plan, mark=None, made=history.here - is_pending)
