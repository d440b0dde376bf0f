"""The step that submits a PanDA task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

from airflow.sdk import XComArg

from panda_airflow.client import (
    InvalidArgument,
    NotFound,
    NotOurs,
    OutcomeUnknown,
    PermissionDenied,
    ServerError,
    UsageError,
    WrongState,
)
from panda_airflow.client.models import Json, Mark, TaskInfo
from panda_airflow.client.status import FINAL_STATUSES, Outcome, classify
from panda_airflow.operators.base import PandaTaskOperator
from panda_airflow.steps.base import Context
from panda_airflow.steps.decision import Action, Decision, Situation, decide, submission_retry
from panda_airflow.steps.kill import last_words
from panda_airflow.steps.kill.reaper import Target, reap
from panda_airflow.steps.record import SubmissionRecord, surviving_twins
from panda_airflow.steps.result import TaskResult
from panda_airflow.steps.state_store import clears
from panda_airflow.steps.submission import OnChange, OnExisting, Submission
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.ownership import origin, read_stamp
from panda_airflow.waiting.report import another_split
from panda_airflow.waiting.task import JEDI_PATIENCE, WaitPlan

MOST_ROUNDS = 10
"""How often a try may find that its task is to be looked for, or is another one: more than any chain of twins has."""


class PandaSubmitTaskOperator(Submission, PandaTaskOperator):
    """Submit a PanDA task exactly once and wait for it.

    The task carries a key in its parameters, and only a task that carries it is this step's: no other is believed,
    retried or killed. Key and intent are recorded before the submission and the JediTaskID right after it, so that a
    worker killed at any instruction leaves one PanDA task. A retry of the Airflow task waits for a task that is still
    active, retries one that ended as finished, failed or exhausted in place, and submits anew, under another name,
    only after broken or aborted.

    :param task_parameters: JEDI's task parameters: a dict, a ``.json`` or ``.yaml`` file beside the DAG or in its
        ``template_searchpath``, or a template that yields their text. ``taskName`` is derived from DAG, run, task,
        map index and a random key unless given; ``uniqueTaskName`` is always set.
    :param parent_tid: JediTaskID of the parent task.
    :param durable: let a retry of the Airflow task go on with the PanDA task of an earlier try; otherwise each try
        kills what an earlier one left and submits anew.
    :param on_clear: what a clear by a person means: ``resubmit`` kills what still runs and submits anew,
        ``continue`` does what a retry does; use it with ``cancel_on_kill=False`` where the step waits in a worker,
        which cannot tell a clear from another kill. May be a template, so that it can be chosen before a clear.
    :param on_change: what a retry means whose parameters, once rendered, are not those that were submitted:
        ``resubmit`` or ``continue``, as above; the latter also takes a task of other parameters that holds the name.
    :param on_existing: what to do where a task that this step did not submit holds the given name: ``fail``,
        ``adopt`` (wait for an active one or believe one that ended well) or ``rerun`` (run an ended one again with
        its old parameters, wait, and succeed only if new jobs ran). Neither kills it, as it may be others' work, too;
        it stays that of the step that submitted it, which a clear of that one kills.

    The other parameters are those of :class:`~panda_airflow.operators.base.PandaTaskOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "task_parameters", "parent_tid", "on_clear")
    template_fields_renderers = {"task_parameters": "json"}  # noqa: RUF012 - declared so by Airflow

    def __init__(
        self,
        *,
        task_parameters: dict[str, Json] | str | XComArg,
        parent_tid: int | str | None = None,
        durable: bool = True,
        on_clear: str = "resubmit",
        on_change: OnChange = "resubmit",
        on_existing: OnExisting = "fail",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.task_parameters: Any = task_parameters
        self.parent_tid = parent_tid
        self.durable = durable
        self.on_clear = on_clear
        self.on_change = on_change
        self.on_existing = on_existing
        self._may_retry = True
        self._next_try = "goes on with it" if durable else "kills it and submits anew"
        _one_of("on_change", on_change, OnChange)
        _one_of("on_existing", on_existing, OnExisting)
        if on_existing == "rerun" and not self.wait_for_completion:
            raise UsageError(
                f"{self.task_id}: on_existing='rerun' needs wait_for_completion=True, as only this step's own wait "
                "tells the end of before the task is run again from the new one.",
            )

    def obtain(self, context: Context) -> WaitPlan:
        """Do what is needed so that there is one active or satisfying task, and plan the wait for it."""
        _one_of("on_clear", self.on_clear, OnChange)
        record = self.recall(context)
        if record and (words := last_words.read(record.key)):
            self.log.warning("A process that was to kill %s has left word: %s", record, words)
        for _ in range(MOST_ROUNDS):
            self.aim(record)
            now = self._situation(context, record)
            decision = decide(now)
            self.log.info("To do: %s.", ", since ".join(filter(None, (decision.action.value, decision.why))))
            if record and decision.action is Action.TWIN and now.info:
                record = self._go_on_with_twin(context, record, now.info)
            elif record and decision.action is Action.FIND:
                record = self.find_or_submit(context, record)
            else:
                return self._carry_out(context, now, decision)
        raise ServerError(
            f"what became of {record} cannot be told: the server says one thing and then another.",
            advice="Try again later, or look at it on the PanDA monitor.",
        )

    def _carry_out(self, context: Context, now: Situation, decision: Decision) -> WaitPlan:
        record = now.record
        if record and decision.action is Action.REFUSE:
            self._refuse(record)
        if record and decision.action is Action.RETRY and now.info:
            return self._retry(context, record, now.info)
        if decision.action in (Action.SUBMIT, Action.REPLACE):
            intent = self.intend(context, record)
            if record and decision.action is Action.REPLACE:
                self._make_room(record, decision, elsewhere=now.elsewhere)
            record = self.submit(context, intent)
        elif now.ours is None and not self.wait_for_completion:
            raise ServerError(f"whether {record} is this step's cannot be told now.", advice="Try again later.")
        return self._plan_for(context, record)

    def _situation(self, context: Context, record: SubmissionRecord | None) -> Situation:
        """See what there is to decide about."""
        if record is None or not record.sent:
            return Situation(record)
        cleared = self.on_clear == "resubmit" and record.clears != clears(context, self.retries, record.retries)
        now = Situation(
            record,
            accepted=self.statuses,
            elsewhere=self.account.differs_from(record.account),
            unwanted=self._reason_to_replace(context, record, cleared=cleared),
            cleared=cleared,
            overdue=time.time() > record.since + JEDI_PATIENCE,
        )
        if now.elsewhere or record.task_id is None:
            return now
        ours = self.is_ours(record)
        info = None if ours is False else self._look_up(record.task_id)
        twins = surviving_twins(info.status, info.error_dialog) if info else []
        return replace(now, info=info, ours=ours, own_twin=self._own_twin(record, twins))

    def _reason_to_replace(self, context: Context, record: SubmissionRecord, *, cleared: bool) -> str:
        """Say why the task of an earlier try is not the one that this try wants, if it is not."""
        reasons = {
            "the step was cleared": cleared,
            "the parameters have changed": self.on_change == "resubmit" and self.has_changed(record),
            "the step is not durable": not self.durable and record.attempt != context["ti"].try_number,
        }
        return " and ".join(reason for reason, holds in reasons.items() if holds)

    def _refuse(self, record: SubmissionRecord) -> None:
        """Touch nothing.

        :raises NotOurs: says whose it is.
        """
        self._target = None
        self.same_account(str(record), record.account)
        stamp = read_stamp(self.client, record.task_id or 0)
        raise NotOurs(
            f"{record} is not the one that this step submitted: it {origin(stamp)}; it was left alone.",
            advice="Clear the step to submit anew.",
        )

    def _make_room(self, record: SubmissionRecord, decision: Decision, *, elsewhere: bool) -> None:
        """End the task of an earlier try, before another one takes its place, if it is this step's to end."""
        if decision.kill:
            self._stop(record)
        self._target = None
        if elsewhere:
            self.log.warning("%s was left running, if it still runs: it belongs to %s.", record, record.account)
        elif not decision.kill:
            self.log.warning("%s is replaced, since %s.", record, decision.why)

    def _retry(self, context: Context, record: SubmissionRecord, info: TaskInfo) -> WaitPlan:
        """Retry the ended task of an earlier try in place, with what the policy says for this attempt."""
        number = self.history(context, info.task_id).number(info)
        try:
            parameters = self.task_retry.parameters_of(number) if self.task_retry else {}
            self.retry_at_first(context, info, parameters, by_policy=True)
        except WrongState as refusal:  # exhausted, and this identity has no production role
            if self.look(info.task_id).status not in FINAL_STATUSES:
                raise
            self.log.warning("%s Submitting anew.", refusal)
            return self._plan_for(context, self.submit(context, self.intend(context, record)))
        return self._plan_for(context, replace(record, since=time.time(), mark=Mark.of(info)))

    def onward(self, context: Context, plan: WaitPlan, event: WaitEvent) -> WaitPlan | WaitEvent:
        """Look whether the task was aborted for a reason that calls for another, or has ended without any work.

        JEDI may have aborted it in favour of its twin. Or an earlier try was told to stop and had it killed, which
        takes minutes: this try found it running still.
        """
        record = self.recall(context)
        self._may_retry = record is None or record.may_retry
        if record is None or event["kind"] not in ("ended", "failed") or event.get("retry"):
            return super().onward(context, plan, event)
        is_aborted = event["kind"] == "failed" and classify(event["status"]) is Outcome.ABORTED
        is_twin = surviving_twins(event["status"], event.get("error_dialog", ""))
        if is_aborted and (is_twin or record.attempt < context["ti"].try_number):
            return self.obtain(context)
        return self._unless_hollow(record, event)

    def _unless_hollow(self, record: SubmissionRecord, event: WaitEvent) -> WaitEvent:
        """Believe the good end of a task that was run again only if new jobs ran."""
        if event["kind"] != "ended" or record.newest_job is None or record.task_id is None:
            return event
        newest = max(self.client.task.get_job_ids(record.task_id), default=0)
        if newest < record.newest_job:
            raise ServerError(f"the jobs of {record} cannot be listed now.", advice="Try again later.")
        if newest > record.newest_job:
            return event
        words = "It was run again by its name, and no job ran: nothing was done. Give the step a taskName of its own."
        return {**event, "kind": "failed", "note": words, "hopeless": True}

    def _finish(self, context: Context, event: WaitEvent) -> TaskResult:
        result = super()._finish(context, event)
        given = self.task_parameters if isinstance(self.task_parameters, dict) else {}
        if warning := another_split(given, result["files"].get("total", 0)):
            self.log.warning("PanDA task %s: %s", result["jedi_task_id"], warning)
        return result

    def retry_note(self, event: WaitEvent) -> str:
        """Say what a retry of the step does after a wait that ended badly."""
        if event.get("hopeless"):
            return ""
        return submission_retry(
            event["task_id"],
            event["kind"],
            event["status"],
            last=self._is_last,
            may_retry=self._may_retry,
            durable=self.durable,
            on_clear=self.on_clear,
            killed=self.cancel_on_timeout and self._owns,
        )

    def _own_twin(self, record: SubmissionRecord, twins: Sequence[int]) -> int | None:
        """Find the twin that carries the same key, which the server took from the same submission."""
        keyed = (twin for twin in twins if record.key and self.is_ours(replace(record, task_id=twin)))
        return next(keyed, None)

    def _go_on_with_twin(self, context: Context, record: SubmissionRecord, info: TaskInfo) -> SubmissionRecord:
        """Go on with the task in whose favour JEDI aborted another: this step's own, or one that holds the name."""
        twins = surviving_twins(info.status, info.error_dialog)
        self.log.warning("PanDA task %s was aborted in favour of its twin %s.", record.task_id, twins[0])
        if twin := self._own_twin(record, twins):
            self.check_definition(twin)
            return self.remember(context, replace(record, task_id=twin, mark=None))
        return self.remember(context, self.take(record, self.look(twins[0])))

    def _plan_for(self, context: Context, record: SubmissionRecord | None) -> WaitPlan:
        if record is None or record.task_id is None:
            raise OutcomeUnknown("no task is known after a submission.", endpoint="task/submit")
        self._key = record.key
        label = self.task_parameters.get("prodSourceLabel") if isinstance(self.task_parameters, dict) else None
        plan = self.plan(context, record.task_id, record.since, record.mark)
        return replace(plan, label=label or plan.label)

    def aim(self, record: SubmissionRecord | None) -> None:
        """Know what a kill of this step has to end; one whose retry is under way is known better already."""
        self._owns = record is None or record.owned
        self._key = record.key if record else ""
        if self._target and record and record.task_id in self._target.task_ids:
            return
        self._target = None
        if record and (record.task_id or record.sent):
            task_ids = (record.task_id,) if record.task_id else ()
            until = record.since + JEDI_PATIENCE
            self._target = Target(task_ids, record.name, record.mark, until, key=record.key, account=record.account)

    def _look_up(self, task_id: int) -> TaskInfo | None:
        """Read the recorded task; None where the server does not show it, so that the wait judges for how long."""
        try:
            return self.look(task_id)
        except (NotFound, InvalidArgument):
            return None

    def _stop(self, record: SubmissionRecord) -> None:
        """Kill the task of an earlier try."""
        until = record.since + JEDI_PATIENCE
        target = Target((record.task_id or 0,), "", record.mark, until, 0.0, record.key, record.account)
        try:
            reap(self.client, target)
            self.log.info("%s was told to stop.", target)
        except (PermissionDenied, NotFound, NotOurs) as error:
            self.log.warning("%s may still be running: %s", target, error)


def _one_of(name: str, value: object, words: Any) -> None:
    """Refuse another word than those that a parameter knows.

    :raises UsageError: names them.
    """
    if value not in get_args(words):
        raise UsageError(f"{name} must be one of {', '.join(get_args(words))}, not {value!r:.80}.")
