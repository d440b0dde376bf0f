"""What a step of a wait for a task means on the server."""

from __future__ import annotations

from panda_airflow.client.driver import Step
from panda_airflow.client.ownership import require
from panda_airflow.client.session import PandaClient


def perform(client: PandaClient, task_id: int, step: Step) -> object:
    """Look at a task, kill it, ask whose it is or read what it has made, as a step of its wait asks for.

    :param task_id: JediTaskID.
    :raises NotOurs: it does not carry the key of the wait.
    :raises PandaError: the server did not answer, or refused.
    """
    if step.act == "details":
        return client.task.get_details(task_id)
    if step.act in ("look", "state"):
        return client.task.get_detailed_info(task_id)
    require(client, task_id, step.key)
    return client.task.kill(task_id) if step.act == "kill" else None
