"""Triggers as Airflow's triggerer has them: made again from what was stored, run, and ended by a person."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.serde import deserialize, serialize
from airflow.serialization.encoders import encode_trigger
from airflow.serialization.serialized_objects import BaseSerialization
from airflow.triggers.base import BaseTrigger

from panda_airflow.triggers import base as triggers
from tests.airflow.conftest import Panda, task


def by_sdk(trigger: BaseTrigger) -> BaseTrigger:
    """Make the trigger again as the triggerer does from what a worker sent."""
    classpath, kwargs = trigger.serialize()
    stored = json.loads(json.dumps(serialize(kwargs)))
    return _make(classpath, deserialize(stored))


def by_core(trigger: BaseTrigger) -> BaseTrigger:
    """Make the trigger again as the triggerer does from a serialized DAG."""
    classpath, kwargs = trigger.serialize()
    stored = json.loads(json.dumps(encode_trigger({"classpath": classpath, "kwargs": kwargs})))
    return _make(stored["classpath"], {name: BaseSerialization.deserialize(v) for name, v in stored["kwargs"].items()})


def _make(classpath: str, kwargs: Any) -> BaseTrigger:
    made = resolve_name(classpath)(**kwargs)
    assert isinstance(made, BaseTrigger)
    return made


def event_of(trigger: BaseTrigger) -> Any:
    """Run a trigger to its only event, which then travels through the database."""

    async def run() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    [payload] = asyncio.run(run())
    return deserialize(json.loads(json.dumps(serialize(payload))))


def airflow_task() -> Any:
    """Stand in for the Airflow task that a trigger belongs to."""
    return SimpleNamespace(dag_id="higgs", task_id="fit", run_id="manual__2026", map_index=-1)


async def run_in_triggerer(trigger: triggers.PandaTrigger) -> None:
    """Run a trigger as Airflow's triggerer does, which gives ``on_kill`` until its next loop."""
    try:
        async for _ in trigger.run():
            pass
    except asyncio.CancelledError:
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(trigger.on_kill(), 30)
        raise


def kill_by_person(trigger: triggers.PandaTrigger, *, after: float = 0.3) -> None:
    """Cancel a running trigger twice, as the triggerer does when a person ends the task."""

    async def live() -> None:
        running = asyncio.create_task(run_in_triggerer(trigger))
        await asyncio.sleep(after)
        for _ in range(2):
            running.cancel("user-action")
            await asyncio.sleep(0.1)
        assert running.cancelled()
        await asyncio.gather(*triggers._kills)

    asyncio.run(live())


def airflow_says(monkeypatch: pytest.MonkeyPatch, state: str, key: str = "fit") -> None:
    """Stand in for the question to Airflow, which only a triggerer can ask."""

    def get_task_states(**asked: Any) -> dict[str, Any]:
        assert (asked["dag_id"], asked["task_ids"], asked["run_ids"]) == ("higgs", ["fit"], ["manual__2026"])
        return {"manual__2026": {key: state}}

    monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", staticmethod(get_task_states))


def running_task(panda: Panda) -> int:
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    panda.wait(task_id, ("running",))
    return task_id


def still_runs(panda: Panda, task_id: int) -> bool:
    """Whether nobody has asked the server to kill the task."""
    commands = panda.server.backend.store.rows("SELECT * FROM commands")
    return not commands and panda.task(task_id).status == "running"
