"""Submitting a PanDA task exactly once, and knowing by its key that it is the one."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Literal

from airflow.sdk.configuration import conf

from panda_airflow.client import (
    DuplicateTask,
    InvalidArgument,
    NotCarriedOut,
    NotFound,
    OutcomeUnknown,
    ServerError,
    TaskAborted,
    UsageError,
)
from panda_airflow.client.errors import NOTHING_DONE
from panda_airflow.client.models import Json, Mark, TaskInfo
from panda_airflow.client.status import RERUN_STATUSES, classify
from panda_airflow.client.task_parameters import check_submission, definition_digest
from panda_airflow.steps import lookup
from panda_airflow.steps.base import Context
from panda_airflow.steps.definition import TaskDefinition
from panda_airflow.steps.record import SubmissionRecord, differences, generation_of, refuse_leftovers, task_name
from panda_airflow.steps.state_store import Memory, clears
from panda_airflow.waiting.ownership import new_key, origin, read_stamp, stamped
from panda_airflow.waiting.task import JEDI_PATIENCE

OnChange = Literal["resubmit", "continue"]
OnExisting = Literal["fail", "adopt", "rerun"]

PRODUCTION_PRIORITY = 900
"""Priority of a task where the production role is asked for: the server fills in none then, and JEDI breaks it."""


class Submission(TaskDefinition):
    """What a step needs to submit a task."""

    parent_tid: int | str | None
    on_change: OnChange
    on_existing: OnExisting
    statuses: tuple[str, ...]
    _told_to_stop: bool

    def recall(self, context: Context) -> SubmissionRecord | None:
        """Recall what was submitted; a task of a version that knew no keys is waited for, and never touched."""
        value = Memory(context, "panda_submission").recall()
        record = SubmissionRecord.from_json(value) if value else None
        return record and replace(record, owned=record.owned and bool(record.key or record.account.server))

    def remember(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Record a submission, and know before that what a kill of this step has to end."""
        self.aim(record)
        Memory(context, "panda_submission").remember(asdict(record))
        return record

    def aim(self, record: SubmissionRecord | None) -> None:
        """Know what a kill of this step has to end."""

    def has_changed(self, record: SubmissionRecord) -> bool:
        """Whether other parameters were submitted than the author gives now.

        The version that knew no keys had another way to tell one definition from another.

        :raises UsageError: what the author gives now cannot be submitted.
        """
        definition = self._definition()
        return bool(record.key) and record.definition not in ("", definition)

    def is_ours(self, record: SubmissionRecord) -> bool | None:
        """Whether the recorded task carries the recorded key; None where the server does not tell now."""
        try:
            return bool(read_stamp(self.client, record.task_id or 0).get("key", "") == record.key)
        except (NotFound, InvalidArgument):
            return None

    def submit(self, context: Context, intent: SubmissionRecord) -> SubmissionRecord:
        """Record what is intended and submit it, unless it is to take a task that exists.

        :param intent: what :meth:`intend` has made.
        """
        if self._told_to_stop:
            raise TaskAborted("the step was told to stop before it submitted a PanDA task; nothing was submitted.")
        record = self.remember(context, replace(intent, since=time.time()))
        if record.task_id is not None:
            return record
        try:
            return self._submit_once(context, record)
        except NotCarriedOut:
            raise
        except (OutcomeUnknown, ServerError) as unclear:
            self.log.warning("%s Looking for the task by its name and key.", unclear)
            return self.find_or_submit(context, record)

    def find_or_submit(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Look for the intended task, and submit it if it is not there.

        The server refuses a second user task of the same name. It does not for production tasks, so these are
        looked for until the registration window has passed.
        """
        renewed = self._renewed(context, record)
        production = self.task_parameters.get("taskType") != "anal"
        window_ends = record.since + JEDI_PATIENCE
        while (found := self._newcomer(record)) is None and production and time.time() < window_ends:
            self.log.info("No task named %s is registered yet.", record.name)
            time.sleep(lookup.until_registered(time.time(), record.since))
        if found:
            self.log.info("PanDA task %s was submitted before.", found.task_id)
            return self.remember(context, replace(record, task_id=found.task_id))
        if record.newest_job is None:
            holder = self._holder(record)
            renewed = self._taken(context, renewed, holder) if holder else renewed
            if renewed.task_id is not None:
                return self.remember(context, renewed)
        if renewed.key != record.key:
            self.remember(context, renewed)
        return self._submit_once(context, renewed, earlier=record)

    def _renewed(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Write what is submitted if an intended task is not there: what is given now, with the key recorded before.

        :raises UsageError: that cannot be submitted.
        """
        renewed = replace(
            record,
            clears=clears(context, self.retries, record.retries),
            retries=self.retries or 0,
            attempt=context["ti"].try_number,
            definition=self._definition(),
            account=self.account,
        )
        return renewed if record.key or record.newest_job is not None else replace(renewed, key=new_key(), owned=True)

    def take(self, record: SubmissionRecord, holder: TaskInfo, done: str = "nothing was submitted") -> SubmissionRecord:
        """Go on with the task of somebody else that holds the name, if the author says so.

        :param holder: as the server shows it.
        :param done: what has been done by then, if the author does not want it.
        :return: with its ID if it is adopted; without if it is to be run again by submitting its name.
        :raises DuplicateTask: the author does not, or it is of no use.
        """
        stamp = read_stamp(self.client, holder.task_id)
        has_ended = classify(holder.status).is_final
        record = replace(record, key=str(stamp.get("key", "")))
        if self.on_existing == "adopt" and (not has_ended or holder.status in self.statuses):
            self.check_definition(holder.task_id)
            self.log.warning("Adopting PanDA task %s, which %s.", holder.task_id, origin(stamp))
            return replace(record, task_id=holder.task_id, sent=True, owned=False)
        if self.on_existing == "rerun" and holder.status in RERUN_STATUSES:
            self.check_definition(holder.task_id)
            self.log.warning("PanDA task %s, which %s, is run again.", holder.task_id, origin(stamp))
            newest = max(self.client.task.get_job_ids(holder.task_id), default=0)
            return replace(record, task_id=None, mark=Mark.of(holder), newest_job=newest, owned=False)
        state = f"{'ended as' if has_ended else 'is'} {holder.status or 'not registered yet'}"
        raise DuplicateTask(
            f"the task name {record.name} belongs to PanDA task {holder.task_id}, which {state} and {origin(stamp)}; "
            f"{done}.",
            task_id=holder.task_id,
            advice="Leave taskName out, or give this step one of its own for each run; on_existing='adopt' takes an "
            "active task or one that ended well for its own, 'rerun' runs an ended one again unless it is broken.",
        )

    def intend(self, context: Context, previous: SubmissionRecord | None) -> SubmissionRecord:
        """Say what is to be submitted, after checking that it can be; nothing is recorded or sent.

        :param previous: what it takes the place of.
        :return: with an ID if it is to take a task that exists.
        :raises UsageError: it cannot be submitted.
        :raises DuplicateTask: the name is that of somebody else.
        """
        definition = self._definition()
        ti, key, given = context["ti"], new_key(), self._given_name()
        generation = previous.generation + (previous.sent and previous.owned) if previous else 0
        record = SubmissionRecord(
            generation_of(given, generation) or task_name(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, key),
            generation,
            time.time(),
            clears(context, self.retries),
            attempt=ti.try_number,
            definition=definition,
            key=key,
            account=self.account,
            retries=self.retries or 0,
        )
        check_submission({"task_parameters": self._parameters(context, record)})
        holder = self._holder(record)
        return self.take(record, holder) if holder else record

    def _check_given(self) -> None:
        if not isinstance(self.task_parameters, dict):
            raise UsageError(
                f"task_parameters must be a dict, not {self.task_parameters!r:.80}; nothing was submitted."
            )
        refuse_leftovers(self.task_parameters)
        if self.parent_tid not in (None, ""):
            self.task_id_of(self.parent_tid)

    def _given_name(self) -> str:
        """Read the name that the author gives, or an empty text."""
        name = self.task_parameters.get("taskName") or ""
        if not isinstance(name, str):
            raise UsageError(f"taskName must be text, not {name!r:.80}; nothing was submitted.")
        return name.strip()

    def _parent(self) -> dict[str, int]:
        return {} if self.parent_tid in (None, "") else {"parent_tid": self.task_id_of(self.parent_tid)}

    def _definition(self) -> str:
        self._check_given()
        return definition_digest({**self.task_parameters, **self._parent()})

    def _parameters(self, context: Context, record: SubmissionRecord) -> dict[str, Json]:
        """Write what is submitted: what the author gives, the name, and whose it is."""
        given = {**self.task_parameters, "taskName": record.name, "uniqueTaskName": True}
        if self.hook.config.task_label == "managed" and given.get("taskPriority") is None:
            given["taskPriority"] = PRODUCTION_PRIORITY
        ti = context["ti"]
        stamp = {
            "key": record.key,
            "dag_id": ti.dag_id,
            "run_id": ti.run_id,
            "task_id": ti.task_id,
            "map_index": ti.map_index,
            "try_number": ti.try_number,
        }
        if conf.get("api", "base_url", fallback=""):
            stamp["url"] = ti.log_url
        return stamped(given, stamp)

    def _holder(self, record: SubmissionRecord) -> TaskInfo | None:
        """See who holds a name that the author gave; one that this step derives holds its key, and is nobody else's."""
        return lookup.holder(self.client, record.name) if self._given_name() else None

    def _taken(self, context: Context, record: SubmissionRecord, holder: TaskInfo, **said: str) -> SubmissionRecord:
        """Go on with a task that holds the name; if that is refused, know that nothing of this step's is on its way."""
        try:
            return self.take(record, holder, **said)
        except DuplicateTask:
            if Memory(context, "panda_submission").recall():
                self.remember(context, replace(record, sent=False))
            raise

    def _submit_once(
        self, context: Context, record: SubmissionRecord, *, earlier: SubmissionRecord | None = None
    ) -> SubmissionRecord:
        """Submit, or go on with the task that holds the name.

        :param earlier: what an earlier request has submitted that may have reached the server, if there was one:
            perhaps its task is not shown yet.
        :raises DuplicateTask: the task that holds the name is that of somebody else.
        """
        try:
            submission = self.client.task.submit(self._parameters(context, record), **self._parent())
        except DuplicateTask as duplicate:  # perhaps of this very request, which a proxy has repeated
            return self._about_duplicate(context, earlier or record, duplicate, again=earlier is not None)
        except NOTHING_DONE:
            if earlier is None:
                self.remember(context, replace(record, sent=False))
            raise
        self.log.info("PanDA task %s: %s", submission.task_id, submission.message)
        if submission.reactivated and record.newest_job is None:
            record = self._reactivated(context, record, submission.task_id)
        return self.remember(context, replace(record, task_id=submission.task_id, since=time.time()))

    def _reactivated(self, context: Context, record: SubmissionRecord, task_id: int) -> SubmissionRecord:
        """Judge a reactivation that was not asked for: the name became that of an ended task just now."""
        if self.is_ours(replace(record, task_id=task_id)):
            return record
        self.log.warning("The server runs PanDA task %s again, which ended just now under the same name.", task_id)
        holder = self.client.task.get_detailed_info(task_id)
        return self._taken(context, record, holder, done="the server took the submission for a wish to run it again")

    def _about_duplicate(
        self, context: Context, record: SubmissionRecord, duplicate: DuplicateTask, *, again: bool = False
    ) -> SubmissionRecord:
        """Go on with the task that the server says holds the name: this step's own, or that of somebody else.

        :param again: an earlier request may have reached the server, so that a task that was to run again does.
        :raises DuplicateTask: the author does not want that, or the server does not say which it is.
        """
        if duplicate.task_id is None:
            raise duplicate
        known = replace(record, task_id=duplicate.task_id, since=time.time() if record.mark else record.since)
        if (again or record.newest_job is None) and self._is_named_by_us(record) and self.is_ours(known):
            self.log.info("PanDA task %s was submitted before.", duplicate.task_id)
            return self.remember(context, known)
        try:
            holder = self.client.task.get_detailed_info(duplicate.task_id)
        except NotFound:
            holder = TaskInfo(duplicate.task_id, record.name)
        taken = self._taken(context, record, holder)
        if taken.task_id is None:  # to be run again: the server has just refused to, or the task has ended just now
            self.remember(context, replace(record, sent=False))
            raise DuplicateTask(
                f"PanDA task {holder.task_id}, which ended as {holder.status}, was to run again and was refused.",
                task_id=holder.task_id,
                server_says=duplicate.server_says,
                advice="A retry of this step asks again.",
                hopeless=False,
            )
        return self.remember(context, taken)

    def _newcomer(self, record: SubmissionRecord) -> TaskInfo | None:
        """Find the intended task, unless it stands where it stood before it was to run again."""
        if not self._is_named_by_us(record):
            return None
        found = lookup.ours(self.client, record.name, record.key, record.since)
        return None if found and record.mark and record.mark.holds(found) else found

    def _is_named_by_us(self, record: SubmissionRecord) -> bool:
        """Whether name and key tell the task: without a key, which an earlier version lacked, a given name does not."""
        return bool(record.key or record.newest_job is not None or not self._given_name())

    def check_definition(self, task_id: int) -> None:
        """Refuse to take a task of other parameters for the one that would have been submitted.

        :raises DuplicateTask: names the parameters.
        """
        if self.on_change == "continue":
            return
        found = self.client.task.get_task_parameters(task_id)
        if other := differences(self.task_parameters, found):
            raise DuplicateTask(
                f"PanDA task {task_id} holds the task name and is another task: {', '.join(other)} differ.",
                task_id=task_id,
                advice="Give this step a taskName of its own, one for each run, or set on_change='continue' to take "
                "that task for its own.",
            )
