"""Submitting a PanDA task exactly once, and knowing by its key that it is the one."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Literal

from airflow.sdk.configuration import conf

from panda_airflow.client import (
    DuplicateTask,
    NotCarriedOut,
    NotFound,
    OutcomeUnknown,
    ServerError,
    TaskAborted,
    UsageError,
    lookup,
)
from panda_airflow.client.errors import NOTHING_DONE
from panda_airflow.client.models import Json, Mark, TaskInfo
from panda_airflow.client.ownership import new_key, origin, read_stamp, stamped
from panda_airflow.client.status import classify
from panda_airflow.client.submission import (
    SubmissionRecord,
    check_submission,
    differences,
    fingerprint,
    generation_of,
    refuse_leftovers,
    task_name,
)
from panda_airflow.client.waiting import JEDI_PATIENCE
from panda_airflow.hooks.definition import TaskDefinition
from panda_airflow.operators.memory import Context, Memory, clears

OnChange = Literal["resubmit", "continue"]
OnExisting = Literal["fail", "adopt", "rerun"]

PRODUCTION_PRIORITY = 900
"""Priority of a task where the production role is asked for: the server fills in none then, and JEDI breaks it."""


class Submission(TaskDefinition):
    """What a step needs to submit a task."""

    parent_tid: int | str | None
    on_change: OnChange
    on_existing: OnExisting
    accept: tuple[str, ...]
    _told_to_stop: bool

    def recall(self, context: Context) -> SubmissionRecord | None:
        """Recall what was submitted; a task of a version that knew no keys is waited for, and never touched."""
        value = Memory(context, "panda_submission").recall()
        record = SubmissionRecord.from_json(value) if value else None
        return record and replace(record, owned=record.owned and bool(record.key or record.account.server))

    def remember(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Record a submission, and know before that what a kill of this step has to end."""
        record = replace(record, clears=clears(context, self.retries))
        self.aim(record)
        Memory(context, "panda_submission").remember(asdict(record))
        return record

    def aim(self, record: SubmissionRecord | None) -> None:
        """Know what a kill of this step has to end."""

    def has_changed(self, record: SubmissionRecord) -> bool:
        """Whether other parameters were submitted than the author gives now."""
        return record.definition not in ("", self._definition())

    def is_ours(self, record: SubmissionRecord) -> bool | None:
        """Whether the recorded task carries the recorded key; None where the server does not tell now."""
        try:
            return bool(read_stamp(self.client, record.task_id or 0).get("key", "") == record.key)
        except NotFound:
            return None

    def submit(self, context: Context, previous: SubmissionRecord | None) -> SubmissionRecord:
        """Submit a task, or take the one that holds the name if the author says so.

        :param previous: what it takes the place of.
        """
        record = self._intend(context, previous)
        if record.task_id is not None:
            return record
        try:
            return self._submit_once(context, record)
        except NotCarriedOut:
            raise
        except DuplicateTask as duplicate:
            return self._about_duplicate(context, record, duplicate)
        except (OutcomeUnknown, ServerError) as unclear:
            self.log.warning("%s Looking for the task by its name and key.", unclear)
            return self.find_or_submit(context, record)

    def find_or_submit(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """Look for the intended task, and submit it if it is not there.

        The server refuses a second user task of the same name. It does not for production tasks, so these are
        looked for until the registration window has passed.
        """
        production = self.task_parameters.get("taskType") != "anal"
        window_ends = record.since + JEDI_PATIENCE
        while (found := self._newcomer(record)) is None and production and time.time() < window_ends:
            self.log.info("No task named %s is registered yet.", record.name)
            time.sleep(lookup.until_registered(time.time(), record.since))
        if found:
            self.log.info("PanDA task %s was submitted before.", found.task_id)
            return self.remember(context, replace(record, task_id=found.task_id))
        renewed = replace(record, definition=self._definition(), attempt=context["ti"].try_number)
        if record.newest_job is None:
            renewed = self._about_holder(context, renewed)
            if renewed.task_id is not None:
                return self.remember(context, renewed)
        try:
            return self._submit_once(context, renewed, again=True)
        except DuplicateTask as duplicate:  # perhaps what an earlier request submitted is not shown yet
            return self._about_duplicate(context, record, duplicate)

    def take(self, record: SubmissionRecord, holder: TaskInfo) -> SubmissionRecord:
        """Go on with the task of somebody else that holds the name, if the author says so.

        :param holder: as the server shows it.
        :return: with its ID if it is adopted; without if it is to be run again by submitting its name.
        :raises DuplicateTask: the author does not, or it is of no use.
        """
        stamp = read_stamp(self.client, holder.task_id)
        has_ended = classify(holder.status).is_final
        record = replace(record, key=str(stamp.get("key", "")))
        if self.on_existing == "adopt" and (not has_ended or holder.status in self.accept):
            self.check_definition(holder.task_id)
            self.log.warning("Adopting PanDA task %s, which %s.", holder.task_id, origin(stamp))
            return replace(record, task_id=holder.task_id, sent=True, owned=False)
        if self.on_existing == "rerun" and has_ended:
            self.check_definition(holder.task_id)
            self.log.warning("PanDA task %s, which %s, is run again.", holder.task_id, origin(stamp))
            newest = max(self.client.task.get_job_ids(holder.task_id), default=0)
            return replace(record, mark=Mark.of(holder), newest_job=newest)
        state = f"{'ended as' if has_ended else 'is'} {holder.status or 'not registered yet'}"
        raise DuplicateTask(
            f"the task name {record.name} belongs to PanDA task {holder.task_id}, which {state} and {origin(stamp)}; "
            "nothing was submitted.",
            task_id=holder.task_id,
            advice="Leave taskName out, or give this step one of its own for each run; on_existing='adopt' takes an "
            "active task or one that ended well for its own, 'rerun' runs an ended one again.",
        )

    def _intend(self, context: Context, previous: SubmissionRecord | None) -> SubmissionRecord:
        """Record what is about to be submitted, after checking that it can be."""
        self._check_given()
        if self._told_to_stop:
            raise TaskAborted("the step was told to stop before it submitted a PanDA task; nothing was submitted.")
        ti, key = context["ti"], new_key()
        given = self._given_name()
        generation = previous.generation + (previous.sent and previous.owned) if previous else 0
        record = SubmissionRecord(
            generation_of(given, generation) or task_name(ti.dag_id, ti.run_id, ti.task_id, ti.map_index, key),
            generation,
            time.time(),
            attempt=ti.try_number,
            definition=self._definition(),
            key=key,
            account=self.account,
        )
        check_submission({"task_parameters": self._parameters(context, record)})
        return self.remember(context, self._about_holder(context, record))

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
        return fingerprint({**self.task_parameters, **self._parent()})

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

    def _about_holder(self, context: Context, record: SubmissionRecord) -> SubmissionRecord:
        """See who holds a name that the author gave; one that this step derives holds its key, and is nobody else's."""
        holder = lookup.holder(self.client, record.name) if self._given_name() else None
        if holder is None:
            return record
        return self._taken(context, record, holder)

    def _taken(self, context: Context, record: SubmissionRecord, holder: TaskInfo) -> SubmissionRecord:
        """Go on with a task that holds the name; if that is refused, know that nothing of this step's is on its way."""
        try:
            return self.take(record, holder)
        except DuplicateTask:
            if Memory(context, "panda_submission").recall():
                self.remember(context, replace(record, sent=False))
            raise

    def _submit_once(self, context: Context, record: SubmissionRecord, *, again: bool = False) -> SubmissionRecord:
        """Submit.

        :param again: an earlier request may have reached the server, whatever becomes of this one.
        :raises DuplicateTask: an active task holds the name already.
        """
        try:
            submission = self.client.task.submit(self._parameters(context, record), **self._parent())
        except NOTHING_DONE:
            if not again:
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
        return self._taken(context, record, self.client.task.get_detailed_info(task_id))

    def _about_duplicate(
        self, context: Context, record: SubmissionRecord, duplicate: DuplicateTask
    ) -> SubmissionRecord:
        """Go on with the task that the server says holds the name: this step's own, or that of somebody else.

        :raises DuplicateTask: the author does not want that, or the server does not say which it is.
        """
        if duplicate.task_id is None:
            raise duplicate
        if read_stamp(self.client, duplicate.task_id).get("key") == record.key:
            self.log.info("PanDA task %s was submitted before.", duplicate.task_id)
            return self.remember(context, replace(record, task_id=duplicate.task_id))
        try:
            holder = self.client.task.get_detailed_info(duplicate.task_id)
        except NotFound:
            holder = TaskInfo(duplicate.task_id, record.name)
        return self.remember(context, self._taken(context, record, holder))

    def _newcomer(self, record: SubmissionRecord) -> TaskInfo | None:
        """Find the intended task, unless it stands where it stood before it was to run again."""
        found = lookup.ours(self.client, record.name, record.key, record.since)
        return None if found and record.mark and record.mark.holds(found) else found

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
