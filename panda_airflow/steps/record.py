"""What a step remembers of a submission: the names of its tasks, and the record of it. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import Mark
from panda_airflow.client.status import ABOUT_TO_ABORT
from panda_airflow.client.stored import UNKNOWN, Account, known
from panda_airflow.client.task_parameters import STAMP, TASK_NAME_LIMIT, digest


def refuse_leftovers(value: object, place: str = "task_parameters") -> None:
    """Refuse task parameters in which a template is left: what another step returned is not rendered.

    :param place: where in the task parameters this is, for the error.
    :raises UsageError: names the place.
    """
    if isinstance(value, Mapping):
        for name, item in value.items():
            refuse_leftovers(name, f"a key of {place}")
            refuse_leftovers(item, f"{place}[{name!r}]")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            refuse_leftovers(item, f"{place}[{number}]")
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        raise UsageError(
            f"{place} still holds a template: {value!r:.80}; nothing was submitted.",
            advice="Airflow renders what the DAG says, but not what another step returns: render it there. Braces that "
            "are none of a template, as in C++, need a blank between them.",
        )


@dataclass(frozen=True)
class SubmissionRecord:
    """What a workflow step remembers of its submission, in JSON primitives.

    :param name: the task name that was, or is about to be, submitted.
    :param generation: how many names this step has used up before.
    :param since: epoch seconds when the submission was decided.
    :param clears: how often a person had cleared the step by then, in any unit that only grows.
    :param mark: where a task that held the name stood before it was to run again; None if the name was free.
    :param task_id: JediTaskID, or None while only the intent is recorded.
    :param sent: whether a request may have reached the server under this name.
    :param attempt: number of the try that submitted it.
    :param definition: :func:`~panda_airflow.client.task_parameters.definition_digest` of what was submitted.
    :param owned: whether this step submitted it; otherwise it is that of another step, which held the name, or may be
        so: nothing tells which step had a task run again.
    :param key: what proves that a task is the one, see :mod:`panda_airflow.waiting.ownership`; empty if it has none.
    :param account: where it was submitted, and as whom.
    :param newest_job: the last PandaID before the task was to run again; None if it was submitted as a new one.
    :param retries: the step's own when it submitted, see :func:`~panda_airflow.steps.state_store.clears`.
    """

    name: str = ""
    generation: int = 0
    since: float = 0.0
    clears: int = 0
    mark: Mark | None = None
    task_id: int | None = None
    sent: bool = True
    attempt: int = 0
    definition: str = ""
    owned: bool = True
    key: str = ""
    account: Account = UNKNOWN
    newest_job: int | None = None
    retries: int = 0

    @property
    def may_retry(self) -> bool:
        """Whether the author wants the task to be worked on further: it is this step's, or to be run again by it."""
        return self.owned or self.newest_job is not None

    def __str__(self) -> str:
        """Name the task."""
        return f"PanDA task {self.task_id or self.name}"

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> SubmissionRecord:
        """Read what ``dataclasses.asdict`` wrote, in whatever version."""
        mark, account = Mark.from_json(value.get("mark")), Account.from_json(value.get("account"))
        return cls(**(known(cls, value) | {"mark": mark, "account": account}))


REWRITTEN = frozenset({"taskName", "uniqueTaskName", "userName", "taskPriority", "taskType", STAMP})
"""Task parameters that the server sets by itself where the caller has no production role, and what names the task."""


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Name the parameters in which a task on the server is another than the one that is wanted.

    :param wanted: task parameters as they would be submitted.
    :param found: as ``task/get_task_parameters`` gives them.
    """
    plain = json.loads(json.dumps(wanted))
    return sorted(name for name, value in plain.items() if name not in REWRITTEN and found.get(name) != value)


def surviving_twins(status: str, error_dialog: str) -> list[int]:
    """Name the tasks in whose favour JEDI aborts another as a duplicate, if it does.

    The server's own check for duplicates is not atomic, and for production tasks there is none: JEDI aborts one
    of the two that the server accepted.

    :param status: of the task; in any other than ``aborted``, or on the way there, the words prove nothing.
    :param error_dialog: of the task: JEDI's whole sentence, as others may quote it.
    """
    said = _DUPLICATED.fullmatch(unescape(error_dialog).strip()) if status in {"aborted", *ABOUT_TO_ABORT} else None
    return [int(task_id) for task_id in said.group(1).split(",")] if said else []


_DUPLICATED = re.compile(r"toabort since there is duplicated task -> jediTaskID=(\d+(?:,\d+)*)")


def name_filter(name: str) -> str:
    """Write the filter that finds a task by its name; the server reads some characters as a regular expression.

    :param name: task name.
    """
    pattern = re.escape(name) if set(name) & set("+()|*?^$\\") else name
    return json.dumps({"taskName": pattern})


def task_name(dag_id: str, run_id: str, task_id: str, map_index: int, key: str = "") -> str:
    """Derive the name under which a step submits: the same for every try, another for every step, run and key.

    Holds only characters that the server's name filter does not take for a regular expression.

    :param key: that of the submission, without which the same step of another Airflow has the same name.
    """
    parts = "\0".join((dag_id, run_id, task_id, str(map_index), *([key] if key else [])))
    words = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{dag_id}.{task_id}")[: TASK_NAME_LIMIT - 48]
    return f"airflow.{words}.{digest(parts)}"


def generation_of(name: str, generation: int) -> str:
    """Name a later generation of a task: the name itself at first, then with a counter.

    :param name: blanks around it are left out; one that the counter would make too long is shortened.
    """
    name = name.strip()
    suffix = f".g{generation}" if generation and name else ""
    if not suffix or len(name) + len(suffix) <= TASK_NAME_LIMIT:
        return name + suffix
    suffix = f".{digest(name)}{suffix}"
    return name[: TASK_NAME_LIMIT - len(suffix)] + suffix
