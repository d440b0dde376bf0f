"""Server module ``task``: submit, watch and command tasks."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.filters import check_filters
from panda_airflow.client.models import (
    CommandReply,
    DatasetFiles,
    Envelope,
    JobInfo,
    Json,
    Submission,
    TaskDigest,
    TaskInfo,
    TaskRow,
)
from panda_airflow.client.task_parameters import check_submission


def retry_registered(envelope: Envelope) -> bool:
    """Tell a registered retry from a refused one: the server calls both a success, only the code differs."""
    return envelope.success and envelope.data in (0, 3)


class TaskApi(ApiModule):
    """Methods below ``/api/v1/task/``.

    A command is registered now and executed by JEDI minutes later: until then the old status stays visible. One
    command waits at a time, a new one replaces it; this is why a command may be repeated. A task that was
    submitted minutes ago may not be registered yet: most methods then say :class:`NotFound`, or
    :class:`PermissionDenied` where the owner is asked for. ``NotFound`` is also what the server says while its
    database is down.
    """

    @endpoint("POST", "task/submit", idempotent=False, check=check_submission)
    def submit(self, task_parameters: dict[str, Json], parent_tid: int | None = None) -> Submission:
        """Submit a task.

        Repeating a submission whose outcome is unknown makes a second task, unless the parameters hold
        ``uniqueTaskName: true`` and ``taskType`` is ``anal``.

        :param task_parameters: JEDI's task parameters; needs ``taskName``, ``vo``, ``prodSourceLabel`` and what
            :func:`~panda_airflow.client.task_parameters.check_submission` lists.
        :param parent_tid: JediTaskID of the parent task.
        :raises UsageError: a parameter is missing, too long or has no JSON form; nothing was sent.
        :raises DuplicateTask: the unique name belongs to a queued or active task, named in ``task_id``.
        """

    @endpoint("POST", "task/retry", idempotent=True, owner=True, ok=retry_registered)
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

        On a user task that still runs, its failed jobs are retried at once. Each input that failed gets five more
        attempts, whatever the task's ``maxAttempt``.

        :param task_id: JediTaskID of a finished, failed or (production role) exhausted task.
        :param new_parameters: task parameters to overwrite, as a dict or JSON; the reply then carries code 3.
        :param no_child_retry: leave child tasks alone.
        :param discard_events: drop event ranges that were done.
        :param disable_staging_mode: skip the staging status.
        :param keep_gshare_priority: keep global share and priority.
        :param ignore_hard_exhausted: retry even where the failure limits were exceeded (production role).
        :raises WrongState: the task is in a status that cannot be retried; ``done`` and ``aborted`` cannot.
        :raises PermissionDenied: another user's task, or one that is not registered yet.
        """

    @endpoint("POST", "task/kill", idempotent=True, owner=True)
    def kill(self, task_id: int, broadcast: bool = False) -> CommandReply:
        """Ask JEDI to kill a task; owner or production role.

        :param task_id: JediTaskID.
        :param broadcast: also tell the pilots directly.
        :raises PermissionDenied: another user's task, or one that is not registered yet.
        :raises WrongState: the task has ended already.
        """

    @endpoint("POST", "task/finish", idempotent=True, owner=True)
    def finish(self, task_id: int, soft: bool = False, broadcast: bool = False) -> CommandReply:
        """Ask JEDI to end a task with what it has; owner or production role.

        :param task_id: JediTaskID.
        :param soft: let running jobs end first.
        :param broadcast: also tell the pilots directly.
        :raises PermissionDenied: another user's task, or one that is not registered yet.
        :raises WrongState: the task has ended already.
        """

    @endpoint("POST", "task/reload_input", idempotent=True)
    def reload_input(self, task_id: int, ignore_hard_exhausted: bool = False) -> CommandReply:
        """Ask JEDI to look for new input of an ended task and run on it, and on what failed; any user may.

        :param task_id: JediTaskID of a done, finished, failed, aborted or exhausted task.
        :param ignore_hard_exhausted: even where the failure limits were exceeded (production role).
        :raises WrongState: the task has not ended, or is broken.
        """

    @endpoint("POST", "task/pause", idempotent=True, production=True)
    def pause(self, task_id: int) -> CommandReply:
        """Ask JEDI to pause a task.

        An aborting task is accepted too, and then stays paused.

        :param task_id: JediTaskID.
        :raises WrongState: the task is paused or has ended.
        """

    @endpoint("POST", "task/resume", idempotent=True, production=True)
    def resume(self, task_id: int) -> CommandReply:
        """Ask JEDI to go on with a task.

        :param task_id: JediTaskID of a paused, throttled or staging task.
        :raises WrongState: the task is in another status.
        """

    @endpoint("POST", "task/release", idempotent=True, production=True)
    def release(self, task_id: int) -> CommandReply:
        """Ask JEDI not to wait for the staging of input any longer.

        :param task_id: JediTaskID of a defined, assigning, ready, pending, scouting or running task.
        :raises WrongState: the task is in another status.
        """

    @endpoint("POST", "task/avalanche", idempotent=True, production=True)
    def avalanche(self, task_id: int) -> CommandReply:
        """Ask JEDI to make all jobs of a task without waiting for its scouts.

        :param task_id: JediTaskID of a scouting task.
        :raises WrongState: the task is in another status.
        """

    # A repeat that arrives once JEDI has acted kills the jobs that were just made.
    @endpoint("POST", "task/reassign", idempotent=False)
    def reassign(
        self,
        task_id: int,
        site: str | None = None,
        cloud: str | None = None,
        nucleus: str | None = None,
        mode: str | None = None,
    ) -> CommandReply:
        """Ask JEDI to send a task elsewhere; any user may.

        :param task_id: JediTaskID.
        :param site: where to; anywhere if neither site, cloud nor nucleus is given.
        :param cloud: where to.
        :param nucleus: where to.
        :param mode: ``kill`` all jobs (default), ``soft`` (those in queues) or ``nokill``.
        :raises WrongState: the task is paused or has ended.
        """

    # A repeat would take input that is in work already as untouched again.
    @endpoint("POST", "task/reactivate", idempotent=False, production=True)
    def reactivate(
        self, task_id: int, keep_attempt_nr: bool = False, trigger_job_generation: bool = False
    ) -> CommandReply:
        """Put a task back to ``ready``, to run from the start.

        The status changes at once and nothing else, neither a time nor the error dialog; the jobs may come minutes
        later. An unknown task is no error: the message then says that 0 inputs were updated.

        :param task_id: JediTaskID.
        :param keep_attempt_nr: do not count the attempts at each input from 0 again.
        :param trigger_job_generation: do not wait for JEDI's next cycle.
        """

    # Each repeat would add as many attempts again.
    @endpoint("POST", "task/increase_attempts", idempotent=False, production=True)
    def increase_attempts(self, task_id: int, increase: int) -> CommandReply:
        """Allow more attempts at the inputs of a task.

        :param task_id: JediTaskID.
        :param increase: how many more, not negative.
        :raises NotFound: the task is unknown.
        :raises Refused: ``increase`` is negative.
        """

    @endpoint("POST", "task/kill_unfinished_jobs", idempotent=True)
    def kill_unfinished_jobs(self, task_id: int, code: int | None = None, use_email_as_id: bool = False) -> list[bool]:
        """Kill all jobs of a task that have not ended; the task itself goes on.

        As with :meth:`JobApi.kill`, refusals are answers: a job of another user and one that has ended are ``False``.

        :param task_id: JediTaskID.
        :param code: kill code, see :meth:`JobApi.kill`.
        :param use_email_as_id: compare owners by e-mail address.
        :return: for each job whether its kill was accepted; empty for an unknown task.
        """

    @endpoint("POST", "task/change_attribute", idempotent=True, production=True)
    def change_attribute(self, task_id: int, attribute_name: str, value: int) -> None:
        """Set what each job of a task asks for.

        :param task_id: JediTaskID.
        :param attribute_name: ``ramCount``, ``wallTime``, ``cpuTime`` or ``coreCount``.
        :param value: in the task's own units.
        :raises InvalidArgument: there is no such attribute.
        """

    # The time is counted from when the request arrives, so that a repeat moves it by moments.
    @endpoint("POST", "task/change_modification_time", idempotent=True, production=True)
    def change_modification_time(self, task_id: int, hour_offset: int) -> None:
        """Set the modification time of a task, by which JEDI decides when to look at it.

        :param task_id: JediTaskID.
        :param hour_offset: hours from now; such as -12 to have the task brokered soon.
        """

    @endpoint("POST", "task/change_priority", idempotent=True, production=True)
    def change_priority(self, task_id: int, priority: int) -> None:
        """Set the priority of a task.

        :param task_id: JediTaskID.
        :param priority: higher runs earlier; 1000 is usual for analysis.
        """

    @endpoint("POST", "task/change_split_rule", idempotent=True, production=True)
    def change_split_rule(self, task_id: int, attribute_name: str, value: str) -> None:
        """Set one rule by which JEDI splits a task into jobs.

        :param task_id: JediTaskID.
        :param attribute_name: the rule's two letters, such as ``NF`` (files per job).
        :param value: the rule's value, as text.
        :raises InvalidArgument: there is no such rule, or it may not be changed.
        """

    @endpoint("POST", "task/reassign_global_share", idempotent=True, production=True)
    def reassign_global_share(self, task_id_list: list[int], share: str, reassign_running_jobs: bool) -> CommandReply:
        """Move tasks to another global share.

        :param task_id_list: JediTaskIDs.
        :param share: a leaf of the tree of shares.
        :param reassign_running_jobs: move jobs that run, too.
        :raises InvalidArgument: the share is no leaf.
        """

    @endpoint("POST", "task/enable_job_cloning", idempotent=True, production=True)
    def enable_job_cloning(
        self,
        jedi_task_id: int,
        mode: str | None = None,
        multiplicity: int | None = None,
        num_sites: int | None = None,
    ) -> None:
        """Run each job of a task several times and keep the first result.

        :param jedi_task_id: JediTaskID.
        :param mode: ``runonce`` or ``storeonce``.
        :param multiplicity: clones of each job.
        :param num_sites: sites to spread them over.
        """

    @endpoint("POST", "task/disable_job_cloning", idempotent=True, production=True)
    def disable_job_cloning(self, jedi_task_id: int) -> None:
        """Stop cloning the jobs of a task.

        :param jedi_task_id: JediTaskID.
        """

    @endpoint("POST", "task/enable_jumbo_jobs", idempotent=True, production=True)
    def enable_jumbo_jobs(
        self, task_id: int, jumbo_jobs_total: int, jumbo_jobs_per_site: int | None = None
    ) -> CommandReply:
        """Let a task run as jumbo jobs.

        :param task_id: JediTaskID.
        :param jumbo_jobs_total: how many; 0 turns them off.
        :param jumbo_jobs_per_site: how many at each site; all if not given.
        :raises ServerError: always with panda-server 1.0.4, whatever the number.
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

    @endpoint("GET", "task/get_parent_detailed_info", idempotent=True, same_task=False)
    def get_parent_detailed_info(self, task_id: int) -> TaskInfo:
        """Read status, times, progress and error dialog of the parent of a task.

        :param task_id: JediTaskID of the child.
        :raises NotFound: the child is unknown or has no parent.
        """

    @endpoint("GET", "task/get_tasks_detailed_info_since", idempotent=True, check=check_filters)
    def get_tasks_detailed_info_since(
        self, since: str | None = None, filters: str | None = None, n_tasks: int = 500
    ) -> list[TaskInfo]:
        r"""Read status, times, progress and error dialog of the caller's tasks, with one query each.

        :param since: modified later than this, as ``YYYY-MM-DD HH:MM:SS`` in UTC and at most 90 days ago; tasks
            of any age if not given.
        :param filters: a JSON object, server's field name to text; a text with one of ``+ ( ) | * ? ^ $ \`` is a
            regular expression, applied after the limit. ``userName`` asks for another user's tasks.
        :param n_tasks: at most so many.
        :return: no task that is not registered yet, nor in status ``registered``.
        :raises UsageError: a filter is no text, or tasks have no such field; nothing was sent.
        :raises InvalidArgument: the filters are no JSON object.
        """

    @endpoint("GET", "task/get_tasks_modified_since", idempotent=True)
    def get_tasks_modified_since(
        self,
        since: str,
        dn: str | None = None,
        full: bool = False,
        min_task_id: int | None = None,
        prod_source_label: str = "user",
    ) -> dict[str, TaskRow]:
        """Read which tasks of one user and label have changed; the cheapest way to watch many.

        Good for what has ended: JEDI back-dates the modification time of active tasks by hours.

        :param since: ``YYYY-MM-DD HH:MM:SS`` in UTC; text of another form gives an empty answer.
        :param dn: of the user; the caller if not given.
        :param full: also progress and jobs, and then at most 500 tasks.
        :param min_task_id: leave out tasks with smaller JediTaskIDs.
        :param prod_source_label: such as ``user`` or ``managed``.
        :return: tasks by request ID, as text; of tasks that share a request ID only one is there.
        """

    @endpoint("GET", "task/get_details", idempotent=True)
    def get_details(self, task_id: int, include_parameters: bool = False, include_status: bool = False) -> TaskDigest:
        """Read the jobs, datasets and progress of a task.

        :param task_id: JediTaskID.
        :param include_parameters: also the command line it was submitted with.
        :param include_status: also its status.
        :return: empty for an unknown task without ``include_status``.
        :raises NotFound: with ``include_status``, an unknown task.
        """

    @endpoint("GET", "task/get_task_parameters", idempotent=True)
    def get_task_parameters(self, task_id: int) -> dict[str, Json]:
        """Read the parameters a task was submitted with; the one method that knows it at once.

        :param task_id: JediTaskID.
        :raises NotFound: unknown, or the server's database is down.
        """

    @endpoint("GET", "task/get_datasets_and_files", idempotent=True)
    def get_datasets_and_files(
        self,
        task_id: int,
        dataset_types: list[str] = ["input", "pseudo_input"],
        dataset_only: bool = False,
    ) -> list[DatasetFiles]:
        """Read the files of a task, dataset by dataset.

        :param task_id: JediTaskID.
        :param dataset_types: such as ``input``, ``pseudo_input``, ``output``, ``log``.
        :param dataset_only: leave the files out; panda-server 1.0.4 sends them all the same.
        :raises NotFound: the task is unknown or has no such dataset.
        """

    @endpoint("GET", "task/get_job_ids", idempotent=True)
    def get_job_ids(self, task_id: int) -> list[int]:
        """Read the PandaIDs of all jobs of a task.

        :param task_id: JediTaskID.
        :return: in no order; empty for an unknown task.
        """

    @endpoint("GET", "task/get_job_descriptions", idempotent=True)
    def get_job_descriptions(self, task_id: int, unsuccessful_only: bool = False) -> list[JobInfo]:
        """Read the jobs of a task with their errors and files, at most 5500.

        :param task_id: JediTaskID.
        :param unsuccessful_only: only failed, cancelled and closed jobs.
        :return: empty for an unknown task.
        """

    @endpoint("GET", "task/get_jumbo_job_datasets", idempotent=True)
    def get_jumbo_job_datasets(self, from_offset: int, to_offset: int = 0) -> dict[str, Json]:
        """Read the output datasets of ended production tasks with jumbo jobs.

        :param from_offset: modified at most so many days ago.
        :param to_offset: modified at least so many days ago.
        :return: JediTaskID, as text, to ``{"status": ..., "datasets": [...]}``.
        """
