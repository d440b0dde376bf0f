"""Histories of tasks: what was asked and answered, and every change that the server showed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from panda_airflow.client.models import Envelope, TaskInfo

ABOUT = (
    "Histories of tasks on {server}, seen through the API: t is seconds since the start, 'seen' is "
    "task/get_detailed_info whenever it changed (jobs: number of PandaIDs in task/get_job_ids), 'call' what was asked "
    "and answered. A status that lasted less than {interval:g} s may be missing."
)

SHOWN = (
    "status", "attemptNr", "errorDialog", "nFiles", "nFilesFinished", "nFilesFailed", "nFilesMissing", "pctFinished",
    "pctFailed", "userName", "ramCount", "taskPriority", "stateChangeTime", "modificationTime", "startTime", "endTime",
)  # fmt: skip
"""What of ``task/get_detailed_info`` is kept."""


@dataclass
class History:
    """What happened to one task.

    :param name: of the task.
    """

    name: str
    entries: list[dict[str, Any]] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _seen: dict[str, Any] | None = None
    _submitted: Mapping[str, Any] | None = None

    def called(self, path: str, by: str, sent: Mapping[str, Any], answer: Envelope) -> None:
        """Note a call and its answer.

        :param by: who called.
        :param sent: the arguments.
        """
        if "task_parameters" in sent:
            again = sent["task_parameters"] == self._submitted
            what: dict[str, Any] = {"parameters": "as before" if again else sent["task_parameters"]}
            self._submitted = sent["task_parameters"]
        else:
            what = {"parameters": None, "sent": dict(sent)}
        plain = {"success": answer.success, "message": answer.message, "data": _plain(answer.data)}
        self._note(call=path, by=by, **what, answer=plain)

    def saw(self, info: TaskInfo, jobs: int) -> None:
        """Note how the task looks, if that is new; an empty ``info`` is one that is not shown."""
        seen = self._shown(info, jobs) if info.task_id else {}
        if seen != self._seen:
            self._seen = seen
            self._note(seen=seen)

    def missed(self, what: str) -> None:
        """Note what did not come in time."""
        self._note(note=f"not in time: {what}")

    def _shown(self, info: TaskInfo, jobs: int) -> dict[str, Any]:
        shown = {name: _plain(info.raw.get(name)) for name in SHOWN}
        return shown | {"taskName is": "ours" if info.name == self.name else "another", "jobs": jobs}

    def _note(self, **entry: Any) -> None:
        self.entries.append({"t": round(time.monotonic() - self._began, 1), **entry})


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
