"""Steps that submit and retry PanDA tasks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from panda_airflow.client import (
    DuplicateTask,
    NotCarriedOut,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    ServerError,
    TaskAborted,
    TaskFailed,
    UsageError,
    WrongState,
)
from panda_airflow.client.errors import NOTHING_DONE
from panda_airflow.client.models import Json, Mark, TaskInfo
from panda_airflow.client.status import RETRYABLE_STATUSES, Outcome, classify
from panda_airflow.client.submission import (
    Action,
    SubmissionRecord,
    check_submission,
    generation_of,
    name_filter,
    next_action,
    surviving_twin,
    task_name,
)
from panda_airflow.client.waiting import JEDI_PATIENCE, WaitPlan, read_event
from panda_airflow.hooks.result import TaskResult
from panda_airflow.hooks.step import read_task_id
from panda_airflow.operators.base import Context, Memory, PandaTaskOperator

LOOKUP_INTERVAL = 15.0
"""Seconds between looks for a task whose submission may or may not have reached the server."""


class PandaSubmitTaskOperator(PandaTaskOperator):
    """Submit a PanDA task exactly once and wait for it.

    The task name is the key. The intent is recorded before the submission and the JediTaskID right after it, so
    that a worker killed at any instruction leaves one PanDA task. A retry of the Airflow task waits for a task
    that is still active, retries one that ended as finished, failed or exhausted in place, and submits anew, under
    the next name, only after broken or aborted.

    :param task_parameters: JEDI's task parameters. ``taskName`` is derived from DAG, run, task and map index
        unless given; ``uniqueTaskName`` is always set.
    :param parent_tid: JediTaskID of the parent task.
    :param on_clear: what a clear by a person means: ``resubmit`` kills what still runs and submits anew,
        ``continue`` does what a retry does; use it with ``cancel_on_kill=False``, since the clear of a step that
        waits would otherwise kill the task.

    The other parameters are those of :class:`~panda_airflow.operators.base.PandaTaskOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "task_parameters", "parent_tid")
    template_fields_renderers = {"task_parameters": "json"}  # noqa: RUF012 - declared so by Airflow

    def __init__(
        self,
        *,
        task_parameters: dict[str, Json],
        parent_tid: int | str | None = None,
        on_clear: Literal["resubmit", "continue"] = "resubmit",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.task_parameters = task_parameters
        self.parent_tid = parent_tid
        self.on_clear = on_clear

    def execute(self, context: Context) -> TaskResult:
        """Find or submit the task, then wait for it."""
        return self.follow(context, self._obtain(context))

    def _obtain(self, context: Context) -> WaitPlan:
        """Do what is needed so that there is one active or satisfying task, and plan the wait for it."""
        record = self._recall(context)
        cleared = record is not None and record.clears != context["ti"].max_tries
        info = self._look_up(record)
        if record and info and (twin := surviving_twin(info.error_dialog)):
            record = self._adopt_twin(context, record, twin)
            info = self._look_up(record)
        overdue = record is not None and time.time() > record.since + JEDI_PATIENCE
        action = next_action(record, info, self.accept, overdue=overdue)
        if record and record.task_id and cleared and self.on_clear == "resubmit":
            self._stop(record.task_id, record.since)
            action = Action.REPLACE
        self.log.info("To do: %s.", action.value)
        if action is Action.RETRY and info:
            return self.retry_in_place(context, info, lambda: self.client.task.retry(info.task_id))
        if action in (Action.SUBMIT, Action.REPLACE):
            record = self._submit(context, self._intend(context, record))
        elif record and action is Action.FIND:
            record = self._find_or_submit(context, record)
        return self._plan_for(context, record)

    def execute_complete(self, context: Context, event: object) -> TaskResult:
        """Turn the event of the wait into the result; a task aborted in favour of its twin is followed to the twin."""
        record, twin = self._recall(context), surviving_twin(read_event(event).get("error_dialog", ""))
        if record is None or twin is None:
            return super().execute_complete(context, event)
        return self.follow(context, self._plan_for(context, self._adopt_twin(context, record, twin)))

    def _adopt_twin(self, context: Context, record: SubmissionRecord, twin: int) -> SubmissionRecord:
        self.log.warning("PanDA task %s was aborted in favour of its twin %s.", record.task_id, twin)
        return self._remember(context, replace(record, task_id=twin, mark=None))

    def _plan_for(self, context: Context, record: SubmissionRecord | None) -> WaitPlan:
        if record is None or record.task_id is None:
            raise OutcomeUnknown("no task is known after a submission.", endpoint="task/submit")
        return self.plan(context, record.task_id, record.since, record.mark)

    def _recall(self, context: Context) -> SubmissionRecord | None:
        value = Memory(context, "panda_submission").recall()
        return SubmissionRecord.from_json(value) if value else None

    def _remember(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Record a submission, and know at once what a kill of this step has to end."""
        record = replace(record, clears=context["ti"].max_tries)
        self._running_task = record.task_id
        Memory(context, "panda_submission").remember(asdict(record))
        return record

    def _look_up(self, record: SubmissionRecord | None) -> TaskInfo | None:
        """Read the recorded task; None where there is none or the server does not show it."""
        try:
            return self.look(record.task_id) if record and record.task_id else None
        except NotFound:
            return None

    def _intend(self, context: Context, previous: SubmissionRecord | None) -> SubmissionRecord:
        """Record what is about to be submitted, after checking that it can be."""
        if not isinstance(self.task_parameters, dict):
            raise UsageError(
                f"task_parameters must be a dict, not {self.task_parameters!r:.80}; nothing was submitted."
            )
        ti = context["ti"]
        generation = previous.generation + previous.sent if previous else 0
        name = self.task_parameters.get("taskName") or task_name(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        record = SubmissionRecord(generation_of(name, generation), generation, time.time(), ti.max_tries)
        check_submission({"task_parameters": self._parameters(record)})
        holder = self._holder(record.name)
        return self._remember(context, replace(record, mark=Mark.of(holder) if holder else None))

    def _parameters(self, record: SubmissionRecord) -> dict[str, Json]:
        return self.task_parameters | {"taskName": record.name, "uniqueTaskName": True}

    def _submit(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Submit, and if the outcome is unknown, find out; a second unknown outcome is left to the next try."""
        try:
            return self._submit_once(context, record)
        except NotCarriedOut:
            raise
        except (OutcomeUnknown, ServerError) as unclear:
            self.log.warning("%s Looking for the task under its name.", unclear)
            return self._find_or_submit(context, record)

    def _submit_once(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Submit, or adopt the active task that holds the name already."""
        given = {} if self.parent_tid is None else {"parent_tid": int(self.parent_tid)}
        try:
            submission = self.client.task.submit(self._parameters(record), **given)
        except DuplicateTask as duplicate:
            if duplicate.task_id is None:
                raise
            self.log.warning("Adopting PanDA task %s, which holds the name %s.", duplicate.task_id, record.name)
            return self._remember(context, replace(record, task_id=duplicate.task_id))
        except NOTHING_DONE:
            self._remember(context, replace(record, sent=False))
            raise
        self.log.info("PanDA task %s: %s", submission.task_id, submission.message)
        record = replace(record, task_id=submission.task_id, since=time.time())
        if submission.reactivated and record.mark is None:
            record = replace(record, mark=Mark.of(self.look(submission.task_id)))
        return self._remember(context, record)

    def _find_or_submit(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Look for the intended task by name, and submit it if it is not there.

        The server refuses a second user task of the same name. It does not for production tasks, so these are
        looked for until the registration window has passed.
        """
        production = self.task_parameters.get("taskType") != "anal"
        window_ends = record.since + JEDI_PATIENCE
        while (found := self._newcomer(record)) is None and production and time.time() < window_ends:
            self.log.info("No task named %s is registered yet.", record.name)
            time.sleep(LOOKUP_INTERVAL)
        if found is None:
            return self._submit_once(context, record)
        self.log.info("PanDA task %s was submitted by an earlier try.", found.task_id)
        return self._remember(context, replace(record, task_id=found.task_id))

    def _newcomer(self, record: SubmissionRecord) -> TaskInfo | None:
        """Find the task of this name, unless it stands where one stood before the submission."""
        holder = self._holder(record.name)
        return None if holder and Mark.of(holder) == record.mark else holder

    def _holder(self, name: str) -> TaskInfo | None:
        """Find the newest task of this name; one still in its registration window is not found."""
        found = self.client.task.get_tasks_detailed_info_since(filters=name_filter(name))
        return max((info for info in found if info.name == name), key=lambda info: info.task_id, default=None)

    def _stop(self, jedi_task_id: int, since: float) -> None:
        """Kill the task that a cleared step leaves behind; while it is not registered yet, that is refused."""
        while True:
            try:
                self.client.task.kill(jedi_task_id)
            except WrongState:
                self.log.info("PanDA task %s of before the clear has ended.", jedi_task_id)
            except (PermissionDenied, NotFound) as error:
                if time.time() < since + JEDI_PATIENCE:
                    time.sleep(LOOKUP_INTERVAL)
                    continue
                self.log.warning("PanDA task %s of before the clear may still be running: %s", jedi_task_id, error)
            return


class PandaRetryTaskOperator(PandaTaskOperator):
    """Retry the unsuccessful part of a PanDA task in place and wait for it.

    A task that satisfies the step already is left alone; one that is active is waited for. Each retry of the
    Airflow task retries the PanDA task once more.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param new_parameters: task parameters to overwrite, for example more memory.
    :param cancel_on_kill: kill the PanDA task when a person ends or clears this step; not by default, since the
        task belongs to the step that submitted it and a killed task cannot be retried.

    The other parameters are those of :class:`~panda_airflow.operators.base.PandaTaskOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "jedi_task_id", "new_parameters")
    template_fields_renderers = {"new_parameters": "json"}  # noqa: RUF012 - declared so by Airflow

    def __init__(
        self,
        *,
        jedi_task_id: int | str,
        new_parameters: dict[str, Json] | None = None,
        cancel_on_kill: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(cancel_on_kill=cancel_on_kill, **kwargs)
        self.jedi_task_id = jedi_task_id
        self.new_parameters = new_parameters

    def execute(self, context: Context) -> TaskResult:
        """Retry the task if it ended without satisfying this step, then wait for it."""
        task_id = read_task_id(self.jedi_task_id)
        info = self.look(task_id)
        if info.status in self.accept or not classify(info.status).is_final:
            self.log.info("PanDA task %s is %s: nothing to retry now.", task_id, info.status)
            return self.follow(context, self.plan(context, task_id, time.time()))
        if info.status not in RETRYABLE_STATUSES:
            error = TaskAborted if classify(info.status) is Outcome.ABORTED else TaskFailed
            raise error(
                f"PanDA task {task_id} is {info.status} and cannot be retried.",
                task_id=task_id,
                status=info.status,
                advice="Submit it anew.",
            )
        return self.follow(context, self.retry_in_place(context, info, lambda: self._retry(task_id)))

    def _retry(self, task_id: int) -> None:
        if self.new_parameters:
            self.client.task.retry(task_id, self.new_parameters)
        else:
            self.client.task.retry(task_id)
