"""Trouble on demand: what a network, a proxy or a server under stress does to its clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from threading import Lock
from typing import Any, Literal, Protocol, get_args

from panda_airflow.client.errors import UsageError

Kind = Literal["refuse", "delay", "drop_before", "drop_after", "garbage", "database_down", "expire_tokens"]
"""``refuse``: HTTP error, nothing done. ``delay``: answer late. ``drop_before``: close the connection, nothing
done. ``drop_after``: act, then close it without an answer. ``garbage``: act, then answer nonsense.
``database_down``: until cleared. ``expire_tokens``: all tokens issued so far."""


@dataclass(frozen=True)
class Fault:
    """One kind of trouble and what it applies to.

    :param kind: see :data:`Kind`.
    :param endpoint: ``module/method``, ``cache/<name>``, or a pattern such as ``task/*``.
    :param times: number of requests it spoils.
    :param seconds: how late the answer is, for ``delay``.
    :param status: HTTP status, for ``refuse``.
    :param retry_after: seconds in the ``Retry-After`` header, for ``refuse``.
    :param body: what comes, for ``garbage``: ``html``, ``traceback`` or ``truncated``.
    """

    kind: Kind
    endpoint: str = "*"
    times: int = 1
    seconds: float = 0.0
    status: int = 503
    retry_after: float | None = None
    body: Literal["html", "traceback", "truncated"] = "html"

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist."""
        if self.kind not in get_args(Kind):
            raise UsageError(f"there is no fault {self.kind!r}.", advice=f"Choose one of {', '.join(get_args(Kind))}.")


class Database(Protocol):
    """What can be taken down."""

    down: bool


class Faults:
    """Trouble that waits for its requests; safe to use from any thread.

    :param database: goes down and comes back.
    :param expire_tokens: called to end the life of every token issued so far.
    """

    def __init__(self, database: Database, expire_tokens: Callable[[], None]) -> None:
        self._database = database
        self._expire_tokens = expire_tokens
        self._lock = Lock()
        self._waiting: list[Fault] = []
        self.recorded: list[tuple[str, str]] = []

    def inject(self, kind: Kind, endpoint: str = "*", times: int = 1, **details: Any) -> None:
        """Spoil the next requests that match; see :class:`Fault` for the parameters.

        :raises UsageError: there is no such kind.
        """
        fault = Fault(kind, endpoint, times, **details)
        if kind == "database_down":
            self._database.down = True
        elif kind == "expire_tokens":
            self._expire_tokens()
        else:
            with self._lock:
                self._waiting.append(fault)

    def take(self, endpoint: str) -> Fault | None:
        """Use up the oldest fault that matches a request, and record it.

        :param endpoint: ``module/method`` or ``cache/<name>``.
        """
        with self._lock:
            for place, fault in enumerate(self._waiting):
                if fnmatchcase(endpoint, fault.endpoint):
                    left = [replace(fault, times=fault.times - 1)] if fault.times > 1 else []
                    self._waiting[place : place + 1] = left
                    self.recorded.append((fault.kind, endpoint))
                    return fault
        return None

    def clear(self) -> None:
        """Forget the faults that still wait and bring the database back."""
        with self._lock:
            self._waiting.clear()
        self._database.down = False

    def describe(self) -> dict[str, Any]:
        """Say what waits, what happened and whether the database is down."""
        with self._lock:
            waiting = [asdict(fault) for fault in self._waiting]
        return {"waiting": waiting, "recorded": self.recorded, "database_down": self._database.down}
