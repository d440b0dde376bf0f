"""Waits of an event loop for tasks of an embedded server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from panda_airflow.client import ClientConfig, PandaClient
from panda_airflow.client.task_parameters import command_task
from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer
from panda_airflow.waiting.driver import Plan, adrive
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.feed.joining import join
from panda_airflow.waiting.many import ManyPlan
from panda_airflow.waiting.task import WaitPlan

PACE = Pace(registration=0.5, cycle=0.05, command=0.2, slots=4)


log = logging.getLogger(__name__)


def connector(server: DevServer) -> Callable[[], PandaClient]:
    """Connect with a token of the moment, as a hook does that reads a connection."""
    return lambda: PandaClient(
        ClientConfig(url=server.url, auth="oidc", vo="wlcg", token=server.token(), retry_budget=0.0)
    )


def submit(server: DevServer, name: str, command: str = "true", **more: Any) -> int:
    with connector(server)() as client:
        parameters = command_task(f"user.bob.{name}", command, vo="wlcg", **({"max_attempt": 1} | more))
        return client.task.submit(parameters).task_id


def plan(task_id: int, **more: Any) -> WaitPlan:
    return WaitPlan(task_id, time.time(), **({"poll_interval": 0.3, "max_poll_interval": 1.0} | more))


async def wait(connect: Callable[[], PandaClient], what: WaitPlan | ManyPlan, *, own_pace: bool = False) -> Any:
    """Wait for a task, or for many, as a trigger does, or as a worker."""
    async with join("panda_default", connect, what, own_pace=own_pace) as waiter:
        return await adrive(cast("Plan[Any]", what), waiter.perform, sleep=waiter.rest, clock=time.time, log=log)


async def wait_for_all(connect: Callable[[], PandaClient], plans: Iterable[WaitPlan]) -> list[WaitEvent]:
    return await asyncio.wait_for(asyncio.gather(*(wait(connect, one) for one in plans)), 60)


def outcomes(events: Iterable[WaitEvent]) -> list[tuple[str, str]]:
    return [(event["kind"], event["status"]) for event in events]


async def until(reached: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not reached():
            await asyncio.sleep(0.02)
