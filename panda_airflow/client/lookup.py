"""Finding a task by its name, and how often to look for one that the server does not show yet."""

from __future__ import annotations

from panda_airflow.client.driver import pause
from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.session import PandaClient
from panda_airflow.client.submission import name_filter

LOOKUP_INTERVAL = 15.0
"""Longest pause between looks for a task that is not registered yet, in seconds."""


def until_registered(now: float, began: float) -> float:
    """Seconds until the next look for a task that is not registered yet: few at first."""
    return pause(now, began, min(1.0, LOOKUP_INTERVAL), LOOKUP_INTERVAL, None, 0)


def holder(client: PandaClient, name: str) -> TaskInfo | None:
    """Find the newest task of this name; one still in its registration window is not found."""
    found = client.task.get_tasks_detailed_info_since(filters=name_filter(name))
    return max((info for info in found if info.name == name), key=lambda info: info.task_id, default=None)


def newcomer(client: PandaClient, name: str, mark: Mark | None) -> TaskInfo | None:
    """Find the task of this name, unless it stands where one stood before the submission.

    :param mark: where that was, or None if the name was free.
    """
    found = holder(client, name)
    return None if found and Mark.of(found) == mark else found
