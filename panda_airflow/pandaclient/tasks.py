"""Functions of the reference that submit, command and look at tasks.

Wherever the server is asked, the status is 0 if it answered and 255 if it did not.
"""

from __future__ import annotations

import json
from typing import Any

from panda_airflow.client.models import Envelope
from panda_airflow.pandaclient.calls import Answer, Given, applied, calls, code, data, verdict, words


def _submitted(envelope: Envelope, given: Given) -> Answer:
    """Answer with return code and message; that an ended task runs again is a code only for those who ask."""
    again = envelope.message.startswith("reactivation accepted") and given["properErrorCode"]
    accepted = 3 if again else 0
    return 0, (accepted if envelope.success else envelope.data, envelope.message)


@calls("task/submit", _submitted, words, task_parameters="taskParams", parent_tid="parent_tid")
def insertTaskParams(
    taskParams: dict[str, Any], verbose: bool = False, properErrorCode: bool = False, parent_tid: int | None = None
) -> Answer:
    """Submit a task.

    :param taskParams: task parameters.
    :param verbose: show verbose messages.
    :param properErrorCode: also tell code 3 from code 0.
    :param parent_tid: JediTaskID of the parent task.
    :return: status and (code, message); the message names the JediTaskID. Codes: 0 submitted, 1 and 2 the unique
        name belongs to a queued or an active task, 3 the task of that name runs again, 4 server error.
    """


@calls("task/kill", verdict, task_id="jediTaskID")
def killTask(jediTaskID: int, verbose: bool = False) -> Answer:
    """Kill a task.

    :param jediTaskID: JediTaskID.
    :param verbose: show verbose messages.
    :return: status and (True, 0) if the request is registered or (False, message) if it is refused.
    """


@calls("task/finish", verdict, task_id="jediTaskID", soft=lambda given: given["soft"] or None)
def finishTask(jediTaskID: int, soft: bool = False, verbose: bool = False) -> Answer:
    """Finish a task.

    :param jediTaskID: JediTaskID.
    :param soft: wait until running jobs are done.
    :param verbose: show verbose messages.
    :return: as from :func:`killTask`.
    """


@calls("task/retry", code, task_id="jediTaskID", new_parameters=lambda given: given["newParams"] or None)
def retryTask(
    jediTaskID: int, verbose: bool = False, properErrorCode: bool = False, newParams: dict[str, Any] | None = None
) -> Answer:
    """Run the unsuccessful part of a task again.

    :param jediTaskID: JediTaskID.
    :param verbose: show verbose messages.
    :param properErrorCode: without effect: the code always has all the detail.
    :param newParams: task parameters to overwrite.
    :return: status and (code, message). Codes: 0 registered, 2 not found, 3 runs again with the new parameters, 4
        refused in this status, ``None`` another user's task.
    """


@calls("task/pause", verdict, words, task_id="jediTaskID")
def pauseTask(jediTaskID: int, verbose: bool = False) -> Answer:
    """Pause a task; production role.

    :param jediTaskID: JediTaskID.
    :param verbose: show verbose messages.
    :return: as from :func:`killTask`.
    """


@calls("task/resume", verdict, words, task_id="jediTaskID")
def resumeTask(jediTaskID: int, verbose: bool = False) -> Answer:
    """Resume a paused task; production role.

    :param jediTaskID: JediTaskID.
    :param verbose: show verbose messages.
    :return: as from :func:`killTask`.
    """


@calls("task/reactivate", verdict, words, task_id="jediTaskID")
def reactivateTask(jediTaskID: int, verbose: bool = False) -> Answer:
    """Reactivate a task; production role.

    :param jediTaskID: JediTaskID.
    :param verbose: show verbose messages.
    :return: as from :func:`killTask`.
    """


@calls("task/reload_input", verdict, task_id="task_id")
def reload_input(task_id: int, verbose: bool = False) -> Answer:
    """Read the input of a task anew and retry it.

    :param task_id: JediTaskID.
    :param verbose: show verbose messages.
    :return: as from :func:`killTask`.
    """


@calls("task/increase_attempts", verdict, task_id="task_id", increase="increase")
def increase_attempt_nr(task_id: int, increase: int = 3, verbose: bool = False) -> Answer:
    """Let failed jobs of a task be tried more often; production role.

    :param task_id: JediTaskID.
    :param increase: how many more attempts.
    :param verbose: show verbose messages.
    :return: as from :func:`killTask`.
    """


@calls("task/get_status", data, words, task_id="jediTaskID")
def getTaskStatus(jediTaskID: int, verbose: bool = False) -> Answer:
    """Read the status of a task.

    :param jediTaskID: JediTaskID.
    :param verbose: show verbose messages.
    :return: status and the status word; (255, ``None``) for an unknown task.
    """


@calls("task/get_task_parameters", data, words, task_id="jediTaskID")
def getTaskParamsMap(jediTaskID: int) -> Answer:
    """Read the parameters of a task.

    :param jediTaskID: JediTaskID.
    :return: status and the parameters; (255, ``None``) for an unknown task.
    """


