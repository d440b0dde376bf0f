"""Histories of tasks: played against an embedded server whose JEDI is driven by hand.

A history is a list of entries in the order of time: ``call`` with ``by``, ``parameters`` or ``sent`` and ``answer``;
``seen``, what ``task/get_detailed_info`` showed whenever it changed; ``details`` with ``files``, and ``metadata``, what
other methods answered; ``note``, that nothing more came within some time.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import requests

from panda_airflow.client.endpoint import REGISTRY
from panda_airflow.devserver.server import DevServer

Entry = dict[str, Any]
History = list[Entry]

COUNTERS = ("jobs", "nFiles", "nFilesFinished", "nFilesFailed", "nFilesMissing", "pctFinished", "pctFailed")
PHASE = ("status", "attemptNr", "taskName is", "userName", "errorDialog", "ramCount", "taskPriority", "answer")
"""What stays the same while a task is in one phase of its life."""

_COLUMNS = (
    "status", "attemptNr", "errorDialog", "nFiles", "nFilesFinished", "nFilesFailed", "nFilesMissing", "pctFinished",
    "pctFailed", "userName", "ramCount", "taskPriority", "stateChangeTime", "modificationTime", "startTime", "endTime",
)  # fmt: skip
_PEOPLE = {"alice": ("alice tester", False), "bob": ("bob tester", False), "prod": ("prod manager", True)}
_STEPS = 200
"""Steps of JEDI without any change after which nothing more is expected."""

_FLAG = "/flag/ok"
"""A file that the recorded site had from the first retry on."""


def phase_of(seen: Entry) -> Entry:
    """Cut out of a look what makes a phase."""
    return {name: seen.get(name) for name in PHASE}


def counters_of(seen: Entry) -> Entry:
    """Cut out of a look what grows within a phase."""
    return {name: seen.get(name) for name in COUNTERS}


def masked(history: History) -> History:
    """Put ``N`` for the task's ID and ``URL`` for the server; of a traceback only say that there is one."""
    task_id = next(entry["answer"]["data"] for entry in history if entry.get("call") == "task/submit")
    found: History = _masked(history, task_id)
    return found


def _masked(value: Any, task_id: int) -> Any:
    if isinstance(value, dict):
        found = {name: _masked(part, task_id) for name, part in value.items()}
        return found | ({"data": "N"} if value.get("data") == task_id else {})
    if isinstance(value, list):
        return [_masked(part, task_id) for part in value]
    if isinstance(value, str):
        text = re.sub(rf"(jediTaskID=|task ID |task |jedilog/){task_id}\b", r"\1N", value)
        return re.sub(r"https?://localhost:\d+|https?://127.0.0.1:\d+", "URL", text).partition(" Traceback")[0]
    return value


def _shows(seen: Entry, wanted: Entry) -> bool:
    return all(seen.get(name) == value for name, value in wanted.items())


class StepClock:
    """A clock that stands still between two steps of JEDI."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 27, 5)  # noqa: DTZ001 - the server's times are naive UTC

    def __call__(self) -> datetime:
        return self.now

    def tick(self) -> None:
        """Let a second pass."""
        self.now += timedelta(seconds=1)


@dataclass
class Player:
    """Plays one history and writes down, in the same format, what the embedded server shows.

    :param server: its JEDI is driven by hand.
    :param clock: of the server.
    :param flag: stands for the file of which some payloads make their success depend.
    """

    server: DevServer
    clock: StepClock
    flag: Path
    submitted: Entry = field(default_factory=dict)
    task_id: int = 0
    played: History = field(default_factory=list)
    last: Entry = field(default_factory=dict)

    def play(self, history: History) -> History:
        """Ask the same at the same points: each call comes when the last look recorded before it has come."""
        looks: list[Entry] = []
        for entry, told in zip(history, masked(history), strict=True):
            if "seen" in told:
                looks.append(told["seen"])
            else:
                self._come_to(looks)
                self._repeat(entry)
                looks = []
        self._come_to(looks)
        return masked(self.played)

    def _come_to(self, looks: list[Entry]) -> None:
        """Pass through every phase that was recorded; in the last one, come as far as the last look."""
        for phase, _ in groupby(looks, phase_of):
            self._go_on_until(phase)
        if looks:
            self._go_on_until(phase_of(looks[-1]) | counters_of(looks[-1]))

    def _go_on_until(self, wanted: Entry) -> None:
        """Let JEDI take steps until a look has come, or until nothing comes any more."""
        seen, waited = self._look(), 0
        while waited < _STEPS and not _shows(_masked(seen, self.task_id), wanted):
            self.clock.tick()
            self.server.step()
            if self.server.backend.store.value("SELECT 1 FROM jobs WHERE jobStatus IN ('starting', 'running')"):
                time.sleep(0.01)  # payloads are real processes, and take real time
            before, seen = seen, self._look()
            waited = waited + 1 if seen == before else 0

    def _repeat(self, entry: Entry) -> None:
        if entry.get("call") == "task/submit":
            self._submit(entry)
        elif "call" in entry:
            if entry["call"] == "task/retry":
                self.flag.touch()
            self._keep(call=entry["call"], answer=self._ask(entry["call"], entry["by"], **entry["sent"]))
        elif "details" in entry:
            details = self._ask("task/get_details", include_status=True, include_parameters=True)
            self._keep(details=details, files=self._ask("task/get_datasets_and_files"))
        elif "metadata" in entry:
            self._keep(metadata=self._ask("job/get_metadata_for_analysis_jobs"))

    def _submit(self, entry: Entry) -> None:
        if entry["parameters"] != "as before":
            self.submitted = json.loads(json.dumps(entry["parameters"]).replace(_FLAG, str(self.flag)))
        answer = self._ask("task/submit", entry["by"], task_parameters=self.submitted)
        self.task_id = answer["data"]
        self._keep(call=entry["call"], answer=answer)

    def _look(self) -> Entry:
        answer = self._ask("task/get_detailed_info")
        seen: Entry = {"answer": answer}
        if answer["success"]:
            seen = {name: _time(answer["data"][name]) for name in _COLUMNS}
            seen["taskName is"] = "ours" if answer["data"]["taskName"] == self.submitted["taskName"] else "another"
            seen["jobs"] = len(self._ask("task/get_job_ids")["data"])
        if seen != self.last:
            self._keep(seen=seen)
            self.last = seen
        return seen

    def _keep(self, **entry: Any) -> None:
        self.played.append(entry)

    def _ask(self, path: str, who: str = "alice", **arguments: Any) -> Any:
        if path != "task/submit":
            arguments["task_id"] = self.task_id
        name, production = _PEOPLE[who]
        headers = {
            "Authorization": f"Bearer {self.server.token(name, production=production)}",
            "Origin": "wlcg.production" if production else "wlcg",
            "Accept": "application/json",
        }
        method = REGISTRY[path].method
        body: Any = {"params" if method == "GET" else "json": arguments}
        url = f"{self.server.url}/api/v1/{path}"
        return requests.request(method, url, headers=headers, timeout=30, **body).json()


def _time(value: Any) -> Any:
    return value["__datetime__"] if isinstance(value, dict) else value
