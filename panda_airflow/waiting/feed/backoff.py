"""What a status feed makes of looks that fail, as pure decisions: no I/O and no clock of its own."""

from __future__ import annotations

from math import inf

from panda_airflow.client import errors
from panda_airflow.waiting.driver import is_permanent
from panda_airflow.waiting.feed.planner import TOO_MANY_FAILURES, Waiting, doubled

LONGEST_TROUBLE = 60.0


class Backoff:
    """Looks that fail in a row, whatever their task; while they do, another look tells nothing new.

    :ivar error: the last of them, or None.
    """

    def __init__(self) -> None:
        self.error: errors.PandaError | None = None
        self._answered = False
        self._failures = 0
        self._until = -inf

    def check(self, waiting: Waiting, now: float) -> None:
        """Spare the server a look that would fail.

        :raises NotCarriedOut: the last looks have failed just now.
        """
        if now < self._until:
            raise errors.NotCarriedOut(
                f"PanDA task {waiting.task_id} was not looked at, since {self._failures} looks have failed in a row.",
                server_says=str(self.error),
            )

    def heard(self, rows: object) -> None:
        """Learn how a question for many tasks was answered: if with rows, the server and its database are there."""
        self._answered = bool(rows)
        if rows:
            self.succeeded()

    def succeeded(self) -> None:
        """Begin anew."""
        self._failures, self._until, self.error = 0, -inf, None

    def failed(self, waiting: Waiting, error: errors.PandaError, now: float) -> None:
        """Count a look that failed, unless the reason is the task's own; be silent a little longer each time."""
        asked = (error.retry_after or 0.0) if isinstance(error, errors.ServerError) else 0.0
        if is_permanent(error, seen=waiting.known) or (isinstance(error, errors.NotFound) and not waiting.known):
            return
        if self._answered and isinstance(error, errors.Refused | errors.ServerError) and not asked:
            return
        self._failures, self.error = self._failures + 1, error
        own = doubled(1.0, self._failures - TOO_MANY_FAILURES) if self._failures >= TOO_MANY_FAILURES else 0.0
        self._until = now + min(max(own, asked), LONGEST_TROUBLE)
