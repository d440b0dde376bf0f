"""How any wait runs, whatever it is for: pauses, failed looks, and the drivers, for a thread and an event loop.

A wait is a generator that yields what it wants done (:class:`Request`), receives the answer, and returns how it ended.
Its decisions are pure: it does no I/O and has no clock of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, Protocol, TypeVar

from panda_airflow.client import errors


@dataclass(frozen=True)
class Request:
    """What a wait wants done next.

    :param delay: seconds to pause first.
    :param act: look at what is waited for once there is reason to, kill it, ask whether it is what the wait is for,
        or read now its state, or what it has made.
    :param key: what a task has to carry for that, or to be killed; empty for one that its user has named.
    :param task_ids: which tasks, where many are waited for.
    :param note: what to log before the pause.
    :param warn: whether the note is a warning.
    """

    delay: float = 0.0
    act: Literal["look", "kill", "prove", "state", "details"] = "look"
    key: str = ""
    task_ids: tuple[int, ...] = ()
    note: str = ""
    warn: bool = False


class Log(Protocol):
    """Where a wait reports: a standard logger, or the one that Airflow gives its tasks."""

    def info(self, event: str, *args: Any) -> Any:
        """Report progress."""

    def warning(self, event: str, *args: Any) -> Any:
        """Report trouble."""


Answer = tuple[object, float]
"""What a step gave (a task, an error, or whatever a command answers) and when, in epoch seconds."""

R = TypeVar("R")
E_co = TypeVar("E_co", covariant=True)


class Plan(Protocol[E_co]):
    """Anything that can be waited for."""

    def flow(self) -> Generator[Request, Answer, E_co]:
        """Begin the wait: yield what to do, receive its answer, return how the wait ended."""


_PERMANENT = (errors.UsageError, errors.ConfigError, errors.CredentialMissing, errors.InvalidArgument, errors.NotOurs)


def is_permanent(error: errors.PandaError, *, seen: bool) -> bool:
    """Whether looking again is useless.

    Airflow may fail to read a connection for a moment. Once PanDA has answered, a page that is not PanDA's is
    maintenance, a token or proxy that is not there is being renewed, and what is not hopeless passes.

    :param seen: whether it has.
    """
    is_strange_page = isinstance(error, errors.ConfigError) and bool(error.endpoint)
    may_pass = is_strange_page or isinstance(error, errors.CredentialMissing) or not error.hopeless
    is_known_to_pass = isinstance(error, errors.ConnectionMissing) or (may_pass and seen)
    return isinstance(error, _PERMANENT) and not is_known_to_pass


@dataclass(frozen=True, slots=True)
class Failures:
    """Looks that failed in a row.

    :param since: epoch seconds since when every look has failed, or None.
    :param number: how many have.
    """

    since: float | None = None
    number: int = 0

    def and_one(self, now: float) -> Failures:
        """Count one more."""
        return Failures(now if self.since is None else self.since, self.number + 1)

    def are_too_many(self, now: float, outage: float) -> bool:
        """Whether at least three have failed over this many seconds."""
        since = now if self.since is None else self.since
        return self.number >= 3 and now >= since + outage  # noqa: PLR2004 - documented in WaitPlan


NO_FAILURES = Failures()


def insist(
    act: Literal["state", "details"],
    task_ids: tuple[int, ...],
    delay: Callable[[float], float],
    *,
    outage: float,
    deadline: float | None,
) -> Generator[Request, Answer, dict[int, object]]:
    """Ask about ended tasks until there is an answer about each; those that fail for too long are left as errors.

    :param act: what to ask.
    :param task_ids: JediTaskIDs.
    :param delay: seconds from a time until the next question.
    :param outage: seconds during which questions may fail.
    :param deadline: epoch seconds after which nothing is asked again, or None.
    """
    told: dict[int, object] = {}
    failures, request = NO_FAILURES, Request(act=act, task_ids=task_ids)
    while True:
        answer, now = yield request
        told |= answer if isinstance(answer, Mapping) else dict.fromkeys(request.task_ids, answer)
        left = tuple(task_id for task_id in task_ids if isinstance(told[task_id], errors.PandaError))
        failures = (failures if left == request.task_ids else NO_FAILURES).and_one(now)
        is_late = deadline is not None and now >= deadline
        if not left or is_late or failures.are_too_many(now, outage):
            return told
        note = f"What PanDA task {left[0]} has made cannot be read yet: {told[left[0]]}"
        request = Request(delay(now), act=act, task_ids=left, note=note, warn=True)


def check_interval(seconds: float) -> None:
    """Refuse to look without a pause.

    :raises UsageError: the interval is not above 0.
    """
    if not seconds > 0:
        raise errors.UsageError(f"poll_interval must be above 0 seconds, not {seconds!r}.")


def pause(now: float, since: float, shortest: float, longest: float, deadline: float | None, seed: int) -> float:
    """Seconds until the next look: a tenth of the time waited, within bounds and the deadline.

    :param seed: spreads waits that began together: up to a tenth more, by its last two digits.
    """
    seconds = min(max(shortest, (now - since) / 10), max(shortest, longest)) * (1 + seed % 100 / 1000)
    return seconds if deadline is None else max(0.0, min(seconds, deadline - now))


class _Wait(Generic[E_co]):
    """A wait in progress: ``step`` is what to do next, ``event`` how it ended."""

    def __init__(self, plan: Plan[E_co], log: Log) -> None:
        self._flow = plan.flow()
        self._log = log
        self.request = next(self._flow)
        self.event: E_co | None = None

    def answer(self, answer: object, now: float) -> None:
        try:
            self.request = self._flow.send((answer, now))
        except StopIteration as end:
            self.event = end.value
            return
        if self.request.note:
            say = self._log.warning if self.request.warn else self._log.info
            say("%s%s", self.request.note, f" Next look in {self.request.delay:.0f} s." if self.request.delay else "")


def drive(
    plan: Plan[E_co],
    perform: Callable[[Request], object],
    *,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
    log: Log,
) -> E_co:
    """Run a wait in this thread.

    :param perform: does what a step asks for and returns what came of it, or raises ``PandaError``.
    """
    wait = _Wait(plan, log)
    while wait.event is None:
        sleep(wait.request.delay)
        try:
            answer: object = perform(wait.request)
        except errors.PandaError as error:
            answer = error
        wait.answer(answer, clock())
    return wait.event


def first_look(plan: Plan[E_co], perform: Callable[[Request], object], log: Log) -> E_co | None:
    """Look once before somebody else takes the wait over.

    :param perform: as in :func:`drive`.
    :return: how the wait ended, or None if it goes on; also if the look failed, as only a wait can judge that.
    """
    wait = _Wait(plan, log)
    acts = ["look", "prove", "state", "details"]
    while wait.event is None and wait.request.delay == 0 and wait.request.act in acts:
        acts = ["prove", "state", "details"]
        try:
            answer = perform(wait.request)
        except errors.PandaError:
            return None
        if isinstance(answer, Mapping) and any(isinstance(one, errors.PandaError) for one in answer.values()):
            return None
        wait.answer(answer, time.time())
    return wait.event


async def adrive(
    plan: Plan[E_co],
    perform: Callable[[Request], Awaitable[object]],
    *,
    sleep: Callable[[float], Awaitable[None]],
    clock: Callable[[], float],
    log: Log,
) -> E_co:
    """Run a wait in an event loop; see :func:`drive`."""
    wait = _Wait(plan, log)
    while wait.event is None:
        await sleep(wait.request.delay)
        try:
            answer: object = await perform(wait.request)
        except errors.PandaError as error:
            answer = error
        wait.answer(answer, clock())
    return wait.event


def run_apart(work: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine in an event loop of another thread, so that a signal handler that raises ends the wait here.

    In an event loop of this thread its exception could be lost in a callback.
    """
    began: Future[asyncio.Task[R]] = Future()

    async def run() -> R:
        task = asyncio.create_task(work)
        if began.set_running_or_notify_cancel():
            began.set_result(task)
        else:  # whoever waits has gone already
            task.cancel()
        return await task

    with ThreadPoolExecutor(1, "panda-wait") as pool:
        try:
            return pool.submit(asyncio.run, run()).result()
        finally:
            if not began.cancel():
                task = began.result()
                with suppress(RuntimeError):  # the loop is closed
                    task.get_loop().call_soon_threadsafe(task.cancel)


def utc_time(epoch: float | None) -> str:
    """Write a time for messages.

    :param epoch: seconds, or None for an unknown time.
    """
    return "" if epoch is None else datetime.fromtimestamp(epoch, UTC).isoformat(timespec="seconds")
