"""Finding a task by its name and key, and how often to look for one that the server does not show yet."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from panda_airflow.client.models import TaskInfo
from panda_airflow.client.session import PandaClient
from panda_airflow.steps.record import name_filter
from panda_airflow.waiting.driver import pause
from panda_airflow.waiting.ownership import read_stamp

LOOKUP_INTERVAL = 15.0
"""Longest pause between looks for a task that is not registered yet, in seconds."""


def until_registered(now: float, began: float) -> float:
    """Seconds until the next look for a task that is not registered yet: few at first."""
    return pause(now, began, min(1.0, LOOKUP_INTERVAL), LOOKUP_INTERVAL, None, 0)


def holder(client: PandaClient, name: str) -> TaskInfo | None:
    """Find the newest task of this name, whose ever it is; one still in its registration window is not found."""
    return max(_named(client, name), key=lambda info: info.task_id, default=None)


def ours(client: PandaClient, name: str, key: str, since: float) -> TaskInfo | None:
    """Find the task that carries a key: by its name, or among those that have neither name nor owner.

    JEDI gives a task its name and owner when it has refined it, and never if that breaks the task.

    :param key: empty for a task that an earlier version submitted, without one: only its name tells that.
    :param since: epoch seconds before which it was not submitted.
    """
    named = sorted(_named(client, name), key=lambda info: -info.task_id)
    for info in named or (_nameless(client, since) if key else []):
        if read_stamp(client, info.task_id).get("key", "") == key:
            return info
    return None


def _named(client: PandaClient, name: str) -> list[TaskInfo]:
    found = client.task.get_tasks_detailed_info_since(filters=name_filter(name))
    return [info for info in found if info.name == name]


def _nameless(client: PandaClient, since: float) -> list[TaskInfo]:
    """List the tasks that JEDI has begun to refine since, or broken in that, the newest first."""
    begin = datetime.fromtimestamp(since - CLOCKS_DIFFER, UTC)
    filters = json.dumps({"userName": "tobeset"})
    found = client.task.get_tasks_detailed_info_since(f"{begin:%Y-%m-%d %H:%M:%S}", filters, MOST_NAMELESS)
    return sorted(found, key=lambda info: -info.task_id)


CLOCKS_DIFFER = 600.0
"""Seconds by which the server's clock may be behind."""

MOST_NAMELESS = 50
"""Tasks without a name that are asked for their key at most; each is one for seconds, unless it is broken."""
