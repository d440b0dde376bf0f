"""The statuses of a PanDA task, and what each means to somebody who waits for it; and the words of all statuses."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from enum import Enum

from panda_airflow.client.errors import UsageError


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

RERUN_STATUSES = FINAL_STATUSES - {"broken"}
"""Statuses in which the server runs a task again that is submitted by its name."""

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


STATUSES: dict[str, frozenset[str]] = {
    "task": FINAL_STATUSES | ACTIVE_STATUSES,
    "job": frozenset(
        {
            "pending", "defined", "waiting", "assigned", "throttled", "activated", "sent", "starting", "running",
            "holding", "transferring", "merging", "finished", "failed", "cancelled", "closed",
        }
    ),
    "request": frozenset(
        {
            "New", "Ready", "Transforming", "Finished", "SubFinished", "Failed", "Extend", "ToCancel", "Cancelling",
            "Cancelled", "ToSuspend", "Suspending", "Suspended", "ToResume", "Resuming", "ToExpire", "Expiring",
            "Expired", "ToFinish", "ToForceFinish", "Terminating", "Terminated", "Building", "Built", "Throttling",
            "ToClose",
        }
    ),
}  # fmt: skip
"""The words of PanDA tasks, of PanDA jobs and of iDDS requests; ``finished`` means another thing for each."""


def check_statuses(
    given: object, where: str, kind: str = "task", *, among: Collection[str] = (), sort: str = "known"
) -> tuple[str, ...]:
    """Read the statuses that somebody waits for; a word that is none would be waited for in vain.

    :param given: a collection of words, or one word.
    :param where: names the argument, for the message.
    :param kind: whose statuses, a key of :data:`STATUSES`.
    :param among: those that make sense here; all that are known, if empty.
    :param sort: says what these are, for the message.
    :return: the words; of a task, ``done`` is among them where ``finished`` is, as it is the better end.
    :raises UsageError: one is not known, or is a template: statuses are not rendered.
    """
    words = (given,) if isinstance(given, str) else given
    if not isinstance(words, Collection) or not (words or among):
        raise UsageError(f"{where}: statuses are a list of words, not {given!r:.80}.")
    for word in words:
        _check_word(word, where, kind, among or STATUSES[kind], sort)
    better = ("done",) if kind == "task" and not among and "finished" in words and "done" not in words else ()
    return (*words, *better)


MEANT = {"done": "finished", "cancelled": "aborted", "aborted": "cancelled"}
"""How PanDA says elsewhere what a word says of a task, a job or a request."""


def _check_word(given: object, where: str, kind: str, known: Collection[str], sort: str) -> None:
    word = str(given)
    if given == word and word in known:
        return
    if "{{" in word or "{%" in word:
        raise UsageError(f"{where}: statuses cannot be templates, such as {word!r:.80}; write the words themselves.")
    others = [f" It is a status of a {other}." for other in STATUSES if other != kind and word in STATUSES[other]]
    [nearest] = [MEANT[word]] if MEANT.get(word) in known else get_close_matches(word, sorted(known), 1, cutoff=0.0)
    what = f"not {sort}" if word in STATUSES[kind] else f"no status of a {kind}"
    raise UsageError(f"{where}: {given!r:.80} is {what}; the nearest is {nearest!r}.{''.join(others[:1])}")
