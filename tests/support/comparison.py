"""Compares two histories of tasks: what was recorded on a real server with what another one showed. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from panda_airflow.client.status import FINAL_STATUSES
from tests.support.histories import Entry, History, counters_of, phase_of

_TIMES = ("stateChangeTime", "startTime", "endTime")
"""Times of which every move counts; of the modification time counts how far it is turned back."""


@dataclass(frozen=True)
class Phase:
    """Looks at a task that differ in nothing but its progress and its modification time.

    :param key: what they have in common.
    :param looks: one at least.
    """

    key: Entry
    looks: list[Entry]

    @property
    def status(self) -> str:
        """The task's status; empty as long as it is not found."""
        return str(self.key["status"] or "")

    def turned_back(self) -> set[int]:
        """Say by how many hours the modification time was turned back."""
        times = [(look["stateChangeTime"], look["modificationTime"]) for look in self.looks if "answer" not in look]
        return {
            round((datetime.fromisoformat(change) - datetime.fromisoformat(modified)).total_seconds() / 3600)
            for change, modified in times
        }


class Comparison:
    """Compares what was recorded with what was played.

    :param brief: statuses that a recorder may not have seen.
    :param locked: statuses in which the modification time may be true for a moment.
    """

    def __init__(self, brief: Collection[str], locked: Collection[str]) -> None:
        self._brief, self._locked = brief, locked
        self._before: tuple[Entry, Entry] | None = None

    def differences(self, recorded: History, played: History) -> Iterator[str]:
        """Say every difference in one line."""
        real, other = list(_segments(recorded)), list(_segments(played))
        if len(real) != len(other):
            yield f"{len(real)} calls recorded, {len(other)} played"
        for (looks, call), (other_looks, other_call) in zip(real, other, strict=False):
            yield from self._compare_phases(_phases(looks), _phases(other_looks))
            yield from _compare_answers(call, other_call)

    def _compare_phases(self, recorded: list[Phase], played: list[Phase]) -> Iterator[str]:
        place = 0
        for phase in recorded:
            found = next((at for at in range(place, len(played)) if played[at].key == phase.key), None)
            if found is None:
                came = [other.key for other in played[place:]]
                yield f"{phase.status}: recorded {phase.key}, never played; there came {came}"
                return
            skipped = [other for other in played[place:found] if other.status not in self._brief]
            yield from (f"{other.status}: not recorded {other.key}" for other in skipped)
            place = found + 1
            yield from self._compare(phase, played[found], played[place : place + 1])

    def _compare(self, recorded: Phase, played: Phase, following: list[Phase]) -> Iterator[str]:
        beside = [self._before[1]] if self._before else []
        beside += [phase.looks[0] for phase in following]
        yield from _compare_counters(recorded, played, beside)
        if not recorded.status:
            return
        real, other = recorded.turned_back(), played.turned_back()
        if recorded.status in self._locked:
            real, other = real - {0}, other - {0}
        if real and real != other:
            yield f"{recorded.status}: modification time turned back by {real} h recorded, {other} played"
        yield from self._compare_times(recorded, played)
        self._before = recorded.looks[-1], played.looks[-1]

    def _compare_times(self, recorded: Phase, played: Phase) -> Iterator[str]:
        real, other = recorded.looks[0], played.looks[0]
        for name in _TIMES:
            if bool(real[name]) != bool(other[name]):
                yield f"{recorded.status}: {name} {real[name]} recorded, {other[name]} played"
            if self._before:
                moved, other_moved = real[name] != self._before[0][name], other[name] != self._before[1][name]
                if moved != other_moved:
                    yield f"{recorded.status}: {name} {_moves(moved)} recorded, {_moves(other_moved)} played"


def _moves(moved: bool) -> str:
    return "moves" if moved else "stays"


def _segments(history: History) -> Iterator[tuple[list[Entry], Entry]]:
    """Cut a history at its calls: the looks before each, and the call."""
    looks: list[Entry] = []
    for entry in history:
        if "seen" in entry:
            looks.append(entry["seen"])
        elif "note" not in entry:
            yield looks, entry
            looks = []
    yield looks, {}


def _phases(looks: list[Entry]) -> list[Phase]:
    return [Phase(key, list(found)) for key, found in groupby(looks, phase_of)]


def _compare_counters(recorded: Phase, played: Phase, beside: list[Entry]) -> Iterator[str]:
    """Compare progress: in an end value by value, on the way there by where it began and how far it came.

    :param beside: the last look before the phase and the first one after it: progress may show on either side.
    """
    real, other = counters_of(recorded.looks[-1]), counters_of(played.looks[-1])
    if recorded.status in FINAL_STATUSES:
        yield from (
            f"{recorded.status}: {name} {real[name]} recorded, {other[name]} played"
            for name in real
            if real[name] != other[name]
        )
        return
    for name in real:
        values = [look.get(name) or 0 for look in [*beside, *played.looks]]
        seen = [look[name] for look in recorded.looks if name in look]
        beyond = [value for value in seen if not min(values) <= value <= max(values)]
        if beyond:
            yield f"{recorded.status}: {name} {beyond} recorded, {values[0]} to {values[-1]} played"


def _compare_answers(recorded: Entry, played: Entry) -> Iterator[str]:
    for name in ("answer", "details", "files", "metadata"):
        real, other = _comparable(recorded.get(name)), _comparable(played.get(name))
        if real != other:
            yield f"{recorded.get('call', name)}: {real} recorded, {other} played"


def _comparable(answer: Any) -> Any:
    """Leave the IDs of jobs, datasets and files out of an answer, and count them instead."""
    if isinstance(answer, dict):
        kept = {name: _comparable(value) for name, value in answer.items() if name != "id"}
        return kept | ({"PandaID": len(answer["PandaID"])} if "PandaID" in answer else {})
    return [_comparable(value) for value in answer] if isinstance(answer, list) else answer
