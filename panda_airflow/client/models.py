"""Values that the server returns, typed where people read them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Self

from panda_airflow.client.errors import ServerError
from panda_airflow.client.records import ODD, Record, clean, convert, read_id, rows, shown
from panda_airflow.client.stored import known

Json = Any
"""A JSON value, with the server's datetime markers already turned into naive UTC ``datetime`` objects."""

_TASK_ID = re.compile(r"jediTaskID=(\d+)")
_BEARER = re.compile(r"(?i)(bearer)\s+\S+")


@dataclass(frozen=True)
class Envelope:
    """What every server method answers.

    :param success: the server's verdict, which some methods get wrong.
    :param message: its words, often empty.
    :param data: the result, or a return code.
    :param extra: what a few methods answer beside these.
    """

    success: bool
    message: str = ""
    data: Json = None
    extra: dict[str, Json] = field(default_factory=dict)


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
        code = envelope.data if type(envelope.data) is int else 0
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
        task_id, message = envelope.data, envelope.message
        if type(task_id) is not int or named_task_id(message) not in (None, task_id):
            raise ServerError(f"a submission was accepted without a task ID: {shown(task_id)}", server_says=message)
        return cls(read_id(task_id), message.startswith("reactivation accepted"), message)


@dataclass(frozen=True)
class CacheFile:
    """Where an uploaded file is; false if there is none.

    :param host: the server that holds it, often empty.
    :param name: its name in the cache.
    """

    host: str = ""
    name: str = ""

    def __bool__(self) -> bool:
        """Whether there is such a file."""
        return bool(self.name)

    @classmethod
    def from_envelope(cls, envelope: Envelope) -> Self:
        """Read ``FOUND:<host>:<name>``; the host may carry a port."""
        found, _, place = envelope.message.partition(":")
        host, _, name = place.rpartition(":")
        return cls(host, name) if found == "FOUND" else cls()


def key(name: str, default: Json = None) -> Json:
    """Declare a field that the server spells differently."""
    return field(default=default, metadata={"key": name})


def identity(name: str, *, required: bool = True) -> Json:
    """Declare a field that holds an ID: 0 where there is none, unless it is required."""
    return field(default=0, metadata={"key": name, "id": True, "required": required})


@dataclass(frozen=True)
class TaskInfo(Record):
    """The state of a task, from ``task/get_detailed_info``.

    Times are naive UTC. ``modification_time`` is back-dated by JEDI while a task is active;
    ``state_change_time`` is true. ``attempt_nr`` counts the retries that JEDI has executed.
    """

    task_id: int = identity("jediTaskID")
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
class Mark:
    """Where a task stood when a command was registered; a final status counts only once the task has moved on.

    :param attempt_nr: retries that JEDI counted.
    :param changed: time of the last status change, ISO 8601, empty if unknown.
    :param status: what it was; ``reactivate`` changes this alone. Empty if unknown.
    """

    attempt_nr: int = 0
    changed: str = ""
    status: str = ""

    @classmethod
    def of(cls, info: TaskInfo) -> Mark:
        """Take the mark of a task as just seen."""
        changed = info.state_change_time.isoformat() if info.state_change_time else ""
        return cls(info.attempt_nr, changed, info.status)

    @classmethod
    def from_json(cls, stored: Mapping[str, Json] | None) -> Mark | None:
        """Read the fields of a mark, whatever version wrote them."""
        return cls(**known(cls, stored)) if stored else None

    def holds(self, info: TaskInfo) -> bool:
        """Whether a task stands there still."""
        now = Mark.of(info)
        return self == (now if self.status else replace(now, status=""))


NO_MARK = Mark()


@dataclass(frozen=True)
class JobInfo(Record):
    """One job of a task, from ``task/get_job_descriptions`` and ``job/get_description``."""

    panda_id: int = identity("PandaID", required=False)
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
            (part, code, str(clean(self.raw.get(f"{part}ErrorDiag")) or ""))
            for part in self.COMPONENTS
            if (code := _code(self.raw.get(f"{part}ErrorCode")))
        ]


def _code(value: Json) -> int:
    """Read an error code; what is no number is none."""
    found = re.fullmatch(r"-?\d{1,18}", str(clean(value)))
    return int(found.group()) if found else 0


@dataclass(frozen=True)
class UserAttributes(Record):
    """Who the server takes the caller for, from ``system/get_user_attributes``.

    ``name`` is what owners of tasks are compared by.
    """

    dn: str = key("user_dn_raw", "")
    name: str = key("user_dn_clean", "")
    production: bool = key("is_production_user", default=False)
    fqans: list[str] = field(default_factory=list)
    raw: dict[str, Json] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ServerView:
    """A request as the server sees it, bearer tokens masked."""

    parameters: dict[str, str]
    environment: dict[str, str]

    @classmethod
    def from_data(cls, data: Mapping[str, Json]) -> Self:
        """Read what the server echoes, which includes the caller's credential."""
        masked = {
            part: {name: _BEARER.sub(r"\1 ***", str(value)) for name, value in data.get(part, {}).items()}
            for part in ("parameters", "environment")
        }
        return cls(**masked)


