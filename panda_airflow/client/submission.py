"""Decisions about submitting: which parameters can be accepted, and what an existing task means. No I/O."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import Mark, TaskInfo, named_task_id
from panda_airflow.client.status import ABOUT_TO_ABORT, RETRYABLE_STATUSES, classify

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


@dataclass(frozen=True)
class SubmissionRecord:
    """What a workflow step remembers of its submission, in JSON primitives.

    :param name: the task name that was, or is about to be, submitted.
    :param generation: how many names this step has used up before.
    :param since: epoch seconds when the submission was decided.
    :param clears: how often a person had cleared the step by then, in any unit that only grows.
    :param mark: where a task that held the name before stood then; None if the name was free.
    :param task_id: JediTaskID, or None while only the intent is recorded.
    :param sent: whether a request may have reached the server under this name.
    :param attempt: number of the try that submitted it.
    :param definition: :func:`fingerprint` of what was submitted.
    :param origin: the server's count of the task's attempts when it was submitted.
    :param owned: whether this step submitted it; otherwise it is that of another step, which held the name.
    :param first_attempt: that count when the step last began to count the retries inside it.
    """

    name: str
    generation: int
    since: float
    clears: int
    mark: Mark | None = None
    task_id: int | None = None
    sent: bool = True
    attempt: int = 0
    definition: str = ""
    origin: int = 0
    owned: bool = True
    first_attempt: int = 0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> SubmissionRecord:
        """Read what ``dataclasses.asdict`` wrote."""
        return cls(**(value | {"mark": Mark(**value["mark"]) if value["mark"] else None}))


class Action(Enum):
    """What a step does about its PanDA task."""

    SUBMIT = "submit a new task"
    FIND = "find out whether the intended submission reached the server"
    FOLLOW = "wait for the task that exists"
    RETRY = "retry the task that exists, in place"
    REPLACE = "submit anew under the next name"


def next_action(
    record: SubmissionRecord | None, info: TaskInfo | None, accepted: Collection[str], *, overdue: bool
) -> Action:
    """Decide what a step does, from what it remembers and what the server shows.

    :param record: the step's memory, or None at the first try.
    :param info: the recorded task, or None where the server does not show it (yet).
    :param accepted: statuses that satisfy the step.
    :param overdue: whether JEDI should long have executed what was submitted.
    """
    if record is None or not record.sent:
        return Action.SUBMIT
    if record.task_id is None:
        return Action.FIND
    if info is not None and Mark.of(info) == record.mark and classify(info.status).is_final:
        return Action.FIND if overdue else Action.FOLLOW
    return Action.FOLLOW if info is None or info.status in accepted else _action_in(info.status)


def _action_in(status: str) -> Action:
    """Decide by the status of a task that does not satisfy the step."""
    if status in RETRYABLE_STATUSES:
        return Action.RETRY
    is_lost = status in ABOUT_TO_ABORT or classify(status).is_final
    return Action.REPLACE if is_lost else Action.FOLLOW


def fingerprint(parameters: Mapping[str, Any]) -> str:
    """Tell one task definition from another, whatever the order of its parameters.

    :param parameters: JEDI's task parameters, in JSON primitives.
    """
    return hashlib.sha256(json.dumps(parameters, sort_keys=True, default=repr).encode()).hexdigest()[:16]


REWRITTEN = frozenset({"taskName", "uniqueTaskName", "userName", "taskPriority", "taskType"})
"""Task parameters that the server sets by itself where the caller has no production role, and the task's name."""


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Name the parameters in which a task on the server is another than the one that is wanted.

    :param wanted: task parameters as they would be submitted.
    :param found: as ``task/get_task_parameters`` gives them.
    """
    plain = json.loads(json.dumps(wanted))
    return sorted(name for name, value in plain.items() if name not in REWRITTEN and found.get(name) != value)


def surviving_twin(error_dialog: str) -> int | None:
    """Name the task in whose favour JEDI aborted another as a duplicate, if it did.

    The server's own check for duplicates is not atomic, and for production tasks there is none: JEDI aborts one
    of the two that the server accepted.

    :param error_dialog: of the aborted task.
    """
    return named_task_id(error_dialog) if "duplicated task" in error_dialog else None


def name_filter(name: str) -> str:
    """Write the filter that finds a task by its name; the server reads some characters as a regular expression.

    :param name: task name.
    """
    pattern = re.escape(name) if set(name) & set("+()|*?^$\\") else name
    return json.dumps({"taskName": pattern})


def task_name(dag_id: str, run_id: str, task_id: str, map_index: int, generation: int = 0) -> str:
    """Derive the name under which a step submits: the same for every try, different for every step and run.

    Holds only characters that the server's name filter does not take for a regular expression.

    :param generation: 0 at first; grows when a name is used up by a task that cannot be retried.
    """
    key = "\0".join((dag_id, run_id, task_id, str(map_index)))
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    words = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{dag_id}.{task_id}")[: TASK_NAME_LIMIT - 48]
    return generation_of(f"airflow.{words}.{digest}", generation)


def generation_of(name: str, generation: int) -> str:
    """Name a later generation of a task: the name itself at first, then with a counter."""
    return f"{name}.g{generation}" if generation else name
