"""Which command a task accepts in which status, and what JEDI makes of it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from panda_airflow.client.status import ACTIVE_STATUSES, FINAL_STATUSES

REGISTERED, SERVER_ERROR, NOT_FOUND, REACTIVATION, REFUSED = range(5)
"""Return codes of commands, as they stand in ``data``."""

_KNOWN = ACTIVE_STATUSES | FINAL_STATUSES
_ENDED = frozenset({"finished", "failed", "done", "aborted", "broken"})

REACTIVATES = frozenset({"finished", "failed", "aborted", "done", "exhausted"})
"""Statuses in which a submission under the same unique name, or ``reload_input``, runs the task again."""

RETRIES_JOBS = frozenset({"running", "scouting", "pending"})
"""Statuses in which ``retry`` gives the failed jobs of a user task another chance."""


@dataclass(frozen=True)
class Command:
    """A command to JEDI.

    :param accepted: statuses in which the server registers it.
    :param status: what the task becomes when JEDI executes it; empty where that is not always the same.
    """

    accepted: frozenset[str]
    status: str = ""


COMMANDS = {
    "kill": Command(_KNOWN - _ENDED - {"prepared", "toabort", "aborting"}, "aborting"),
    "finish": Command(_KNOWN - _ENDED - {"prepared", "toabort", "aborting"}, "finishing"),
    "retry": Command(frozenset({"finished", "failed", "exhausted"}), "toretry"),
    "incexec": Command(REACTIVATES, "toincexec"),
    "reassign": Command(
        frozenset({"defined", "ready", "running", "scouting", "scouted", "pending", "assigning", "exhausted"}),
        "toreassign",
    ),
    "pause": Command(_KNOWN - _ENDED - {"paused"}, "paused"),
    "resume": Command(frozenset({"paused", "throttled", "staging"})),
    "avalanche": Command(frozenset({"scouting"})),
    "release": Command(frozenset({"scouting", "pending", "running", "ready", "assigning", "defined"})),
}
"""Every command by the name it has in the server's messages."""


def refusal(command: str, status: str, *, production: bool) -> str | None:
    """Word the server's refusal of a command; ``None`` where it is accepted.

    :param status: the task's present status.
    :param production: whether the caller has the production role.
    """
    if status not in COMMANDS[command].accepted:
        extra = ""
    elif command == "retry" and status == "exhausted" and not production:
        extra = "and production role is missing"
    else:
        return None
    return f"Command rejected: the {command} command is not accepted if the task is in {status} status {extra}"


def comment(command: str, user: str, *qualifiers: str) -> str:
    """Word what a command leaves in the task's error dialog: ``soft finish by Alice Tester``.

    :param user: who gave it.
    :param qualifiers: how it is to be carried out.
    """
    return " ".join([*qualifiers, command, "by", user])


def acceptance(command: str, task_id: int) -> str:
    """Word the server's confirmation: the command is registered, nothing has happened yet."""
    return f"command={command} is registered for task ID {task_id}. will be executed in a few minutes"
