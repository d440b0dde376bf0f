"""What a step of a wait for a task means on the server."""

from __future__ import annotations

from panda_airflow.client.driver import Step
from panda_airflow.client.session import PandaClient


def perform(client: PandaClient, task_id: int, step: Step) -> object:
    """Look at a task, kill it, retry it or read what it has made, as a step of its wait asks for.

    :param task_id: JediTaskID.
    :raises PandaError: the server did not answer, or refused.
    """
    if step.act == "kill":
        return client.task.kill(task_id)
    if step.act == "retry" and step.parameters:
        return client.task.retry(task_id, dict(step.parameters))
    if step.act == "retry":
        return client.task.retry(task_id)
    if step.act == "details":
        return client.task.get_details(task_id)
    return client.task.get_detailed_info(task_id)
