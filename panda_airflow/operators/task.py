"""The step that submits a PanDA task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from airflow.sdk import XComArg

from panda_airflow.client import (
    DuplicateTask,
    NotCarriedOut,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    ServerError,
    TaskAborted,
    UsageError,
    WrongState,
    lookup,
)
from panda_airflow.client.errors import NOTHING_DONE
from panda_airflow.client.models import Json, Mark, TaskInfo
from panda_airflow.client.reaper import Target, reap
from panda_airflow.client.report import another_split, submission_retry
from panda_airflow.client.status import FINAL_STATUSES, Outcome, classify
from panda_airflow.client.submission import (
    Action,
    SubmissionRecord,
    check_submission,
    differences,
    fingerprint,
    generation_of,
    next_action,
    surviving_twin,
    task_name,
)
from panda_airflow.client.wait_event import WaitEvent
from panda_airflow.client.waiting import JEDI_PATIENCE, WaitPlan, read_event
from panda_airflow.hooks.definition import TaskDefinition
from panda_airflow.hooks.result import TaskResult
from panda_airflow.hooks.step import read_task_id
from panda_airflow.operators.base import PandaTaskOperator
from panda_airflow.operators.memory import Context, Memory

OnChange = Literal["resubmit", "continue"]


class PandaSubmitTaskOperator(TaskDefinition, PandaTaskOperator):
    """Submit a PanDA task exactly once and wait for it.

    The task name is the key. The intent is recorded before the submission and the JediTaskID right after it, so
    that a worker killed at any instruction leaves one PanDA task. A retry of the Airflow task waits for a task
    that is still active, retries one that ended as finished, failed or exhausted in place, and submits anew, under
    the next name, only after broken or aborted.

    :param task_parameters: JEDI's task parameters: a dict, a ``.json`` or ``.yaml`` file beside the DAG or in its
        ``template_searchpath``, or a template that yields their text. ``taskName`` is derived from DAG, run, task
        and map index unless given; ``uniqueTaskName`` is always set.
    :param parent_tid: JediTaskID of the parent task.
    :param durable: let a retry of the Airflow task go on with the PanDA task of an earlier try; otherwise each try
        kills what an earlier one left and submits anew.
    :param on_clear: what a clear by a person means: ``resubmit`` kills what still runs and submits anew,
        ``continue`` does what a retry does; use it with ``cancel_on_kill=False`` where the step waits in a worker,
        which cannot tell a clear from another kill.
    :param on_change: what a retry means whose parameters, once rendered, are not those that were submitted:
        ``resubmit`` or ``continue``, as above. A task of another step that holds the name, or held it, is an error if
        it has other parameters, unless this is ``continue``; one with the same is waited for, and never killed.

    The other parameters are those of :class:`~panda_airflow.operators.base.PandaTaskOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "task_parameters", "parent_tid")
    template_fields_renderers = {"task_parameters": "json"}  # noqa: RUF012 - declared so by Airflow

    def __init__(
        self,
        *,
        task_parameters: dict[str, Json] | str | XComArg,
        parent_tid: int | str | None = None,
        durable: bool = True,
        on_clear: OnChange = "resubmit",
        on_change: OnChange = "resubmit",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.task_parameters: Any = task_parameters
        self.parent_tid = parent_tid
        self.durable = durable
        self.on_clear = on_clear
        self.on_change = on_change
        self._next_try = "goes on with it" if durable else "kills it and submits anew"

    def obtain(self, context: Context) -> WaitPlan:
        """Do what is needed so that there is one active or satisfying task, and plan the wait for it."""
        record = self._recall(context)
        self._aim(record)
        info = self._look_up(record)
        if record and info and (twin := surviving_twin(info.error_dialog)):
            record = self._adopt_twin(context, record, twin)
            info = self._look_up(record)
        overdue = record is not None and time.time() > record.since + JEDI_PATIENCE
        action = next_action(record, info, self.accept, overdue=overdue)
        if record and record.task_id and (reason := self._reason_to_replace(context, record)):
            self.log.warning("PanDA task %s is replaced, since %s.", record.task_id, reason)
            if record.owned and (info is None or not classify(info.status).is_final):
                self._stop(record)
            action = Action.REPLACE
        self.log.info("To do: %s.", action.value)
        if action is Action.RETRY and record and info:
            return self._retry(context, record, info)
        if action in (Action.SUBMIT, Action.REPLACE):
            record = self._submit(context, self._intend(context, record))
        elif record and action is Action.FIND:
            record = self._find_or_submit(context, record)
            if self._reason_to_replace(context, record):
                return self.obtain(context)
        return self._plan_for(context, record)

    def _reason_to_replace(self, context: Context, record: SubmissionRecord) -> str:
        """Say why the task of an earlier try is not the one that this try wants, if it is not."""
        ti = context["ti"]
        reasons = {
            "the step was cleared": self.on_clear == "resubmit" and record.clears != ti.max_tries,
            "the parameters have changed": self.on_change == "resubmit" and self._has_changed(record),
            "the step is not durable": not self.durable and record.attempt != ti.try_number,
        }
        return " and ".join(reason for reason, holds in reasons.items() if holds)

    def _has_changed(self, record: SubmissionRecord) -> bool:
        return record.definition not in ("", fingerprint(self.task_parameters))

    def _retry(self, context: Context, record: SubmissionRecord, info: TaskInfo) -> WaitPlan:
        """Retry the ended task of an earlier try in place, with what the policy says for this attempt."""
        made = info.attempt_nr - record.origin
        try:
            self.retry_in_place(info, self.task_retry.parameters_of(made + 1) if self.task_retry else {})
        except WrongState as refusal:  # exhausted, and this identity has no production role
            if self.look(info.task_id).status not in FINAL_STATUSES:
                raise
            self.log.warning("%s Submitting anew.", refusal)
            return self._plan_for(context, self._submit(context, self._intend(context, record)))
        record = self._remember(context, replace(record, first_attempt=info.attempt_nr + 1))
        return self.plan(context, info.task_id, time.time(), Mark.of(info), record.first_attempt)

    def execute_complete(self, context: Context, event: object) -> TaskResult:
        """Turn the event of the wait into the result, unless the task was aborted for a reason that calls for another.

        JEDI may have aborted it in favour of its twin. Or an earlier try was told to stop and had it killed, which
        takes minutes: this try found it running still.
        """
        record, known = self._recall(context), read_event(event)
        if record and (twin := surviving_twin(known.get("error_dialog", ""))):
            return self.follow(context, self._plan_for(context, self._adopt_twin(context, record, twin)))
        is_aborted = known["kind"] == "failed" and classify(known["status"]) is Outcome.ABORTED
        if record and is_aborted and record.attempt < context["ti"].try_number:
            self.log.warning("PanDA task %s of an earlier try was aborted; submitting anew.", record.task_id)
            record = self._submit(context, self._intend(context, record))
            return self.follow(context, self._plan_for(context, record))
        result = super().execute_complete(context, event)
        if warning := another_split(self.task_parameters, result["files"].get("total", 0)):
            self.log.warning("PanDA task %s: %s", result["task_id"], warning)
        return result

    def retry_note(self, event: WaitEvent) -> str:
        """Say what a retry of the step does after a wait that ended badly."""
        return submission_retry(event["task_id"], event["kind"], event["status"])

    def _adopt_twin(self, context: Context, record: SubmissionRecord, twin: int) -> SubmissionRecord:
        self.log.warning("PanDA task %s was aborted in favour of its twin %s.", record.task_id, twin)
        self._check_definition(DuplicateTask("JEDI aborted the task as a duplicate.", task_id=twin))
        return self._remember(context, replace(record, task_id=twin, mark=None))

    def _plan_for(self, context: Context, record: SubmissionRecord | None) -> WaitPlan:
        if record is None or record.task_id is None:
            raise OutcomeUnknown("no task is known after a submission.", endpoint="task/submit")
        label = self.task_parameters.get("prodSourceLabel") if isinstance(self.task_parameters, dict) else None
        plan = self.plan(context, record.task_id, record.since, record.mark, record.first_attempt)
        return replace(plan, label=label or plan.label)

    def _recall(self, context: Context) -> SubmissionRecord | None:
        value = Memory(context, "panda_submission").recall()
        return SubmissionRecord.from_json(value) if value else None

    def _remember(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Record a submission, and know before that what a kill of this step has to end."""
        record = replace(record, clears=context["ti"].max_tries)
        self._aim(record)
        Memory(context, "panda_submission").remember(asdict(record))
        return record

    def _aim(self, record: SubmissionRecord | None) -> None:
        """Know what a kill of this step has to end; one whose retry is under way is known better already."""
        self._owns = record is None or record.owned
        if self._target and record and record.task_id in self._target.task_ids:
            return
        self._target = None
        if record and (record.task_id or record.sent):
            task_ids = (record.task_id,) if record.task_id else ()
            self._target = Target(task_ids, record.name, record.mark, record.since + JEDI_PATIENCE)

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
        if self.parent_tid not in (None, ""):
            read_task_id(self.parent_tid)
        if self._told_to_stop:
            raise TaskAborted("the step was told to stop before it submitted a PanDA task; nothing was submitted.")
        ti = context["ti"]
        generation = previous.generation + previous.sent if previous else 0
        name = self.task_parameters.get("taskName") or task_name(ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        record = SubmissionRecord(generation_of(name, generation), generation, time.time(), ti.max_tries)
        check_submission({"task_parameters": self._parameters(record)})
        before = lookup.holder(self.client, record.name)
        if before and classify(before.status).is_final:
            self._check_definition(DuplicateTask("the task name was used before.", task_id=before.task_id))
        record = self._written(context, replace(record, mark=Mark.of(before) if before else None))
        if before and not classify(before.status).is_final:
            adopted = self._adopt(record, DuplicateTask("the task name is in use.", task_id=before.task_id))
            record = replace(adopted, mark=None)  # no command is pending
        return self._remember(context, record)

    def _written(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Note who submits what."""
        return replace(record, attempt=context["ti"].try_number, definition=fingerprint(self.task_parameters))

    def _parameters(self, record: SubmissionRecord) -> dict[str, Json]:
        return {**self.task_parameters, "taskName": record.name, "uniqueTaskName": True}

    def _submit(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Submit, and if the outcome is unknown, find out; a second unknown outcome is left to the next try."""
        if record.task_id is not None:  # an active task of another step was adopted
            return record
        try:
            return self._submit_once(context, record)
        except NotCarriedOut:
            raise
        except DuplicateTask as duplicate:
            return self._remember(context, self._adopt(record, duplicate))
        except (OutcomeUnknown, ServerError) as unclear:
            self.log.warning("%s Looking for the task under its name.", unclear)
            return self._find_or_submit(context, record)

    def _submit_once(self, context: Context, record: SubmissionRecord, *, again: bool = False) -> SubmissionRecord:
        """Submit.

        :param again: an earlier request may have reached the server, whatever becomes of this one.
        :raises DuplicateTask: an active task holds the name already.
        """
        given = {} if self.parent_tid in (None, "") else {"parent_tid": read_task_id(self.parent_tid)}
        try:
            submission = self.client.task.submit(self._parameters(record), **given)
        except NOTHING_DONE:
            if not again:
                self._remember(context, replace(record, sent=False))
            raise
        self.log.info("PanDA task %s: %s", submission.task_id, submission.message)
        record = replace(record, task_id=submission.task_id, since=time.time())
        if submission.reactivated:
            mark = record.mark or Mark.of(self.look(submission.task_id))
            record = replace(record, mark=mark, origin=mark.attempt_nr + 1, first_attempt=mark.attempt_nr + 1)
        return self._remember(context, record)

    def _adopt(self, record: SubmissionRecord, duplicate: DuplicateTask) -> SubmissionRecord:
        """Go on with the active task of another step that holds the name, if it would have been submitted just so.

        :raises DuplicateTask: it is another one, or the server does not say which.
        """
        if duplicate.task_id is None:
            raise duplicate
        self._check_definition(duplicate)
        self.log.warning("Adopting PanDA task %s, which holds the name %s.", duplicate.task_id, record.name)
        count = record.mark.attempt_nr if record.mark else 0
        return replace(record, task_id=duplicate.task_id, sent=True, owned=False, origin=count, first_attempt=count)

    def _check_definition(self, duplicate: DuplicateTask) -> None:
        """Refuse to take a task of other parameters for the one that would have been submitted.

        :raises DuplicateTask: names the parameters.
        """
        if self.on_change == "continue" or duplicate.task_id is None:
            return
        found = self.client.task.get_task_parameters(duplicate.task_id)
        if other := differences(self.task_parameters, found):
            duplicate.advice = (
                f"PanDA task {duplicate.task_id} is another task: {', '.join(other)} differ. Give this step a taskName "
                "of its own, one for each run, or set on_change='continue' to take that task for its own."
            )
            raise duplicate

    def _find_or_submit(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Look for the intended task by name, and submit it if it is not there.

        The server refuses a second user task of the same name. It does not for production tasks, so these are
        looked for until the registration window has passed.
        """
        production = self.task_parameters.get("taskType") != "anal"
        window_ends = record.since + JEDI_PATIENCE
        while (
            (found := lookup.newcomer(self.client, record.name, record.mark)) is None
            and production
            and time.time() < window_ends
        ):
            self.log.info("No task named %s is registered yet.", record.name)
            time.sleep(lookup.until_registered(time.time(), record.since))
        holder = found.task_id if found else None
        if holder and record.mark and not self._has_changed(record):
            self._target = None  # a kill by name would end the task of somebody else
            self._check_definition(DuplicateTask("the task name is that of another task.", task_id=holder))
        if holder is None:
            renewed = replace(record, definition=fingerprint(self.task_parameters))
            try:
                return self._submit_once(context, renewed, again=True)
            except DuplicateTask as duplicate:
                holder = duplicate.task_id  # what an earlier request submitted is not shown yet
                if holder is None:
                    raise
        self.log.info("PanDA task %s was submitted under this name before.", holder)
        return self._remember(context, replace(record, task_id=holder))

    def _stop(self, record: SubmissionRecord) -> None:
        """Kill the task of an earlier try, before another one takes its place."""
        target = Target((record.task_id or 0,), mark=record.mark, until=record.since + JEDI_PATIENCE, outage=0.0)
        try:
            reap(self.client, target)
            self.log.info("%s was told to stop.", target)
        except (PermissionDenied, NotFound) as error:
            self.log.warning("%s may still be running: %s", target, error)
