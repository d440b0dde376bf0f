"""The statuses of a PanDA task, and what each means to somebody who waits for it."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """What a task status means to a waiter."""

    ACTIVE = "active"
    DONE = "done"
    PARTLY_DONE = "partly done"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_final(self) -> bool:
        """Whether JEDI leaves the task alone from here on, unless somebody commands it."""
        return self is not Outcome.ACTIVE


_FINAL = {
    "done": Outcome.DONE,
    "finished": Outcome.PARTLY_DONE,
    "failed": Outcome.FAILED,
    "exhausted": Outcome.FAILED,
    "broken": Outcome.FAILED,
    "aborted": Outcome.ABORTED,
}

FINAL_STATUSES = frozenset(_FINAL)
"""Statuses that a task leaves only by a command: retry, reload_input or submission under the same name."""

ACTIVE_STATUSES = frozenset(
    {
        "registered", "topreprocess", "preprocessing", "defined", "assigning", "ready", "pending", "staging",
        "scouting", "scouted", "running", "throttled", "paused", "prepared", "finishing", "passed", "aborting",
        "toabort", "tobroken", "tofinish", "toretry", "toincexec", "toreassign", "rerefine", "merging",
    }
)  # fmt: skip
"""Statuses in which JEDI still works on a task, or will as soon as it is resumed."""

RETRYABLE_STATUSES = frozenset({"finished", "failed", "exhausted"})
"""Statuses in which ``task/retry`` is accepted (``exhausted`` only with the production role)."""

ABOUT_TO_ABORT = frozenset({"aborting", "toabort"})
"""Active statuses from which a task only goes on to ``aborted``."""


def classify(status: str) -> Outcome:
    """Say what a status means to a waiter; a word that is not known counts as active.

    :param status: a status as ``task/get_status`` spells it.
    """
    return _FINAL.get(status, Outcome.ACTIVE)


def is_known(status: str) -> bool:
    """Whether this status word is one that PanDA is known to use."""
    return status in _FINAL or status in ACTIVE_STATUSES
