"""What a crowd of waits has cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

NAMES = {
    "triggers": "PandaTaskTrigger",
    "tuned": "the same, full GC rare",
    "list": "one PandaManyTasksTrigger",
    "feed": "status feed without Airflow",
    "polls": "one poll loop per trigger",
    "sessions": "the same, a session each",
    "idle": "triggers that do nothing",
}


@dataclass(frozen=True)
class Result:
    """What the waits of a crowd have cost.

    :param way: key of :data:`NAMES`.
    :param number: of tasks.
    :param minute: seconds on the clock that counted as a minute.
    :param requests: by method of the server.
    :param cpu: seconds of the waiting process.
    :param memory: bytes per task that is waited for.
    :param block: longest time in seconds on the clock for which the event loop did not come round.
    :param own_block: the same without what Python's garbage collector took.
    :param late: minutes from each end until it was told, in order.
    :param untold: ends that were never told.
    """

    way: str
    number: int
    minute: float
    requests: dict[str, int]
    cpu: float
    memory: float
    block: float
    own_block: float
    late: list[float]
    untold: int

    @property
    def asked(self) -> int:
        """All requests."""
        return sum(self.requests.values())

    def quantile(self, share: float) -> float:
        """Seconds of the script within which this share of the ends was told."""
        return 60 * self.late[math.ceil(share * len(self.late)) - 1] if self.late else math.nan

    def __str__(self) -> str:
        costs = f"{self.asked:>10,}{self.cpu:>9.2f}{self.memory / 1000:>10.1f}"
        late = f"{self.quantile(0.5):>10.1f}{self.quantile(0.99):>8.1f}"
        blocks = f"{self.block * 1000:>10.0f}{self.own_block * 1000:>8.0f}"
        return f"  {NAMES[self.way]:<28}{self.number:>8,}{costs}{late}{blocks}{60 / self.minute:>8g}"


HEAD = (
    f"  {'':<28}{'tasks':>8}{'requests':>10}{'CPU s':>9}{'kB/task':>10}{'median s':>10}{'99 % s':>8}"
    f"{'block ms':>10}{'no GC':>8}{'faster':>8}"
)

LEGEND = (
    "CPU: of the waiting process, garbage collector included. kB/task: growth of its resident memory per task that is "
    "waited for. Median and 99 %: from the end on the server to the event, in seconds of the script. Block: the "
    "longest time for which the event loop did not come round, in milliseconds on the clock, and the same without what "
    "the garbage collector took. Faster: how often faster than the clock the minutes of the script passed."
)
