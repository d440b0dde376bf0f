"""Server module ``job``: look at, command and submit single jobs."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, Arguments, endpoint
from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import Envelope, JobInfo, JobState, Json


def refuse_email(arguments: Arguments) -> None:
    """Stop before a call that the server answers with an error of its own.

    :raises UsageError: owners are to be compared by e-mail address; nothing was sent.
    """
    if arguments.get("use_email_as_id"):
        raise UsageError("panda-server up to 1.0.4 cannot compare owners by e-mail address; nothing was sent.")


def debug_mode_set(envelope: Envelope) -> bool:
    """Tell success by the message: panda-server 1.0.4 inverts the flag of ``job/set_debug_mode``."""
    return envelope.message == "Succeeded"


class JobApi(ApiModule):
    """Methods below ``/api/v1/job/``."""

    @endpoint("GET", "job/get_status", idempotent=True)
    def get_status(self, job_ids: list[int], timeout: int = 60) -> list[JobState]:
        """Read the status of jobs, and the command that waits for each one's pilot.

        :param job_ids: PandaIDs.
        :param timeout: seconds the server gives itself.
        :return: in the order asked; an unknown job has status ``unknown``.
        :raises Refused: the server ran out of time, or could not look.
        """

    @endpoint("POST", "job/get_description", idempotent=True)
    def get_description(self, job_ids: list[int]) -> list[JobInfo | None]:
        """Read jobs with their parameters, errors and files, without those that were archived.

        :param job_ids: PandaIDs; the server ignores all after the first 5500.
        :return: in the order asked; ``None`` for an unknown job.
        """

    @endpoint("POST", "job/get_description_incl_archive", idempotent=True)
    def get_description_incl_archive(self, job_ids: list[int]) -> list[JobInfo | None]:
        """Read jobs with their parameters, errors and files, in the archive too.

        :param job_ids: PandaIDs; the server ignores all after the first 5500.
        :return: in the order asked; ``None`` for an unknown job.
        """

    @endpoint("GET", "job/get_metadata_for_analysis_jobs", idempotent=True)
    def get_metadata_for_analysis_jobs(self, task_id: int) -> Json:
        """Read what the finished jobs of an analysis task reported about themselves.

        :param task_id: JediTaskID.
        :return: metadata by PandaID; empty if there is none or the task is unknown.
        """

    @endpoint("GET", "job/generate_offline_execution_script", idempotent=True, identity=False, enveloped=False)
    def generate_offline_execution_script(self, job_id: int, days: int | None = None) -> str:
        """Write a shell script that runs a job again by hand.

        :param job_id: PandaID.
        :param days: how far to look back in the archive; 30 if not given.
        :raises Refused: the job is not found in that time.
        """

    @endpoint("POST", "job/kill", idempotent=True, check=refuse_email)
    def kill(
        self,
        job_ids: list[int],
        code: int | None = None,
        use_email_as_id: bool = False,
        kill_options: list[str] = [],
    ) -> list[bool]:
        """Kill jobs of one's own, or with the production role any.

        The server refuses job by job: another user's job, an ended and an unknown one are ``False``, not errors.

        :param job_ids: PandaIDs.
        :param code: why, such as 2 (expired), 3 (aborted), 9 (by force), 91 and 99 (by force, production role).
        :param use_email_as_id: compare owners by e-mail address; panda-server 1.0.4 always fails then.
        :param kill_options: ``keepUnmerged``, ``jobSubStatus=...``.
        :return: whether each kill was accepted, in the order asked.
        :raises UsageError: owners are to be compared by e-mail address; nothing was sent.
        """

    # A repeat would move jobs again that the first request has sent on their way.
    @endpoint("POST", "job/reassign", idempotent=False)
    def reassign(self, job_ids: list[int]) -> None:
        """Send jobs that wait to be brokered anew; any user may, and unknown jobs are passed over.

        :param job_ids: PandaIDs.
        """

    @endpoint("POST", "job/set_command", idempotent=True, production=True)
    def set_command(self, job_id: int, command: str) -> None:
        """Leave a command for the pilot of a job.

        :param job_id: PandaID.
        :param command: such as ``tobekilled``.
        :raises NotFound: there is no such active job.
        """

    @endpoint("POST", "job/set_debug_mode", idempotent=True, production=True, ok=debug_mode_set)
    def set_debug_mode(self, job_id: int, mode: bool) -> None:
        """Turn the debug mode of a job on or off.

        :param job_id: PandaID.
        :param mode: on.
        :raises Refused: there is no such active job, or too many are in debug mode.
        """

    # A repeat would make second jobs.
    @endpoint("POST", "job/submit", idempotent=False)
    def submit(self, jobs: str) -> list[Json]:
        """Submit jobs that belong to no task.

        :param jobs: job specifications, a JSON list as text; the server ignores all after the first 5000.
        :return: for each job its PandaID, job definition ID and a map of numbers.
        :raises Refused: the list is empty or cannot be read, or the production role is missing.
        """
