"""Steps that wait for PanDA tasks they do not own."""

from __future__ import annotations

import time
from ast import literal_eval
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from typing import Any

from airflow.sdk import PokeReturnValue, XComArg
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException, AirflowTaskTimeout

from panda_airflow.client import PandaError, ServerAway, TaskOutcome, WaitTimeout
from panda_airflow.client.status import check_statuses
from panda_airflow.client.stored import known
from panda_airflow.links.panda import PandaTaskLink
from panda_airflow.sensors.base import DeferredSensor, seen_in
from panda_airflow.steps.assets import publish
from panda_airflow.steps.base import Context, PandaStep
from panda_airflow.steps.ended import kill_if_refused
from panda_airflow.steps.kill.reaper import FAREWELL, LAST_WORDS, Target, send_reaper
from panda_airflow.steps.many import settle_many
from panda_airflow.steps.result import TaskResult
from panda_airflow.triggers.base import backstop
from panda_airflow.triggers.many import PandaManyTasksTrigger
from panda_airflow.waiting.driver import Failures, Request, first_look
from panda_airflow.waiting.many import ManyEvent, ManyPlan, ManyWatch, read_many
from panda_airflow.waiting.task import JEDI_PATIENCE, WaitPlan
from panda_airflow.waiting.task_polls import look_at_list, perform_many

Given = int | str | dict[str, Any] | XComArg
"""One task as a DAG author gives it: its JediTaskID, its digits, a template, or what a step returned."""


