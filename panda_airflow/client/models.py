"""Values that the server returns, typed where people read them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Self, get_args, get_origin

from panda_airflow.client.errors import ServerError

Json = Any
"""A JSON value, with the server's datetime markers already turned into naive UTC ``datetime`` objects."""

_TASK_ID = re.compile(r"jediTaskID=(\d+)")


@dataclass(frozen=True)
class Envelope:
    """What every server method answers.

    :param success: the server's verdict, which some methods get wrong.
    :param message: its words, often empty.
    :param data: the result, or a return code.
    """

    success: bool
    message: str = ""
    data: Json = None


def named_task_id(message: str) -> int | None:
    """Find the JediTaskID that a server message names."""
    found = _TASK_ID.search(message)
    return int(found.group(1)) if found else None


@dataclass(frozen=True)
class CommandReply:
    """A command was registered; JEDI executes it later, or drops it silently.

    :param code: 0 registered, 3 accepted as a reactivation with new parameters.
    :param message: the server's words.
    """

    code: int
    message: str

    @classmethod
    def from_envelope(cls, envelope: Envelope) -> Self:
        """Read the return code and message of an accepted command."""
        code = envelope.data if isinstance(envelope.data, int) else 0
        return cls(code, envelope.message)


@dataclass(frozen=True)
class Submission:
    """A task was accepted.

    :param task_id: its JediTaskID.
    :param reactivated: the unique name belonged to an ended task, which runs again with the new parameters.
    :param message: the server's words.
    """

    task_id: int
    reactivated: bool
    message: str

    @classmethod
    def from_envelope(cls, envelope: Envelope) -> Self:
        """Read the JediTaskID, and the reactivation that only the message tells."""
        if not isinstance(envelope.data, int):
            raise ServerError(
                f"a submission was accepted without a task ID: {envelope.data!r}", server_says=envelope.message
            )
        return cls(envelope.data, envelope.message.startswith("reactivation accepted"), envelope.message)


class Record:
    """A frozen dataclass read from a JSON object; fields it does not name stay in ``raw``."""

    @classmethod
    def from_data(cls, data: Mapping[str, Json]) -> Self:
        """Pick the declared fields by the server's names, text stripped, ``NULL`` and absent ones left out."""
        declared = {item.name: item.metadata.get("key", item.name) for item in fields(cls)}  # type: ignore[arg-type]
        values = {name: _clean(data[key]) for name, key in declared.items() if data.get(key) is not None}
        return cls(**(values | {"raw": dict(data)}))


def _clean(value: Json) -> Json:
    if not isinstance(value, str):
        return value
    text = value.strip()
    return "" if text == "NULL" else text


def key(name: str, default: Json = None) -> Json:
    """Declare a field that the server spells differently."""
    return field(default=default, metadata={"key": name})


@dataclass(frozen=True)
class TaskInfo(Record):
    """The state of a task, from ``task/get_detailed_info``.

    Times are naive UTC. ``modification_time`` is back-dated by JEDI while a task is active;
    ``state_change_time`` is true. ``attempt_nr`` counts the retries that JEDI has executed.
    """

    task_id: int = key("jediTaskID", 0)
    name: str = key("taskName", "")
    status: str = ""
    user_name: str = key("userName", "")
    attempt_nr: int = key("attemptNr", 0)
    state_change_time: datetime | None = key("stateChangeTime")
    modification_time: datetime | None = key("modificationTime")
    creation_time: datetime | None = key("creationDate")
    start_time: datetime | None = key("startTime")
    end_time: datetime | None = key("endTime")
    error_dialog: str = key("errorDialog", "")
    n_files: int = key("nFiles", 0)
    n_files_finished: int = key("nFilesFinished", 0)
    n_files_failed: int = key("nFilesFailed", 0)
    n_files_missing: int = key("nFilesMissing", 0)
    raw: dict[str, Json] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class JobInfo(Record):
    """One job of a task, from ``task/get_job_descriptions`` and ``job/get_description``."""

    panda_id: int = key("PandaID", 0)
    task_id: int = key("jediTaskID", 0)
    status: str = key("jobStatus", "")
    attempt_nr: int = key("attemptNr", 0)
    max_attempt: int = key("maxAttempt", 0)
    site: str = key("computingSite", "")
    exit_code: str = key("transExitCode", "")
    files: list[dict[str, Json]] = field(default_factory=list, metadata={"key": "Files"})
    raw: dict[str, Json] = field(default_factory=dict, repr=False)

    COMPONENTS = ("pilot", "exe", "sup", "ddm", "brokerage", "jobDispatcher", "taskBuffer")

    @property
    def errors(self) -> list[tuple[str, int, str]]:
        """What went wrong, as (component, code, text), from the innermost component outwards."""
        return [
            (part, int(code), _clean(self.raw.get(f"{part}ErrorDiag")) or "")
            for part in self.COMPONENTS
            if (code := self.raw.get(f"{part}ErrorCode"))
        ]


def parse(returns: Any, envelope: Envelope, path: str) -> Any:
    """Turn an accepted envelope into the return type that an endpoint declares.

    :param returns: a class with ``from_envelope`` or ``from_data``, a list of the latter, or a plain JSON type.
    :param path: the endpoint, for the error.
    :raises ServerError: the data are of another shape.
    """
    if hasattr(returns, "from_envelope"):
        return returns.from_envelope(envelope)
    data, element = envelope.data, (get_args(returns) or (None,))[0]
    expected = dict if hasattr(returns, "from_data") else get_origin(returns) or returns
    if isinstance(expected, type) and not isinstance(data, expected):
        raise ServerError(f"expected {expected.__name__}, got {data!r:.200}", endpoint=path)
    if hasattr(returns, "from_data"):
        return returns.from_data(data)
    if expected is list and hasattr(element, "from_data"):
        return [element.from_data(item) for item in data]
    return data
