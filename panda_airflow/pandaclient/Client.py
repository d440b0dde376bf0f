"""The reference API, function by function: ``from panda_airflow.pandaclient import Client``.

The rows that say which server method each function calls are in :data:`panda_airflow.pandaclient.calls.TABLE`.
"""

from __future__ import annotations

from panda_airflow.client.files import FILE_LIMIT as NO_BUILD_LIMIT
from panda_airflow.client.files import SOURCES_LIMIT
from panda_airflow.pandaclient.calls import EC_Failed
from panda_airflow.pandaclient.files import getFile, putFile
from panda_airflow.pandaclient.identity import (
    build_grid_setup_command,
    dump_log,
    get_new_token,
    get_token_string,
    get_user_name_from_token,
    getDN,
    hide_sensitive_info,
    is_https,
    str_decode,
)
from panda_airflow.pandaclient.jobs import (
    get_events_status,
    getFullJobStatus,
    getJobStatus,
    killJobs,
    setDebugMode,
    submitJobs,
    update_events,
)
from panda_airflow.pandaclient.obsolete import (
    getCachePrefixes,
    getCmtConfigList,
    getPandaClientVer,
    getProxyKey,
    registerProxyKey,
)
from panda_airflow.pandaclient.servers import (
    address,
    setCacheServer,
    setGlobalTmpDir,
    use_oidc,
    use_x509_no_grid,
    useDevServer,
    useIntrServer,
)
from panda_airflow.pandaclient.services import (
    call_idds_command,
    call_idds_user_workflow_command,
    get_cert_attributes,
    get_user_secerts,
    get_user_secrets,
    get_workflow_details,
    hello,
    requestEventPicking,
    send_workflow_request,
    set_user_secert,
    set_user_secret,
    submit_workflow,
    submit_workflow_tmp,
)
from panda_airflow.pandaclient.tasks import (
    finishTask,
    get_files_in_datasets,
    get_job_descriptions,
    get_parent_detailed_info,
    get_task_details_json,
    get_tasks_detailed_info_since,
    getJediTaskDetails,
    getJobIDsJediTasksInTimeRange,
    getPandaIDsWithTaskID,
    getTaskParamsMap,
    getTaskStatus,
    getUserJobMetadata,
    increase_attempt_nr,
    insertTaskParams,
    killTask,
    pauseTask,
    reactivateTask,
    reload_input,
    resumeTask,
    retryTask,
    send_file_recovery_request,
)

maxCpuCountLimit = 1000000000

__all__ = [
    "NO_BUILD_LIMIT",
    "SOURCES_LIMIT",
    "EC_Failed",
    "build_grid_setup_command",
    "call_idds_command",
    "call_idds_user_workflow_command",
    "dump_log",
    "finishTask",
    "getCachePrefixes",
    "getCmtConfigList",
    "getDN",
    "getFile",
    "getFullJobStatus",
    "getJediTaskDetails",
    "getJobIDsJediTasksInTimeRange",
    "getJobStatus",
    "getPandaClientVer",
    "getPandaIDsWithTaskID",
    "getProxyKey",
    "getTaskParamsMap",
    "getTaskStatus",
    "getUserJobMetadata",
    "get_cert_attributes",
    "get_events_status",
    "get_files_in_datasets",
    "get_job_descriptions",
    "get_new_token",
    "get_parent_detailed_info",
    "get_task_details_json",
    "get_tasks_detailed_info_since",
    "get_token_string",
    "get_user_name_from_token",
    "get_user_secerts",
    "get_user_secrets",
    "get_workflow_details",
    "hello",
    "hide_sensitive_info",
    "increase_attempt_nr",
    "insertTaskParams",
    "is_https",
    "killJobs",
    "killTask",
    "maxCpuCountLimit",
    "pauseTask",
    "putFile",
    "reactivateTask",
    "registerProxyKey",
    "reload_input",
    "requestEventPicking",
    "resumeTask",
    "retryTask",
    "send_file_recovery_request",
    "send_workflow_request",
    "setCacheServer",
    "setDebugMode",
    "setGlobalTmpDir",
    "set_user_secert",
    "set_user_secret",
    "str_decode",
    "submitJobs",
    "submit_workflow",
    "submit_workflow_tmp",
    "update_events",
    "useDevServer",
    "useIntrServer",
    "use_oidc",
    "use_x509_no_grid",
]


def __getattr__(name: str) -> str:
    """Give a module variable of the reference that depends on the environment, such as ``baseURLSSL``."""
    return address(name)
