"""Steps that submit and kill single PanDA jobs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from airflow.sdk.exceptions import TaskDeferralTimeout

from panda_airflow.client import NotOurs, PandaError, ServerAway, UsageError, WaitTimeout
from panda_airflow.client.jobs import FileSpec, JobSpec, dump_jobs
from panda_airflow.client.models import Json
from panda_airflow.client.status import check_statuses
from panda_airflow.client.stored import Account
from panda_airflow.operators.polling import PandaPollOperator
from panda_airflow.steps.base import Context
from panda_airflow.steps.kill import last_words
from panda_airflow.steps.kill.jobs import kill_jobs
from panda_airflow.steps.kill.reaper import FAREWELL, send_reaper, target_of_jobs
from panda_airflow.steps.once import at_most_once
from panda_airflow.steps.state_store import Memory, clears, end_noted
from panda_airflow.waiting.poll_checks import JOB_FINAL, jobs_plan, panda_ids

LEFT_RUNNING = "The jobs were left running; a retry of this step waits for them again."
STOPPED = "The jobs were told to stop; clear this step to submit others."


class PandaSubmitJobsOperator(PandaPollOperator):
    """Submit jobs that belong to no task, at most once, and wait for them.

    Jobs of ``prodSourceLabel`` ``managed`` need the production role. The PandaIDs are in XCom as ``job_ids``; with
    the wait, the statuses as ``jobs`` and their counts as ``statuses`` too. A retry waits for the same jobs; only a
    clear kills them and submits others.

    :param jobs: jobs as dicts of :class:`~panda_airflow.client.jobs.JobSpec`'s attributes; ``Files`` is a list of
        dicts of :class:`~panda_airflow.client.jobs.FileSpec`'s.
    :param statuses: statuses of a job that satisfy the step; any other final one fails it.
    :param cancel_on_kill: kill the jobs when a person ends the step.
    :param cancel_on_timeout: kill the jobs when the timeout passes; the step is not retried then.

    The other parameters are those of :class:`~panda_airflow.operators.polling.PandaPollOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "jobs")
    template_fields_renderers = {"jobs": "json"}  # noqa: RUF012 - declared so by Airflow

    def __init__(
        self,
        *,
        jobs: Sequence[dict[str, Json]],
        statuses: Sequence[str] = ("finished",),
        cancel_on_kill: bool = True,
        cancel_on_timeout: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.jobs = jobs
        self.statuses = check_statuses(statuses, f"statuses of {self.task_id}", "job")
        self.cancel_on_kill = cancel_on_kill
        self.cancel_on_timeout = cancel_on_timeout
        self._ids: list[int] = []
        self._told_to_stop = False

    def begin(self, context: Context) -> Json:
        """Submit the jobs, then wait for them."""
        text = dump_jobs([_specification(job) for job in self.jobs])
        _ = self.hook.config  # read before there are jobs to kill: the handler of a signal cannot ask Airflow
        self._stop_cleared(context)
        self._ids = ids = at_most_once(self, context, "the submission of the jobs", lambda: self._submit(text))
        if words := last_words.read(target_of_jobs(ids, self.account).key):
            self.log.warning("A process that was to kill the jobs has left word: %s", words)
        if not self.wait_for_completion:
            return {"job_ids": ids}
        plan = jobs_plan(ids, self.statuses, time.time(), self.poll_interval)
        return self.follow(context, plan, cancel_on_kill=self.cancel_on_kill)

    def execute_complete(self, context: Context, event: object) -> Json:
        """Add the PandaIDs to what the wait has found, or see to the jobs if it has given up."""
        try:
            value = super().execute_complete(context, event)
        except ServerAway as away:
            away.fate = away.advice = LEFT_RUNNING
            raise
        except WaitTimeout as late:
            self._give_up(context, late)
            raise
        return {"job_ids": [int(job_id) for job_id in value["jobs"]], **value}

    def on_kill(self) -> None:
        """Kill the jobs when this worker is told to stop; see :meth:`PandaTaskOperator.on_kill`.

        The answer to their submission may be on its way still: then they are killed as soon as it comes.
        """
        self._told_to_stop = True
        if self.cancel_on_kill and self._ids:
            try:
                self.log.warning("%s", self._send_reaper())
            except (OSError, PandaError):  # the worker is dying: say what is left behind
                self.log.exception("PanDA jobs %s may still be running: killing them failed.", self._ids)

    def _send_reaper(self) -> str:
        """Leave the kill to a process that goes on where the server is away; return what became of the jobs."""
        return send_reaper(self.hook.config, target_of_jobs(self._ids, self.account), FAREWELL)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """Go on after a deferral, which Airflow itself ends where the trigger fell silent."""
        with end_noted(self, context):
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except TaskDeferralTimeout as silence:
                late = WaitTimeout("the trigger that waits for the PanDA jobs did not report in time.")
                raise self._give_up(context, late) from silence

    def _give_up(self, context: Context, late: WaitTimeout) -> WaitTimeout:
        """See to the jobs of a step whose timeout has passed; a retry could only find killed ones."""
        late.fate = late.advice = self._end_late(context)
        late.hopeless = late.fate != LEFT_RUNNING
        return late

    def _end_late(self, context: Context) -> str:
        """Kill the jobs if the author wants that; return what became of them."""
        record = Memory(context, "panda_once").recall()
        if not (self.cancel_on_timeout and record):
            return LEFT_RUNNING
        self._ids = record["answer"]
        try:
            self.same_account("what this step submitted", Account.from_json(record.get("account")))
            kill_jobs(self.client, self._ids)
        except NotOurs as error:
            return f"The jobs may still be running: killing them failed. {error}"
        except PandaError as error:
            self.log.warning("Killing the jobs failed: %s", error)
            return self._send_reaper()
        return STOPPED

    def _stop_cleared(self, context: Context) -> None:
        """Kill the jobs that were submitted before a person cleared the step, since others take their place."""
        record = Memory(context, "panda_once").recall() or {}
        elsewhere = self.account.differs_from(Account.from_json(record.get("account")))
        if (ids := record.get("answer")) and record.get("clears") != clears(context, self.retries) and not elsewhere:
            kill_jobs(self.client, ids)
            self.log.warning("The step was cleared: PanDA jobs %s were told to stop.", ids)

    def _submit(self, text: str) -> list[int]:
        self._ids = ids = [int(job[0]) for job in self.client.job.submit(text)]
        self.log.info("The server accepted %s PanDA jobs: %s", len(ids), ids)
        if self._told_to_stop:
            self.on_kill()
        return ids


def _specification(job: dict[str, Json]) -> JobSpec:
    """Read a job.

    :raises UsageError: it has an attribute that jobs or files do not have; nothing was sent.
    """
    try:
        made = JobSpec(**{name: value for name, value in job.items() if name != "Files"})
        for file in job.get("Files", []):
            made.addFile(FileSpec(**file))
    except TypeError as error:
        raise UsageError(f"a job is not described as PanDA describes jobs: {error}; nothing was sent.") from error
    return made


class PandaKillJobsOperator(PandaPollOperator):
    """Kill PanDA jobs and wait until they have ended; those that have ended already are success.

    :param job_ids: a PandaID, a list of them, or a template that yields either.
    :param code: why, see :meth:`JobApi.kill <panda_airflow.client.api.job.JobApi.kill>`.
    :param kill_options: ``keepUnmerged``, ``jobSubStatus=...``.

    The other parameters are those of :class:`~panda_airflow.operators.polling.PandaPollOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "job_ids")

    def __init__(
        self,
        *,
        job_ids: int | str | Sequence[int | str],
        code: int | None = None,
        kill_options: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_ids = job_ids
        self.code = code
        self.kill_options = kill_options

    def begin(self, context: Context) -> Json:
        """Kill the jobs, then wait until they have ended."""
        ids = panda_ids(self.job_ids)
        self.same_as_at_first("what this step kills", context)
        given: dict[str, Any] = {"kill_options": list(self.kill_options)} if self.kill_options else {}
        given |= {} if self.code is None else {"code": self.code}
        if ended := kill_jobs(self.client, ids, **given):
            self.log.info("PanDA job(s) %s had ended already, or were ending.", ended)
        if not self.wait_for_completion:
            return {"job_ids": ids}
        return self.follow(context, jobs_plan(ids, sorted(JOB_FINAL), time.time(), self.poll_interval))
