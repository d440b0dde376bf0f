"""Server module ``task``: submit, watch and command tasks."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import CommandReply, Envelope, Json, Submission, TaskInfo
from panda_airflow.client.submission import check_submission


def retry_registered(envelope: Envelope) -> bool:
    """Tell a registered retry from a refused one: the server calls both a success, only the code differs."""
    return envelope.success and envelope.data in (0, 3)


class TaskApi(ApiModule):
    """Methods below ``/api/v1/task/``."""

    @endpoint("POST", "task/submit", idempotent=False, check=check_submission)
    def submit(self, task_parameters: dict[str, Json], parent_tid: int | None = None) -> Submission:
        """Submit a task.

        Repeating a submission whose outcome is unknown makes a second task, unless the parameters hold
        ``uniqueTaskName: true`` and ``taskType`` is ``anal``.

        :param task_parameters: JEDI's task parameters; needs ``taskName``, ``vo``, ``prodSourceLabel`` and what
            :func:`~panda_airflow.client.submission.check_submission` lists.
        :param parent_tid: JediTaskID of the parent task.
        :raises UsageError: a parameter is missing, too long or has no JSON form; nothing was sent.
        :raises DuplicateTask: the unique name belongs to a queued or active task, named in ``task_id``.
        """

    @endpoint("POST", "task/retry", idempotent=True, ok=retry_registered)
    def retry(
        self,
        task_id: int,
        new_parameters: dict[str, Json] | str | None = None,
        no_child_retry: bool = False,
        discard_events: bool = False,
        disable_staging_mode: bool = False,
        keep_gshare_priority: bool = False,
        ignore_hard_exhausted: bool = False,
    ) -> CommandReply:
        """Ask JEDI to run the unsuccessful part of a task again; owner or production role.

        The command is registered now and executed minutes later: until then the old status stays visible.

        :param task_id: JediTaskID of a finished, failed or (production role) exhausted task.
        :param new_parameters: task parameters to overwrite; the reply then carries code 3.
        :param no_child_retry: leave child tasks alone.
        :param discard_events: drop event ranges that were done.
        :param disable_staging_mode: skip the staging status.
        :param keep_gshare_priority: keep global share and priority.
        :param ignore_hard_exhausted: retry even where the failure limits were exceeded (production role).
        :raises WrongState: the task is in a status that cannot be retried; ``done`` and ``aborted`` cannot.
        """

    @endpoint("POST", "task/kill", idempotent=True)
    def kill(self, task_id: int, broadcast: bool = False) -> CommandReply:
        """Ask JEDI to kill a task; owner or production role.

        :param task_id: JediTaskID.
        :param broadcast: also tell the pilots directly.
        :raises PermissionDenied: another user's task, or one that is not registered yet.
        :raises WrongState: the task has ended already.
        """

    @endpoint("GET", "task/get_status", idempotent=True)
    def get_status(self, task_id: int) -> str:
        """Read the status of a task, as one word.

        :param task_id: JediTaskID.
        :raises NotFound: unknown, not registered yet, or the server's database is down.
        """

    @endpoint("GET", "task/get_detailed_info", idempotent=True)
    def get_detailed_info(self, task_id: int) -> TaskInfo:
        """Read status, times, progress and error dialog of a task.

        :param task_id: JediTaskID.
        :raises NotFound: unknown, not registered yet, or the server's database is down.
        """
