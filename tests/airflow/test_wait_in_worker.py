"""A step that waits in a worker has a status feed of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from panda_airflow.client import ClientConfig
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.waiting.feed import poller
from tests.airflow.conftest import Memory, Panda, connection, task, unnamed, wait_until


def step(command: str, **more: Any) -> PandaSubmitTaskOperator:
    return PandaSubmitTaskOperator(task_id="fit", task_parameters=unnamed(task(command)), **more)


def later(work: Callable[[], object]) -> None:
    threading.Thread(target=work, daemon=True).start()


def test_it_heeds_a_pushed_change(panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    class Listener:
        def __init__(self, _: ClientConfig, loop: asyncio.AbstractEventLoop, tell: Callable[[int, str], None]) -> None:
            def work() -> None:
                wait_until(panda.submitted)
                [task_id] = panda.submitted()
                panda.wait(task_id, ("done",))
                loop.call_soon_threadsafe(tell, task_id, "done")

            later(work)

        def close(self) -> None:
            pass

    monkeypatch.setattr(poller, "BrokerListener", Listener)
    broker = {"push_url": "stomp://localhost:61613", "push_destination": "/topic/panda.status"}
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", connection(panda.server, panda.server.token(), **broker))
    began = time.monotonic()
    assert step("true", poll_interval=600).execute(memory())["status"] == "done"
    assert time.monotonic() - began < 60


def test_it_survives_the_renewal_of_a_token(panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def renew() -> None:
        wait_until(panda.submitted)
        [task_id] = panda.submitted()
        panda.wait(task_id, ("running",))
        panda.server.faults.inject("expire_tokens")
        time.sleep(0.5)
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", connection(panda.server, panda.server.token()))

    later(renew)
    result = step("sleep 3", poll_interval=0.2, outage=60).execute(memory())
    assert (result["status"], result["files"]["finished"]) == ("done", 2)
    assert result["output_datasets"], "which are read after the wait"