class PandaWaitTaskStatusSensor(PandaStep, DeferredSensor):
    """Wait until a PanDA task, or each task of a list, has one of the given statuses.

    A final status that is not among them fails the sensor. The result is that of an operator which waited for the
    task, or a list of such results in the order given; an empty list succeeds. For a list of more than 100 tasks
    the results hold neither names nor output datasets. A list needs one Airflow task and one trigger.

    The asset events of the outlets tell what those of an operator do. Of a list, an asset alias gets an event for
    each output dataset of each task, and the one event of an asset tells of the first task.

    :param jedi_task_id: JediTaskID, the result of a step, a list of these, or a template that yields one of them.
    :param statuses: statuses that end the wait well.
    :param min_finished: fraction of the input files (without input: of the jobs) that are enough, whatever the status.
    :param fail_fast: fail as soon as one task of a list ends badly; otherwise once all have ended.
    :param panda_conn_id: Airflow connection of type ``panda``.
    :param deferrable: wait in the triggerer, whatever ``mode`` says.
    :param outage: how long the server may be unreachable, in seconds, before the sensor gives up.
    :param cancel_on_kill: kill the PanDA tasks that still run when a person ends the sensor; between two pokes of
        mode ``reschedule`` nobody can.
    :param cancel_on_timeout: kill these when ``timeout`` or ``execution_timeout`` passes.

    ``mode``, ``poke_interval``, ``timeout``, ``soft_fail`` and ``never_fail`` are those of any sensor.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "jedi_task_id")
    operator_extra_links = (PandaTaskLink(),)
    ui_color = "#e0ecf4"

    def __init__(
        self,
        *,
        jedi_task_id: Given | Sequence[Given],
        statuses: Sequence[str] = ("done",),
        min_finished: float | None = None,
        fail_fast: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        outage: float = 6 * 3600.0,
        cancel_on_kill: bool = False,
        cancel_on_timeout: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.jedi_task_id = jedi_task_id
        self.statuses = check_statuses(statuses, f"statuses of {self.task_id}")
        self.min_finished = min_finished
        self.fail_fast = fail_fast
        self.deferrable = deferrable
        self.outage = outage
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.monitor_url = ""
        self._target: Target | None = None
        self._timed_out = False

    @cached_property
    def task_ids(self) -> int | list[int]:
        """The JediTaskIDs, once the template is rendered: a number, or a list without duplicates."""
        given = _evaluated(self.jedi_task_id)
        if isinstance(given, str) or not isinstance(given, Sequence):
            return self.task_id_of(given)
        items = given[:]  # at once: each item of a lazy sequence would be a request
        return list(dict.fromkeys(self.task_id_of(item) for item in items))

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer, or by poking as any sensor does."""
        _ = self.hook.config  # read before there are tasks to kill: the handler of a signal cannot ask Airflow
        if self.task_ids == []:
            self.log.info("The list of PanDA tasks is empty: there is nothing to wait for.")
            return []
        self._link(self.task_ids)
        self.same_as_at_first("what this sensor waits for", context)
        self._aim_at(self._listed())
        if self.deferrable:
            plan = self._plan(time.time(), self.deadline(context))
            if ended := self._seen_to_end(plan):
                return self.resume_execution("execute_complete", {"event": ended}, context)
            kill_if_refused(context["ti"], self.on_kill)
            self.defer(
                trigger=PandaManyTasksTrigger(self.panda_conn_id, plan.to_json(), cancel_on_kill=self.cancel_on_kill),
                method_name="execute_complete",
                timeout=backstop(plan.each.deadline, plan.each.poll_interval),
            )
        with self._ended_in_time():
            return super().execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral; a kill that the triggerer was refused is not given up."""
        _ = self.hook.config  # as in execute
        self.same_as_at_first("what this sensor waits for", context)
        self._aim_at(self._listed())
        with self._ended_in_time():
            return super().resume_execution(next_method, next_kwargs, context)

    def _aim_at(self, task_ids: Sequence[int]) -> None:
        """Know whom to kill, though the server may have to register them first."""
        self._target = Target(tuple(task_ids), until=time.time() + JEDI_PATIENCE, account=self.account)

    @contextmanager
    def _ended_in_time(self) -> Iterator[None]:
        """Kill the PanDA tasks if the sensor runs out of time, where the author wants that."""
        try:
            yield
        except (Exception, AirflowTaskTimeout) as end:
            self._timed_out = self._timed_out or _is_late(end)
            if self._timed_out and self.cancel_on_timeout and self._target:
                self._kill(self._target, LAST_WORDS)
                self._target = None
            raise

    def on_kill(self) -> None:
        """Kill the PanDA tasks when this worker is told to stop; see :meth:`PandaTaskOperator.on_kill`."""
        wanted = self.cancel_on_timeout if self._timed_out else self.cancel_on_kill
        if wanted and self._target:
            self._kill(self._target, FAREWELL)

    def _kill(self, target: Target, patience: float) -> None:
        try:
            self.log.warning("%s", send_reaper(self.hook.config, target, patience))
        except (OSError, PandaError):  # the sensor ends in any case: say what is left behind
            self.log.exception("%s may still be running: killing it failed.", target)

    def _seen_to_end(self, plan: ManyPlan) -> ManyEvent | None:
        """Look once before the deferral; at a long list only the triggerer looks, a few requests at a time."""
        if not plan.tells_details:
            return None

        def perform(step: Request) -> object:
            is_look = step.act == "look"
            return look_at_list(self.client, step.task_ids, plan.each) if is_look else perform_many(self.client, step)

        return first_look(plan, perform, self.log)

    def execute_complete(self, context: Context, event: object) -> TaskResult | list[TaskResult]:
        """Turn the event of the wait into the sensor's result, or raise why there is none."""
        known = read_many(event)
        late = [task["task_id"] for task in known["tasks"] if task["kind"] == "timeout"]
        if late:
            self._timed_out = True
            self._aim_at(late)
        try:
            return self._settle(context, known)
        except WaitTimeout as timeout:
            if known["first_bad"] in late:
                raise AirflowSensorTimeout(str(timeout)) from timeout
            raise

    def poke(self, context: Context) -> PokeReturnValue:
        """Look at the tasks once; what earlier pokes of this try saw is in the task state store."""
        store, before = context["task_state_store"], seen_in("panda_watches", context)
        watch = ManyWatch(self._plan(before["since"], None), **before["seen"])
        event = watch.judge(self._look(watch), time.time())
        if watch.note:
            (self.log.warning if watch.warn else self.log.info)("%s", watch.note)
        if event is None:
            store.set("panda_watches", before | {"seen": watch.memory()})
            return PokeReturnValue(is_done=False)
        try:
            return PokeReturnValue(is_done=True, xcom_value=self._settle(context, event))
        except TaskOutcome:
            raise
        except PandaError as error:
            store.set("panda_watches", before | {"unread": self._unread(before.get("unread", {}), error)})
            return PokeReturnValue(is_done=False)

    def _unread(self, before: dict[str, Any], error: PandaError) -> dict[str, Any]:
        """Count that it cannot be read what ended tasks have made: without that a success would be hollow.

        :raises ServerAway: it could not for too long.
        """
        failures = Failures(**known(Failures, before)).and_one(time.time())
        if failures.are_too_many(time.time(), self.outage):
            raise ServerAway(f"what the PanDA tasks have made could not be read for too long: {error}")
        self.log.warning("What the PanDA tasks have made cannot be read yet: %s", error)
        return asdict(failures)

    def _plan(self, since: float, deadline: float | None) -> ManyPlan:
        task_ids = self._listed()
        each = WaitPlan(
            task_ids[0],
            since,
            poll_interval=self.poke_interval,
            deadline=deadline,
            statuses=self.statuses,
            outage=self.outage,
            cancel_on_timeout=self.cancel_on_timeout,
            min_finished=self.min_finished,
            label=self.hook.config.task_label,
            details=True,
            account=self.account,
        )
        return ManyPlan(tuple(task_ids), each, self.fail_fast)

    def _listed(self) -> list[int]:
        return self.task_ids if isinstance(self.task_ids, list) else [self.task_ids]

    def _look(self, watch: ManyWatch) -> object:
        try:
            return look_at_list(self.client, watch.waiting, watch.plan.each)
        except PandaError as error:
            return error

    def _settle(self, context: Context, event: ManyEvent) -> TaskResult | list[TaskResult]:
        """Return and publish the result, in the form of what was given; link the first task that ended badly."""
        self._link(event["first_bad"] or self.task_ids)
        results = settle_many(self.hook, event)
        for result in results:
            publish(context, self.outlets, result, self.hook.config.vo)
        return results if isinstance(self.task_ids, list) else results[0]

    def _link(self, task: int | list[int]) -> None:
        """Let the step's button lead to a task; a list has no page of its own."""
        self.monitor_url = self.hook.config.task_page(task) if isinstance(task, int) else ""


def _is_late(end: BaseException) -> bool:
    """Whether a sensor ran out of time: ``soft_fail`` makes that a skip, with its cause or without any."""
    timeouts = (AirflowSensorTimeout, AirflowTaskTimeout)
    if isinstance(end, AirflowSkipException) and end.__cause__ is None:
        return True
    return isinstance(end, timeouts) or isinstance(end.__cause__, timeouts)


def _evaluated(value: object) -> object:
    """Read what a template yields, which is text even where it means a list: ``[1, 2]`` or ``1, 2``."""
    if isinstance(value, str) and not value.strip().isdecimal():
        with suppress(ValueError, SyntaxError):
            return literal_eval(value.strip())
    return value
