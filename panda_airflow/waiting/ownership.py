"""Whose task it is: a key in its parameters, which the server gives back word for word from the first second.

Neither the ID nor the name of a task proves anything: IDs repeat on another server, names are given by authors.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from panda_airflow.client.errors import InvalidArgument, NotOurs, PermissionDenied
from panda_airflow.client.models import Json
from panda_airflow.client.session import PandaClient
from panda_airflow.client.stored import Account
from panda_airflow.client.task_parameters import STAMP

R = TypeVar("R")

PAUSES = (0.5, 2.0)
"""Seconds before a question is asked again that cannot be refused: three times in all."""


def ask_again(ask: Callable[[], R]) -> R:
    """Ask what anybody may ask; a single refusal proves nothing.

    A process that is being replaced says that a method is forbidden, and one that cannot reach its database for a
    moment that the caller is not the owner.
    """
    for pause in PAUSES:
        try:
            return ask()
        except (InvalidArgument, PermissionDenied):
            time.sleep(pause)
    return ask()


def new_key() -> str:
    """Make a key that nobody else has."""
    return secrets.token_hex(16)


def stamped(parameters: Mapping[str, Json], stamp: Mapping[str, Json]) -> dict[str, Json]:
    """Add to task parameters who submits them.

    :param stamp: holds ``key``, and what tells people where the task comes from.
    """
    return {**parameters, "framework": parameters.get("framework") or STAMP, STAMP: dict(stamp)}


def stamp_of(parameters: Mapping[str, Json]) -> dict[str, Json]:
    """Read who submitted task parameters; empty if they do not say."""
    stamp = parameters.get(STAMP)
    return dict(stamp) if isinstance(stamp, Mapping) else {}


def read_stamp(client: PandaClient, task_id: int) -> dict[str, Json]:
    """Read who submitted a task; empty if it does not say.

    :raises PandaError: that cannot be told now; to a server without its database, no task is known.
    """
    return stamp_of(ask_again(lambda: client.task.get_task_parameters(task_id)))


def require(client: PandaClient, task_id: int, key: str) -> None:
    """Make sure that a task carries a key.

    :param key: empty for a task that its user has named, which needs none.
    :raises NotOurs: it carries another one, or none.
    :raises PandaError: that cannot be told now.
    """
    if key and (stamp := read_stamp(client, task_id)).get("key") != key:
        raise NotOurs(f"PanDA task {task_id} is not this step's: it {origin(stamp)}; it was left alone.")


RESTORE = "Restore the connection, or clear the step to begin anew there."
"""The ways out where a connection has come to mean another server or user."""


def elsewhere(what: str, account: Account, connection: str, found: Account) -> str:
    """Say that a connection has come to mean another server or user than something belongs to."""
    return f"{what} belongs to {account}, and the connection {connection} now means {found}: nothing was touched there."


def origin(stamp: Mapping[str, Json]) -> str:
    """Say where a task comes from, as the end of a sentence about it."""
    if not stamp:
        return "was submitted without a key"
    words = {"dag_id": "DAG", "run_id": "run", "task_id": "step", "map_index": "map index", "try_number": "try"}
    known = [f"{word} {stamp[name]}" for name, word in words.items() if stamp.get(name) not in (None, "", -1)]
    return f"was submitted by {', '.join(known) or 'somebody with another key'}"
