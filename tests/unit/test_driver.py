"""A wait that runs apart from the thread that waits for it, which a signal can end at any moment."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from panda_airflow.waiting.driver import run_apart


class OutOfTime(BaseException):
    """What Airflow's alarm raises derives from no Exception."""


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_what_the_work_returns_or_raises_is_its_own() -> None:
    async def half(number: int) -> float:
        await asyncio.sleep(0)
        return 1 / number

    assert run_apart(half(2)) == 0.5
    with pytest.raises(ZeroDivisionError):
        run_apart(half(0))


def test_it_may_be_used_inside_an_event_loop() -> None:
    async def inner() -> int:
        return 7

    async def outer() -> int:
        return run_apart(inner())

    assert asyncio.run(outer()) == 7


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("milliseconds", [0.05, 0.2, 1, 5, 80])
def test_an_alarm_ends_the_wait_whatever_the_loop_is_doing_and_leaves_no_thread(milliseconds: float) -> None:
    threads, tidied = threading.active_count(), []

    async def busy() -> None:
        try:
            while True:
                asyncio.get_running_loop().call_soon(sum, range(1000))
                await asyncio.sleep(0)
        finally:
            tidied.append(milliseconds)

    with pytest.raises(OutOfTime), alarm(milliseconds / 1000):
        run_apart(busy())
    ends = time.monotonic() + 10
    while threading.active_count() > threads:  # one that was being started is not joined, and ends by itself
        assert time.monotonic() < ends, "a thread goes on"
        time.sleep(0.01)
    assert tidied in ([milliseconds], []), "it may have been cancelled before it began"
