"""Steps that wait for PanDA tasks they do not own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NoReturn

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSensorTimeout

from panda_airflow.client import PandaError, WaitTimeout
from panda_airflow.client.waiting import WaitPlan, Watch
from panda_airflow.hooks.result import TaskResult, settle
from panda_airflow.hooks.step import PandaStep, read_task_id
from panda_airflow.links.panda import PandaTaskLink
from panda_airflow.triggers.panda import PandaTaskTrigger

Context = Any


class PandaWaitTaskStatusSensor(PandaStep, BaseSensorOperator):
    """Wait until a PanDA task has one of the given statuses.

    A final status that is not among them fails the sensor at once. The result is that of an operator which
    waited for the task.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param statuses: statuses that end the wait well.
    :param panda_conn_id: Airflow connection of type ``panda``.
    :param deferrable: wait in the triggerer, whatever ``mode`` says.
    :param outage: how long the server may be unreachable, in seconds, before the sensor gives up.
    :param cancel_on_kill: kill the PanDA task when a person ends the sensor while it is deferred.
    :param cancel_on_timeout: kill the PanDA task when the timeout passes while the sensor is deferred.

    ``mode``, ``poke_interval``, ``timeout`` and ``soft_fail`` are those of any sensor.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "jedi_task_id")
    operator_extra_links = (PandaTaskLink(),)
    ui_color = "#e0ecf4"

    def __init__(
        self,
        *,
        jedi_task_id: int | str,
        statuses: Sequence[str] = ("done",),
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        outage: float = 6 * 3600.0,
        cancel_on_kill: bool = False,
        cancel_on_timeout: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.jedi_task_id = jedi_task_id
        self.statuses = tuple(statuses)
        self.deferrable = deferrable
        self.outage = outage
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.monitor_url = ""

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer, or by poking as any sensor does."""
        self.monitor_url = self.hook.config.task_page(read_task_id(self.jedi_task_id))
        if self.deferrable:
            self._defer(context)
        return super().execute(context)

    def _defer(self, context: Context) -> NoReturn:
        deadline = context["ti"].start_date.timestamp() + self.timeout
        plan = self._plan(time.time(), deadline)
        self.defer(
            trigger=PandaTaskTrigger(self.panda_conn_id, plan.to_json(), cancel_on_kill=self.cancel_on_kill),
            method_name="execute_complete",
            timeout=timedelta(seconds=max(0.0, deadline - time.time()) + 2 * self.poke_interval + 60),
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> TaskResult:  # noqa: ARG002
        """Turn the event of the wait into the sensor's result, or raise why there is none."""
        self.monitor_url = self.hook.config.task_page(read_task_id(self.jedi_task_id))
        try:
            return settle(self.hook, event)
        except WaitTimeout as timeout:
            if event["kind"] != "timeout":
                raise
            raise AirflowSensorTimeout(str(timeout)) from timeout

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the task once; what earlier pokes of this try saw is in the task state store."""
        store, this_try = context["task_state_store"], context["ti"].try_number
        before = store.get("panda_watch")
        if not before or before["try"] != this_try:
            before = {"try": this_try, "since": time.time(), "seen": {}}
        watch = Watch(self._plan(before["since"], None), **before["seen"])
        event = watch.judge(self._look(), time.time())
        if event:
            return PokeReturnValue(is_done=True, xcom_value=settle(self.hook, event))
        (self.log.warning if watch.warn else self.log.info)("%s", watch.note)
        store.set("panda_watch", before | {"seen": watch.memory()})
        return PokeReturnValue(is_done=False)

    def _plan(self, since: float, deadline: float | None) -> WaitPlan:
        return WaitPlan(
            read_task_id(self.jedi_task_id),
            since,
            poll_interval=self.poke_interval,
            deadline=deadline,
            statuses=self.statuses,
            outage=self.outage,
            cancel_on_timeout=self.cancel_on_timeout,
        )

    def _look(self) -> object:
        try:
            return self.hook.client.task.get_detailed_info(read_task_id(self.jedi_task_id))
        except PandaError as error:
            return error