def _merged(envelope: Envelope, given: Given) -> Answer:
    status, details = data(envelope, given)
    if status == 0:
        given["taskDict"].update(details)
        details = given["taskDict"]
    return status, details


@calls(
    "task/get_details",
    _merged,
    task_id=lambda given: given["taskDict"]["jediTaskID"],
    include_parameters="fullFlag",
    include_status="withTaskInfo",
)
def getJediTaskDetails(taskDict: dict[str, Any], fullFlag: bool, withTaskInfo: bool, verbose: bool = False) -> Answer:
    """Read jobs, datasets and progress of a task.

    :param taskDict: holds ``jediTaskID``; the details are added to it.
    :param fullFlag: also the command line.
    :param withTaskInfo: also the status.
    :param verbose: show verbose messages.
    :return: status and the same dictionary.
    """


@calls("task/get_job_ids", data, words, task_id="jediTaskID")
def getPandaIDsWithTaskID(jediTaskID: int, verbose: bool = False) -> Answer:
    """Read the PandaIDs of a task.

    :param jediTaskID: JediTaskID.
    :param verbose: show verbose messages.
    :return: status and a list of PandaIDs, empty for an unknown task.
    """


@calls(
    "task/get_tasks_modified_since",
    data,
    since="timeRange",
    dn="dn",
    full=lambda _: True,
    min_task_id="minTaskID",
    prod_source_label="task_type",
)
def getJobIDsJediTasksInTimeRange(
    timeRange: str, dn: str | None = None, minTaskID: int | None = None, verbose: bool = False, task_type: str = "user"
) -> Answer:
    """Read the tasks that changed, with their jobs.

    :param timeRange: changed later than this, ``YYYY-MM-DD HH:MM:SS`` in UTC.
    :param dn: of another user.
    :param minTaskID: only tasks above this JediTaskID.
    :param verbose: show verbose messages.
    :param task_type: the label of the tasks, such as ``user``.
    :return: status and tasks by request ID.
    """


@calls("task/get_detailed_info", verdict, words, task_id="task_id")
def get_task_details_json(task_id: int, verbose: bool = False) -> Answer:
    """Read status, times and progress of a task.

    :param task_id: JediTaskID.
    :param verbose: show verbose messages.
    :return: status and (True, details) or (False, message).
    """


@calls("task/get_parent_detailed_info", data, task_id="task_id")
def get_parent_detailed_info(task_id: int, verbose: bool = False) -> Answer:
    """Read status, times and progress of the parent of a task.

    :param task_id: JediTaskID of the child.
    :param verbose: show verbose messages.
    :return: status and the details.
    """


@calls(
    "task/get_tasks_detailed_info_since",
    data,
    since="since",
    filters=lambda given: applied(json.dumps, given["filters"]) if given["filters"] else None,
    n_tasks="n_tasks",
)
def get_tasks_detailed_info_since(
    since: str | None = None, filters: dict[str, str] | None = None, n_tasks: int = 500, verbose: bool = False
) -> Answer:
    """Read status, times and progress of many tasks.

    :param since: changed later than this, ``YYYY-MM-DD HH:MM:SS`` in UTC; tasks of any age if not given.
    :param filters: attributes that must be equal, such as ``{"status": "done"}``.
    :param n_tasks: at most so many.
    :param verbose: show verbose messages.
    :return: status and a list of details.
    """


@calls(
    "task/get_datasets_and_files",
    data,
    words,
    task_id="task_id",
    dataset_types=lambda given: given["dataset_types"].split(","),
)
def get_files_in_datasets(task_id: int, dataset_types: str = "input,pseudo_input", verbose: bool = False) -> Answer:
    """Read the files of a task, dataset by dataset.

    :param task_id: JediTaskID.
    :param dataset_types: divided by commas.
    :param verbose: show verbose messages.
    :return: status and a list of datasets with their files.
    """


@calls("task/get_job_descriptions", data, task_id="task_id", unsuccessful_only="unsuccessful_only")
def get_job_descriptions(task_id: int, unsuccessful_only: bool = False, verbose: bool = False) -> Answer:
    """Read the jobs of a task.

    :param task_id: JediTaskID.
    :param unsuccessful_only: only failed, cancelled and closed jobs.
    :param verbose: show verbose messages.
    :return: status and a list of jobs.
    """


@calls("job/get_metadata_for_analysis_jobs", data, words, task_id="task_id")
def getUserJobMetadata(task_id: int, verbose: bool = False) -> Answer:
    """Read what the jobs of a task reported about themselves.

    :param task_id: JediTaskID.
    :param verbose: show verbose messages.
    :return: status and metadata by job.
    """


@calls("file_server/upload_file_recovery_request", verdict, task_id="task_id", dry_run="dry_run")
def send_file_recovery_request(task_id: int, dry_run: bool = False, verbose: bool = False) -> Answer:
    """Ask to recover lost files of a task.

    :param task_id: JediTaskID.
    :param dry_run: only say what would be done.
    :param verbose: show verbose messages.
    :return: status and (True, where the log will be) or (False, message).
    """
