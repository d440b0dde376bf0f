"""The script by which the tasks of the waits benchmark end; time runs faster in it than on the clock."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

FIRST = 40_000_001
"""About where JediTaskIDs are."""

SHARE = 0.02
"""Of all tasks end each minute."""

_GOLDEN = 0.6180339887498949
"""Its multiples without their whole parts are spread evenly, however many there are."""


@dataclass(frozen=True)
class Script:
    """Tasks that run, of which some end.

    :param number: of tasks.
    :param began: epoch seconds.
    :param minute: seconds on the clock that count as a minute.
    :param minutes: that the script lasts.
    :param share: of the tasks that end each minute, every few of them.
    """

    number: int
    began: float
    minute: float
    minutes: float = 10.0
    share: float = SHARE

    def to_line(self) -> str:
        """Write the script for another program."""
        return json.dumps(asdict(self))

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read what :meth:`to_line` wrote."""
        return cls(**json.loads(line))

    @property
    def task_ids(self) -> range:
        """JediTaskIDs."""
        return range(FIRST, FIRST + self.number)

    def starts(self, task_id: int) -> float:
        """Tell when the wait for a task begins: evenly over the first minute, in epoch seconds."""
        return self.began + self.minute * (task_id - FIRST) / self.number

    def ends(self) -> dict[int, float]:
        """Tell which tasks end, and when, in epoch seconds."""
        if not self.share:
            return {}
        number = max(1, round(self.number * self.share * self.minutes))
        ending = self.task_ids[:: self.number // number][:number]
        lasts = self.minutes * self.minute
        return {task_id: self.began + lasts * (place * _GOLDEN % 1) for place, task_id in enumerate(ending)}
