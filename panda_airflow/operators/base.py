"""What every step that owns a PanDA task has in common: the wait, the kill and the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import TaskDeferralTimeout
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from panda_airflow.client import PandaClient, WaitTimeout
from panda_airflow.client.driver import drive
from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.waiting import JEDI_PATIENCE, WaitPlan, read_event
from panda_airflow.hooks.result import TaskResult, settle
from panda_airflow.hooks.step import PandaStep
from panda_airflow.links.panda import PandaTaskLink
from panda_airflow.triggers.panda import PandaTaskTrigger

Context = Any
"""Airflow's context; its own type lists every key of every kind of run."""


SLOWEST_LOOK = 300.0
"""Seconds that one look at a task may last, repeated requests included."""


class Memory:
    """What a step remembers across its tries, in Airflow's task state store.

    :param context: Airflow's context of the running try.
    :param key: what is remembered.
    """

    def __init__(self, context: Context, key: str) -> None:
        self._store = context["task_state_store"]
        self._key = key

    def recall(self) -> dict[str, Any] | None:
        """Return what was remembered last, or None."""
        value: dict[str, Any] | None = self._store.get(self._key)
        return value

    def remember(self, value: dict[str, Any]) -> None:
        """Remember a JSON object for as long as the DAG run exists."""
        self._store.set(self._key, value, retention=NEVER_EXPIRE)


class PandaTaskOperator(PandaStep):
    """Base of the steps that own a PanDA task.

    :param panda_conn_id: Airflow connection of type ``panda``.
    :param wait_for_completion: wait until the task ends; otherwise succeed once the server has accepted.
    :param deferrable: wait in the triggerer, where no worker is held.
    :param accept: statuses that satisfy the step; any other final status fails it.
    :param poll_interval: seconds between looks at the task, at first; long waits look less often.
    :param timeout: longest wait, as a timedelta or in seconds, counted from the submission or the command.
    :param outage: how long the server may be unreachable, in seconds, before the step gives up.
    :param cancel_on_kill: kill the PanDA task when a person ends the step, or clears it.
    :param cancel_on_timeout: kill the PanDA task when the timeout passes.
    """

    operator_extra_links = (PandaTaskLink(),)
    ui_color = "#d8e8d0"

    def __init__(
        self,
        *,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        accept: Sequence[str] = ("done",),
        poll_interval: float = 60.0,
        timeout: timedelta | float | None = None,
        outage: float = 6 * 3600.0,
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.accept = tuple(accept)
        self.poll_interval = poll_interval
        self.timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self.outage = outage
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.monitor_url = ""
        self._running_task: int | None = None

    def look(self, jedi_task_id: int) -> TaskInfo:
        """Read the state of a task."""
        return self.client.task.get_detailed_info(jedi_task_id)

    def plan(self, context: Context, jedi_task_id: int, since: float, mark: Mark | None = None) -> WaitPlan:
        """Plan the wait for a task.

        :param since: epoch seconds of the submission or command.
        :param mark: where the task stood before a command, whose final status is not to be believed.
        """
        return WaitPlan(
            jedi_task_id,
            since,
            poll_interval=self.poll_interval,
            deadline=self._deadline(context, since),
            statuses=self.accept,
            patience=JEDI_PATIENCE,
            outage=self.outage,
            cancel_on_timeout=self.cancel_on_timeout,
            mark=mark,
        )

    def _deadline(self, context: Context, since: float) -> float | None:
        """Take the earlier of this step's timeout and, where it is deferred and so not enforced, Airflow's own."""
        limits = [since + self.timeout] if self.timeout is not None else []
        if self.deferrable and self.execution_timeout:
            limits.append(context["ti"].start_date.timestamp() + self.execution_timeout.total_seconds())
        return min(limits, default=None)

    def follow(self, context: Context, plan: WaitPlan) -> TaskResult:
        """Wait for a task as the author wants it: in the triggerer, in this worker, or not at all."""
        self._running_task = plan.task_id
        self.monitor_url = self.hook.config.task_page(plan.task_id)
        self.log.info("PanDA task %s: %s", plan.task_id, self.monitor_url)
        if not self.wait_for_completion:
            return settle(self.hook, {"kind": "ended", "task_id": plan.task_id, "status": ""})
        if self.deferrable:
            Memory(context, "panda_wait").remember({"task_id": plan.task_id})
            self.defer(
                trigger=PandaTaskTrigger(self.panda_conn_id, plan.to_json(), cancel_on_kill=self.cancel_on_kill),
                method_name="execute_complete",
                timeout=_backstop(plan),
            )
        event = drive(
            plan,
            lambda: self.look(plan.task_id),
            lambda: self.client.task.kill(plan.task_id),
            sleep=time.sleep,
            clock=time.time,
            log=self.log,
        )
        return self.execute_complete(context, event)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral; where Airflow ended it because the trigger fell silent, kill the PanDA task."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout as silence:
            task_id = (Memory(context, "panda_wait").recall() or {}).get("task_id", 0)
            note = "The trigger did not report in time. The PanDA task was left running."
            if self.cancel_on_timeout and task_id:
                self.client.task.kill(task_id)
                note = "The trigger did not report in time. The PanDA task was told to stop."
            raise WaitTimeout(f"PanDA task {task_id}: {note}", task_id=task_id) from silence

    def execute_complete(self, context: Context, event: object) -> TaskResult:  # noqa: ARG002
        """Turn the event of a wait into the step's result, or raise why there is none."""
        self._running_task = None
        self.monitor_url = self.hook.config.task_page(read_event(event)["task_id"])
        return settle(self.hook, event)

    def on_kill(self) -> None:
        """Kill the PanDA task when this worker is told to stop.

        Runs in a signal handler with seconds to live: a new client, one request, no question to Airflow. The
        server refuses to kill a task that is not registered yet; the log then says that it runs on.
        """
        if self.cancel_on_kill and self._running_task:
            try:
                with PandaClient(self.hook.config) as client:
                    client.task.kill(self._running_task)
                self.log.warning("PanDA task %s was told to stop.", self._running_task)
            except Exception:  # the worker is dying: say what is left behind
                self.log.exception("PanDA task %s may still be running: killing it failed.", self._running_task)

    def retry_in_place(self, context: Context, info: TaskInfo, command: Callable[[], object]) -> WaitPlan:
        """Register a retry of a task, and plan to wait until it has moved on and ended again.

        :param info: the ended task.
        :param command: sends ``task/retry``; harmless where an earlier try sent it and JEDI has yet to execute it.
        """
        command()
        self.log.info("PanDA task %s ended as %s: its retry is registered.", info.task_id, info.status)
        return self.plan(context, info.task_id, time.time(), Mark.of(info))


def _backstop(plan: WaitPlan) -> timedelta | None:
    """When Airflow itself ends a deferral whose trigger missed its deadline: later than its slowest last look."""
    if plan.deadline is None:
        return None
    return timedelta(seconds=max(0.0, plan.deadline - time.time()) + 2 * plan.poll_interval + SLOWEST_LOOK)
