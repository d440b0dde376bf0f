"""Decisions about submitting: which parameters can be accepted, and what an existing task means. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from panda_airflow.client.errors import UsageError

TASK_NAME_LIMIT = 256
"""Longest task name that the server's database holds, in characters."""

REQUIRED_TO_REGISTER = ("taskName", "vo", "prodSourceLabel")
"""Without one of these the server answers ``failed to register task``."""

REQUIRED_TO_REFINE = ("processingType", "taskType", "architecture", "transUses", "transHome")
"""Without one of these the server accepts the task and JEDI breaks it minutes later; ``None`` is a value."""


def check_submission(arguments: Mapping[str, Any]) -> None:
    """Refuse what the server would refuse, or accept and break.

    :param arguments: those of ``task/submit``.
    :raises UsageError: names every missing parameter, or the one that is too long.
    """
    parameters = arguments["task_parameters"]
    if not isinstance(parameters, Mapping):
        raise UsageError(f"task_parameters must be a dict, not {type(parameters).__name__}; nothing was submitted.")
    absent = [name for name in REQUIRED_TO_REGISTER if not parameters.get(name)]
    absent += [name for name in REQUIRED_TO_REFINE if name not in parameters]
    if absent:
        raise UsageError(f"the task parameters lack {', '.join(absent)}; nothing was submitted.")
    name = parameters["taskName"]
    if not isinstance(name, str) or len(name) > TASK_NAME_LIMIT:
        raise UsageError(
            f"taskName must be text of at most {TASK_NAME_LIMIT} characters, this one has {len(str(name))}; "
            "nothing was submitted."
        )