@dataclass(frozen=True)
class TaskRow(Record):
    """A task in the feed, from ``task/get_tasks_modified_since``; times are naive UTC.

    ``modification_time`` is back-dated by JEDI while the task is active.
    """

    task_id: int = identity("jediTaskID")
    request_id: int = key("reqID", 0)
    name: str = key("taskName", "")
    status: str = ""
    site: str = ""
    modification_time: datetime | None = key("modificationTime")
    creation_time: datetime | None = key("creationDate")
    raw: dict[str, Json] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class TaskDigest(Record):
    """The jobs, datasets and progress of a task, from ``task/get_details``; empty for an unknown task.

    ``status`` and ``cli_params`` are filled only if they were asked for.
    """

    status: str = ""
    statistics: str = ""
    in_ds: str = key("inDS", "")
    out_ds: str = key("outDS", "")
    job_ids: list[int] = field(default_factory=list, metadata={"key": "PandaID"})
    merge_status: str = key("mergeStatus", "")
    merge_job_ids: list[int] = field(default_factory=list, metadata={"key": "mergePandaID"})
    cli_params: str = key("cliParams", "")
    raw: dict[str, Json] = field(default_factory=dict, repr=False)

    @property
    def inputs_by_status(self) -> dict[str, int]:
        """Number of input files (without input: of jobs) by status, read from ``finished*2,failed*2``."""
        pairs = (item.partition("*") for item in self.statistics.split(","))
        return {status: int(count) for status, _, count in pairs if count.isdecimal()}

    @property
    def input_datasets(self) -> list[str]:
        """Names of the input datasets or containers."""
        return [name for name in self.in_ds.split(",") if name]

    @property
    def output_datasets(self) -> list[str]:
        """Names of the output and log datasets or containers."""
        return [name for name in self.out_ds.split(",") if name]


@dataclass(frozen=True)
class FileInfo(Record):
    """A file of a dataset, from ``task/get_datasets_and_files``."""

    id: int = 0
    lfn: str = ""
    scope: str = ""
    status: str = ""
    raw: dict[str, Json] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset of a task with its files, from ``task/get_datasets_and_files``."""

    id: int
    name: str
    files: list[FileInfo]

    @classmethod
    def from_data(cls, data: Mapping[str, Json]) -> Self:
        """Read one item of the server's list."""
        dataset = data["dataset"]
        files = [file for _, file in rows(FileInfo, enumerate(data.get("files") or []))]
        return cls(convert(int, dataset["id"]), convert(str, dataset["name"]), files)


@dataclass(frozen=True)
class JobState(Record):
    """The status of a job and the command its pilot will hear, from ``job/get_status``.

    An unknown job has status ``unknown`` and command ``tobekilled``.
    """

    status: str = ""
    command: str = ""
    raw: dict[str, Json] = field(default_factory=dict, repr=False)


class Secrets(dict[str, Json]):
    """Secrets by name, of which only the names are shown wherever this is printed."""

    def __repr__(self) -> str:
        """Show the names."""
        return f"<secrets {', '.join(self)}>"

    @classmethod
    def from_envelope(cls, envelope: Envelope) -> Self:
        """Read an object, or the JSON text of one."""
        return cls(json.loads(envelope.data) if isinstance(envelope.data, str) else envelope.data)


@dataclass(frozen=True)
class AsyncResult:
    """What became of a request that the server carries out later.

    :param status: ``pending``, ``running``, ``complete``, ``done`` or ``failed``.
    :param success: whether the operation succeeded; false until it has ended.
    :param message: its words, or why there are none.
    :param data: its result, or for logs what each machine found.
    """

    status: str
    success: bool
    message: str
    data: Json

    @classmethod
    def from_envelope(cls, envelope: Envelope) -> Self:
        """Read either shape: one operation and its outcome, or the results of several machines."""
        meta = envelope.extra.get("async_meta")
        if meta:
            message = meta.get("error_msg") or envelope.message
            return cls(convert(str, meta["status"]), envelope.success, str(message), envelope.data)
        status = convert(str, envelope.data["overall_status"])
        return cls(status, status == "complete", envelope.message, envelope.data["results"])


def parse(returns: Any, envelope: Envelope, path: str) -> Any:
    """Turn an accepted envelope into the return type that an endpoint declares.

    :param returns: a class with ``from_envelope`` or ``from_data``, a plain JSON type, a list, a dict or an
        optional value of these, or ``None`` where the data do not matter.
    :param path: the endpoint, for the error.
    :raises ServerError: the data are of another shape.
    """
    if returns is type(None):
        return None
    try:
        if hasattr(returns, "from_envelope"):
            return returns.from_envelope(envelope)
        return convert(returns, envelope.data)
    except ODD as wrong:
        raise ServerError(f"the reply has another shape: {wrong}.", endpoint=path) from wrong
