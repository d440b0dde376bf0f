"""What waits ask the server about tasks: looks, kills and retries, of one or of many, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event

from panda_airflow.client.errors import InvalidArgument, NotFound, PandaError, Refused
from panda_airflow.client.session import PandaClient
from panda_airflow.client.status import ACTIVE_STATUSES
from panda_airflow.waiting.driver import Request
from panda_airflow.waiting.ownership import require
from panda_airflow.waiting.poll_checks import look_at_server
from panda_airflow.waiting.task import REACH, WaitPlan

AT_A_TIME = 8
"""Requests under way at once; as many failures in a row show that the server is in trouble."""


def perform_many(client: PandaClient, request: Request, gone: Event | None = None) -> dict[int, object]:
    """Look at tasks, kill them or read what they have made, as a step of a wait for many asks for.

    :param gone: set once nobody wants the answers to the looks any more.
    :return: by task ID what the server answered, or the error.
    """
    if request.act == "kill":
        return _ask_each(client.task.kill, request.task_ids)
    if request.act == "details":
        return _ask_each(client.task.get_details, request.task_ids)
    return look_at_many(client, request.task_ids, gone)


def look_at_list(client: PandaClient, task_ids: Sequence[int], plan: WaitPlan) -> dict[int, object]:
    """Read the states of tasks: of the caller's own by one request, of any other by one each.

    :param plan: how each is waited for, which says what a row of the server's list of changes can tell.
    :return: by task ID a ``TaskInfo``, a ``TaskRow``, or the error where there is neither.
    """
    rows: dict[int, object] = {}
    if plan.conclusive and len(task_ids) > AT_A_TIME:
        since = datetime.now(UTC) - REACH
        found = client.task.get_tasks_modified_since(
            f"{since:%Y-%m-%d %H:%M:%S}", min_task_id=min(task_ids) - 1, prod_source_label=plan.label
        )
        told = plan.conclusive | ACTIVE_STATUSES
        rows = {row.task_id: row for row in found.values() if row.status in told}
    return {task_id: rows[task_id] for task_id in task_ids if task_id in rows} | look_at_many(
        client, [task_id for task_id in task_ids if task_id not in rows]
    )


def look_at_many(client: PandaClient, task_ids: Sequence[int], gone: Event | None = None) -> dict[int, object]:
    """Read the states of tasks.

    A task is "not found" for minutes after its submission too; one that was never submitted is told from that by
    :class:`InvalidArgument`.

    :param task_ids: JediTaskIDs.
    :param gone: set once nobody wants the answers any more.
    :return: by task ID a ``TaskInfo``, or the error where there is none.
    """
    seen = _ask_each(client.task.get_detailed_info, task_ids, gone)
    missing = [task_id for task_id, answer in seen.items() if isinstance(answer, NotFound)]
    return seen | _never_submitted(client, missing)


def _never_submitted(client: PandaClient, task_ids: Sequence[int]) -> dict[int, object]:
    """Tell which tasks have not even parameters; without its database the server says so of any."""
    if not (task_ids and has_database(client)):
        return {}
    parameters = _ask_each(client.task.get_task_parameters, task_ids)
    unknown = [task_id for task_id, answer in parameters.items() if isinstance(answer, NotFound)]
    return {task_id: _no_such_task(task_id) for task_id in unknown} if unknown and has_database(client) else {}


def _no_such_task(task_id: int) -> InvalidArgument:
    return InvalidArgument(
        f"PanDA task {task_id} is not found, and nothing was ever submitted under this JediTaskID.",
        advice="Check the ID, and that the connection names the server that the task was submitted to.",
    )


def has_database(client: PandaClient) -> bool:
    """Whether the server reaches its database; without it, it knows of no task and of no owner."""
    try:
        look_at_server(client)
    except PandaError:
        return False
    return True


def _ask_each(call: Callable[[int], object], task_ids: Sequence[int], gone: Event | None = None) -> dict[int, object]:
    """Make a call for each task; once the server is in trouble, the rest is spared."""
    failed: list[PandaError] = []

    def ask(task_id: int) -> object:
        if gone and gone.is_set():
            return None
        if trouble := failed[AT_A_TIME - 1 :]:
            return trouble[0]
        try:
            answer = call(task_id)
        except Refused as refusal:
            answer = refusal
        except PandaError as error:
            failed.append(error)
            return error
        failed.clear()
        return answer

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip(task_ids, pool.map(ask, task_ids), strict=True))


def perform(client: PandaClient, task_id: int, request: Request) -> object:
    """Look at a task, kill it, ask whose it is or read what it has made, as a step of its wait asks for.

    :param task_id: JediTaskID.
    :raises NotOurs: it does not carry the key of the wait.
    :raises PandaError: the server did not answer, or refused.
    """
    if request.act == "details":
        return client.task.get_details(task_id)
    if request.act in ("look", "state"):
        return client.task.get_detailed_info(task_id)
    require(client, task_id, request.key)
    return client.task.kill(task_id) if request.act == "kill" else None
