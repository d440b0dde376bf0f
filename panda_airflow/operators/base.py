"""What every step that owns a PanDA task has in common: the wait, the kill and the result."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, NoReturn

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowRuntimeError, AirflowTaskTimeout, TaskDeferralTimeout

from panda_airflow.client import (
    NotFound,
    PandaClient,
    PandaError,
    TaskOutcome,
    UsageError,
    WaitTimeout,
)
from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.status import check_statuses, classify
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.links.panda import PandaTaskLink
from panda_airflow.steps.assets import publish
from panda_airflow.steps.base import Context
from panda_airflow.steps.ended import kill_if_refused
from panda_airflow.steps.in_place import RetriesInPlace
from panda_airflow.steps.kill.reaper import FAREWELL, LAST_WORDS, Target, send_reaper
from panda_airflow.steps.lookup import until_registered
from panda_airflow.steps.result import LOOK_AGAIN, TaskResult, settle
from panda_airflow.steps.state_store import Memory, end_noted, gives_up
from panda_airflow.triggers.base import backstop
from panda_airflow.triggers.panda import PandaTaskTrigger
from panda_airflow.waiting.driver import adrive, check_interval, first_look, run_apart
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.feed.joining import join
from panda_airflow.waiting.ownership import ask_again
from panda_airflow.waiting.task import JEDI_PATIENCE, WaitPlan, read_event
from panda_airflow.waiting.task_polls import perform
from panda_airflow.waiting.task_retry import TaskRetryPolicy


class PandaTaskOperator(RetriesInPlace):
    """Base of the steps that own a PanDA task.

    :param panda_conn_id: Airflow connection of type ``panda``.
    :param wait_for_completion: wait until the task ends; otherwise succeed once the server has accepted.
    :param deferrable: wait in the triggerer, where no worker is held.
    :param statuses: statuses that satisfy the step, and ``done`` in any case; any other final status fails it.
    :param poll_interval: seconds between looks at the task, at first; long waits look less often.
    :param timeout: longest wait, as a timedelta or in seconds, counted from the submission or the command.
    :param outage: how long the server may be unreachable, in seconds, before the step gives up.
    :param cancel_on_kill: kill the PanDA task when a person ends the step, or clears it.
    :param cancel_on_timeout: kill the PanDA task when the timeout passes, and when the step gives up for good for
        another reason, such as an outage that outlasts its retries.
    :param task_retry: when and how the PanDA task is retried in place while the step waits; by default only a retry
        of the Airflow task does that.
    """

    operator_extra_links = (PandaTaskLink(),)
    ui_color = "#d8e8d0"
    also_accepts: ClassVar[tuple[str, ...]] = ("done",)
    """What is good enough whatever ``statuses`` says: a task whose work is all done is never worked on anew."""

    def __init__(
        self,
        *,
        wait_for_completion: bool = True,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        statuses: Sequence[str] = ("done",),
        poll_interval: float = 60.0,
        timeout: timedelta | float | None = None,
        outage: float = 6 * 3600.0,
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        task_retry: TaskRetryPolicy | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_interval(poll_interval)
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        known = check_statuses(statuses, f"statuses of {self.task_id}")
        self.statuses = (*known, *(status for status in self.also_accepts if status not in known))
        self.poll_interval = poll_interval
        self.timeout = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        self.outage = outage
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self.task_retry = task_retry
        self.monitor_url = ""
        self._target: Target | None = None
        self._key = ""
        self._told_to_stop = False
        self._timed_out = False
        self._owns = True

    @abstractmethod
    def obtain(self, context: Context) -> WaitPlan:
        """Do what is needed so that there is a PanDA task to wait for, and plan the wait."""

    def execute(self, context: Context) -> TaskResult:
        """Do what the step is for, then wait."""
        _ = self.hook.config  # read before there is a task to kill: the handler of a signal cannot ask Airflow
        with self._accountable(context):
            return self.follow(context, self.obtain(context))

    def look(self, jedi_task_id: int) -> TaskInfo:
        """Read the state of a task."""
        return ask_again(lambda: self.client.task.get_detailed_info(jedi_task_id))

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
            statuses=self.statuses,
            patience=JEDI_PATIENCE,
            outage=self.outage,
            cancel_on_timeout=self.cancel_on_timeout and self._owns,
            mark=mark,
            retry=self.task_retry if self._owns else None,
            made=self.history(context, jedi_task_id).here if self.task_retry else 0,
            label=self.hook.config.task_label,
            details=True,
            key=self._key,
            account=self.account,
        )

    def _deadline(self, context: Context, since: float) -> float | None:
        """Take the earlier of this step's timeout and, where it is deferred and so not enforced, Airflow's own."""
        limits = [since + self.timeout] if self.timeout is not None else []
        if self.deferrable and self.execution_timeout:
            limits.append(context["ti"].start_date.timestamp() + self.execution_timeout.total_seconds())
        return min(limits, default=None)

    def follow(self, context: Context, plan: WaitPlan) -> TaskResult:
        """Wait for a task as the author wants it: in the triggerer, in this worker, or not at all."""
        self._tell(plan)
        if not self.wait_for_completion:
            return self._finish(context, {"kind": "ended", "task_id": plan.task_id, "status": ""})
        while isinstance(then := self.onward(context, plan, self._end_of(context, plan)), WaitPlan):
            plan = then
            self._tell(plan)
        return self._finish(context, then)

    def _end_of(self, context: Context, plan: WaitPlan) -> WaitEvent:
        """Wait to the end in this worker, or until the first look where the triggerer is to go on."""
        if not self.deferrable:
            return run_apart(self._wait(plan))
        ended = first_look(plan, partial(perform, self.client, plan.task_id), self.log)
        return ended or self._defer(context, plan)

    def _defer(self, context: Context, plan: WaitPlan) -> NoReturn:
        Memory(context, "panda_wait").remember({"plan": plan.to_json(), "owns": self._owns})
        kills = self.cancel_on_kill and self._owns
        kill_if_refused(context["ti"], self.on_kill)
        self.defer(
            trigger=PandaTaskTrigger(self.panda_conn_id, plan.to_json(), cancel_on_kill=kills),
            method_name="execute_complete",
            timeout=backstop(plan.deadline, plan.poll_interval),
        )

    def _tell(self, plan: WaitPlan) -> None:
        """Know what a kill has to end, and tell people where to look."""
        self._target = target_of(plan)
        self.known_task = plan.task_id
        self.monitor_url = self.hook.config.task_page(plan.task_id)
        self.log.info("PanDA task %s: %s", plan.task_id, self.monitor_url)

    async def _wait(self, plan: WaitPlan) -> WaitEvent:
        """Wait with a feed of this process, which looks as often as the plan says and heeds pushed changes."""
        async with join(self.panda_conn_id, self._connect, plan, own_pace=True) as waiter:
            return await adrive(plan, waiter.perform, sleep=waiter.rest, clock=time.time, log=self.log)

    def _connect(self) -> PandaClient:
        """Read the connection anew: during a long wait its credential may have been renewed."""
        hook = PandaHook(self.panda_conn_id)
        client = PandaClient(hook.config)
        self.hook = hook
        return client

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, which Airflow itself ends where the trigger fell silent."""
        _ = self.hook.config  # as in execute
        self._waited_for(context)
        with self._accountable(context):
            if self._target:
                target, self._target = self._target, None
                self.same_account(str(target), target.account)
                self._target = target
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except TaskDeferralTimeout as silence:
                raise self._silence() from silence

    def _waited_for(self, context: Context) -> WaitPlan | None:
        """Recall what this step deferred for, and whether it may end it; an earlier version kept less of that."""
        stored = Memory(context, "panda_wait").recall() or {}
        plan = WaitPlan.from_json(stored["plan"]) if "plan" in stored else None
        self._owns = stored.get("owns", True)
        self._key = plan.key if plan else ""
        self._target = target_of(plan) if plan else Target.from_json(stored["target"]) if "target" in stored else None
        return plan

    def _silence(self) -> WaitTimeout:
        """Say that the trigger did not report in time, and see to the PanDA task."""
        ends = self._target and self.cancel_on_timeout and self._owns
        fate = self._end_task() if ends else "The PanDA task was left running."
        return WaitTimeout(f"the trigger that waits for {self._target} did not report in time. {fate}", fate=fate)

    @contextmanager
    def _accountable(self, context: Context) -> Iterator[None]:
        """Leave nothing running where the step gives up for good, and say what became of its PanDA task."""
        try:
            with end_noted(self, context):
                yield
        except (Exception, AirflowTaskTimeout) as error:
            self._timed_out = isinstance(error, AirflowTaskTimeout)
            if fate := self._fate(context, error):
                self.log.warning("%s", fate)
            if fate and isinstance(error, PandaError):
                error.advice = f"{error.advice} {fate}".strip()
            raise

    def _fate(self, context: Context, error: BaseException) -> str:
        """See to the PanDA task of a step that fails; return what became of it, unless the error says so."""
        if self._target is None:
            return ""
        if isinstance(error, TaskOutcome) and (error.fate or _has_ended(error)):
            return ""
        if self._says_nothing_of_it(error):
            doubt = "" if self._target.task_ids else ", if it was submitted"
            return f"{self._target} was left running{doubt}: what ended the step says nothing about it."
        if not self._timed_out and not gives_up(self, context, error):
            runs = "runs on" if self._target.task_ids else "may have been submitted"
            return f"{self._target} {runs}; the next try {self._next_try}."
        return self._end_task() if self.cancel_on_timeout and self._owns else f"{self._target} was left running."

    def _says_nothing_of_it(self, error: BaseException) -> bool:
        """Whether an error is no reason to end a task that may be healthy: a DAG that was edited badly, an odd refusal.

        A renewal, a deployment and an outage cause such errors, of PanDA and of Airflow; an outage of PanDA that lasted
        ends a wait as ``ServerAway``. A task that may just have been submitted, of which only the key is known, is left
        alone only where the definition is at fault.
        """
        knows_id = self._target is not None and bool(self._target.task_ids)
        may_pass = (PandaError, AirflowRuntimeError) if knows_id else UsageError
        return isinstance(error, may_pass) and not isinstance(error, TaskOutcome)

    _next_try = "goes on with it"
    _is_last = False

    def _end_task(self) -> str:
        """Kill the PanDA task, however long the server is away; return what became of it."""
        if self._target is None:
            return ""
        target = replace(self._target, outage=max(self.outage, JEDI_PATIENCE))
        try:
            return send_reaper(self.hook.config, target, LAST_WORDS)
        except (OSError, PandaError) as error:  # what ended the step must not be hidden by what follows
            return f"{target} may still be running; kill it on the PanDA monitor. {error}"

    def execute_complete(self, context: Context, event: object) -> TaskResult:
        """Turn the event of a wait into the step's result, raise why there is none, or wait on."""
        known = read_event(event)
        plan = self._waited_for(context) or self.plan(context, known["task_id"], time.time())
        if known["task_id"] != plan.task_id:
            # Airflow on SQLite gives the ID of a deleted trigger to the next one: while its triggerer still runs the
            # first, that one's event goes to whoever waits for the second
            self.log.warning("This event is of PanDA task %s: going on to wait.", known["task_id"])
            return self.follow(context, plan)
        then = self.onward(context, plan, known)
        return self.follow(context, then) if isinstance(then, WaitPlan) else self._finish(context, then)

    def onward(self, context: Context, plan: WaitPlan, event: WaitEvent) -> WaitPlan | WaitEvent:
        """Do what else there is to do after a wait: give the plan of the next one, or how the step ends."""
        return self.retry_by_policy(context, plan, event) if event.get("retry") else event

    def _finish(self, context: Context, event: WaitEvent) -> TaskResult:
        self.known_task = event["task_id"]
        if standing := Mark.from_json(event.get("mark")):
            until = time.time() + JEDI_PATIENCE
            self._target = Target((self.known_task,), "", standing, until, key=self._key, account=self.account)
        self.monitor_url = self.hook.config.task_page(self.known_task)
        if self.task_retry:
            event = {**event, "attempts": len(self.history(context, self.known_task).sent)}
        self._is_last = context["ti"].try_number > context["ti"].max_tries
        self.result = settle(self.hook, event, self.retry_note(event))
        publish(context, self.outlets, self.result, self.vo)
        return self.result

    def retry_note(self, event: WaitEvent) -> str:  # noqa: ARG002 - for those who override it
        """Say what a retry of the step does after a wait that ended badly."""
        return LOOK_AGAIN

    def on_kill(self) -> None:
        """Kill the PanDA task when this worker is told to stop.

        Runs in a signal handler with seconds to live, asks Airflow nothing, and lets the step go on until Airflow
        ends it.
        """
        self._told_to_stop = True
        wanted = self.cancel_on_timeout if self._timed_out else self.cancel_on_kill
        if wanted and self._owns and self._target:
            try:
                self.log.warning("%s", send_reaper(self.hook.config, self._target, FAREWELL))
            except Exception:  # the worker is dying: say what is left behind
                self.log.exception("%s may still be running: killing it failed.", self._target)

    def registered(self, task_id: int) -> TaskInfo:
        """Read a task, once JEDI has registered it if it was submitted only moments ago.

        :raises NotFound: there is no such task, or the server cannot reach its database.
        """
        began = time.time()
        while (info := self._look_if_registered(task_id, final=time.time() >= began + JEDI_PATIENCE)) is None:
            self.log.info("PanDA task %s is not registered yet.", task_id)
            time.sleep(min(self.poll_interval, until_registered(time.time(), began)))
        return info

    def _look_if_registered(self, task_id: int, *, final: bool) -> TaskInfo | None:
        """Read the task; None where only its parameters can be read yet, or its owner is not known yet."""
        try:
            info = self.look(task_id)
        except NotFound:
            self.client.task.get_task_parameters(task_id)
            if final:
                raise
            return None
        return None if info.status == "registered" and not final else info


def _has_ended(error: TaskOutcome) -> bool:
    """Whether the task is over; to a wait that gave up, a final status may be that before a retry."""
    return classify(error.status).is_final and not isinstance(error, WaitTimeout)


def target_of(plan: WaitPlan) -> Target:
    """Say what a kill of a waiting step has to end."""
    return Target((plan.task_id,), "", plan.mark, plan.since + plan.patience, key=plan.key, account=plan.account)
