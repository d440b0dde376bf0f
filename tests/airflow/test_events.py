"""Watched assets: real triggerers, which come and go, against the embedded server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import structlog
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.asset_state_store import AssetStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.sdk import DAG, Asset, AssetWatcher
from airflow.serialization.encoders import encode_trigger
from airflow.serialization.serialized_objects import BaseSerialization
from airflow.triggers.shared_stream import SharedStreamManager
from airflow.utils.session import create_session
from sqlalchemy import delete, select, update

from panda_airflow.client import NotFound, PandaClient, UsageError
from panda_airflow.client.models import TaskInfo
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.triggers.events import PandaTaskEventTrigger, describe
from tests.airflow.conftest import Panda, task, wait_until
from tests.support.running import write

START = 120.0
"""Seconds that a triggerer may need to start on a busy machine, and to notice that another one is dead."""

IMPATIENT = {
    "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "5",
}


class Triggerer:
    """A triggerer in processes of its own."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"],
                env=os.environ | IMPATIENT,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def triggerer(database: None, panda: Panda, tmp_path: Path) -> Iterator[Triggerer]:
    forget_triggers()
    triggerer = Triggerer(tmp_path / "triggerer.log")
    yield triggerer
    triggerer.kill()


def forget_triggers() -> None:
    """Leave a triggerer nothing of the tests before, whose servers are gone."""
    with create_session() as session:
        session.execute(update(TaskInstance).values(trigger_id=None))
        session.execute(delete(Trigger))


def watch(*assets: tuple[str, dict[str, Any]]) -> None:
    """Have assets watched by a DAG."""
    schedule = [
        Asset(name, watchers=[AssetWatcher(name="panda", trigger=PandaTaskEventTrigger(poll_interval=0.5, **options))])
        for name, options in assets
    ]
    with DAG(f"after_{assets[0][0]}", schedule=schedule, is_paused_upon_creation=False) as dag:
        write(dag)
    for name, _ in assets:
        wait_until(lambda name=name: stored(name))  # type: ignore[misc]


def stored(asset: str) -> list[str]:
    """What watchers have stored about their positions."""
    with create_session() as session:
        return list(
            session.scalars(
                select(AssetStateStoreModel.value).join(AssetModel, AssetModel.id == AssetStateStoreModel.asset_id)
                .where(AssetModel.name == asset)
            )
        )  # fmt: skip


def events(asset: str) -> list[dict[str, Any]]:
    """The payloads of an asset's events."""
    with create_session() as session:
        found = session.scalars(select(AssetEvent).where(AssetEvent.asset.has(name=asset)).order_by(AssetEvent.id))
        return [event.extra["payload"] for event in found]


def end(panda: Panda, name: str, command: str = "true") -> int:
    """Have a task end."""
    submitted = panda.client.task.submit(task(command, name))
    panda.wait(submitted.task_id)
    return submitted.task_id


def test_a_watched_asset_has_one_event_for_each_end_whatever_happens_to_the_triggerer(
    panda: Panda, triggerer: Triggerer, tmp_path: Path
) -> None:
    end(panda, "user.bob.sim.before")
    simulation = {"name": "user.bob.sim.*"}
    watch(("sim", simulation), ("sim again", simulation), ("all", {"statuses": ["done", "failed"]}))

    first, failed = end(panda, "user.bob.sim.1", "echo > mass.txt"), end(panda, "user.bob.fit", "exit 3")
    wait_until(lambda: [len(events("sim")), len(events("all"))] == [1, 2])
    wait_until(lambda: f'"{first}"' in stored("sim")[0] and f'"{failed}"' in stored("all")[0])
    triggerer.kill()
    second = end(panda, "user.bob.sim.2")
    triggerer.start()
    wait_until(lambda: [len(events("sim")), len(events("all"))] == [2, 3])
    third = end(panda, "user.bob.sim.3")
    wait_until(lambda: [len(events("sim")), len(events("all"))] == [3, 4])

    assert [event["jedi_task_id"] for event in events("sim")] == [first, second, third]
    assert [event["jedi_task_id"] for event in events("all")] == [first, failed, second, third]
    assert events("sim again") == events("sim")
    assert [event["status"] for event in events("all")] == ["done", "failed", "done", "done"]


def trigger(**options: Any) -> PandaTaskEventTrigger:
    """A trigger that begins now."""
    usual: dict[str, Any] = {"poll_interval": 0.2, "since": datetime.now(UTC).isoformat()}
    return PandaTaskEventTrigger(**(usual | options))


def fire(
    watcher: PandaTaskEventTrigger,
    number: int,
    meanwhile: Callable[[], object] = lambda: None,
    between: Callable[[], object] = lambda: None,
) -> list[Any]:
    """Run a trigger until it has fired so often, then travel through the database."""

    async def run() -> list[Any]:
        async with asyncio.timeout(START):
            done = asyncio.create_task(asyncio.to_thread(meanwhile))
            found: list[Any] = []
            async for event in watcher.run():
                found.append(event.payload)
                if len(found) == number:
                    await done
                    return found
                await asyncio.to_thread(between)
            raise AssertionError("it gave up")

    return cast("list[Any]", json.loads(json.dumps(asyncio.run(run()))))


def test_an_event_tells_all_about_the_end(panda: Panda) -> None:
    watcher = trigger()
    task_id = end(panda, "user.bob.fit", "echo 125 > mass.txt")
    info = panda.task(task_id)
    [event] = fire(watcher, 1)
    assert event.pop("end").startswith(f"{task_id}@{info.state_change_time:%Y-%m-%dT%H:%M}")
    assert datetime.fromisoformat(event.pop("created")) < datetime.fromisoformat(event.pop("started"))
    assert event == {
        "jedi_task_id": task_id,
        "name": "user.bob.fit",
        "status": "done",
        "user": info.user_name,
        "attempt": 0,
        "ended": f"{info.state_change_time:%Y-%m-%dT%H:%M:%S.%f}+00:00",
        "files": {"total": 2, "finished": 2, "failed": 0, "missing": 0},
        "error": "",
        "output_datasets": panda.client.task.get_details(task_id).output_datasets,
        "monitor_url": PandaHook().config.task_page(task_id),
    }


def test_an_event_may_lack_outputs_that_the_server_does_not_tell(panda: Panda) -> None:
    def refuse(task_id: int) -> None:
        raise NotFound("Task not found or error retrieving the details")

    client = cast("PandaClient", SimpleNamespace(task=SimpleNamespace(get_details=refuse), config=panda.client.config))
    assert describe(client, TaskInfo(42, status="done"))["output_datasets"] == []


def test_tasks_that_share_a_request_id_are_all_told(panda: Panda) -> None:
    watcher = trigger()
    submitted = [panda.client.task.submit(task("true", f"user.bob.{number}", reqID=7)).task_id for number in (1, 2, 3)]
    assert sorted(event["jedi_task_id"] for event in fire(watcher, 3)) == submitted


def test_a_task_that_is_retried_and_ends_again_is_told_again(panda: Panda) -> None:
    watcher = trigger(statuses=["failed"])
    task_id = end(panda, "user.bob.fit", "exit 3")

    def retry() -> None:
        panda.client.task.retry(task_id)

    first, second = fire(watcher, 2, between=retry)
    assert [first["jedi_task_id"], second["jedi_task_id"]] == [task_id, task_id]
    assert (first["attempt"], second["attempt"]) == (0, 1)
    assert first["end"] != second["end"]


def test_no_trouble_of_the_server_ends_a_watch_or_costs_an_end(panda: Panda, caplog: pytest.LogCaptureFixture) -> None:
    watcher = trigger()
    task_id = end(panda, "user.bob.fit")
    faults = panda.server.faults
    faults.inject("refuse", "task/get_tasks_detailed_info_since", times=2)
    faults.inject("garbage", "task/get_details", times=2)
    faults.inject("database_down")

    def mend() -> None:
        wait_until(lambda: caplog.text.count("asked again") == 2)
        panda.server.backend.store.down = False

    assert [event["jedi_task_id"] for event in fire(watcher, 1, mend)] == [task_id]


def test_a_connection_that_does_not_exist_yet_is_waited_for(
    panda: Panda, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watcher = trigger(panda_conn_id="panda_later")
    task_id = end(panda, "user.bob.fit")

    def connect() -> None:
        wait_until(lambda: "'panda_later' does not exist" in caplog.text)
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_LATER", os.environ["AIRFLOW_CONN_PANDA_DEFAULT"])

    assert [event["jedi_task_id"] for event in fire(watcher, 1, connect)] == [task_id]


@pytest.mark.parametrize("options", [{"statuses": ["running"]}, {"since": "yesterday"}, {"user": "Bob|Alice"}], ids=str)
def test_a_watch_that_could_never_fire_is_refused_in_the_dag(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        PandaTaskEventTrigger(**options)


def test_a_trigger_is_the_same_after_its_journey_through_the_database() -> None:
    before = trigger(name="user.*", statuses=("done", "failed"), user="Bob Tester", working_group="higgs")
    sent = json.loads(json.dumps(encode_trigger(before)))
    kwargs = {name: BaseSerialization.deserialize(value) for name, value in sent["kwargs"].items()}
    assert PandaTaskEventTrigger(**kwargs).serialize() == before.serialize()


def test_triggers_share_a_stream_if_the_same_requests_serve_them() -> None:
    alike: list[dict[str, Any]] = [{}, {"name": "x"}, {"statuses": ["failed"]}, {"since": ""}, {"working_group": "x"}]
    other: list[dict[str, Any]] = [{"user": "Al"}, {"prod_source_label": "managed"}, {"panda_conn_id": "x"}]
    assert len({trigger(**options).shared_stream_key() for options in alike}) == 1
    assert len({trigger(**options).shared_stream_key() for options in alike + other}) == 1 + len(other)


class Store:
    """The asset state store of one asset, in memory."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    async def aget(self, key: str) -> Any:
        return self.values.get(key)

    async def aset(self, key: str, value: Any) -> None:
        self.values[key] = json.loads(json.dumps(value))

    @property
    def told(self) -> set[str]:
        return {task_id for value in self.values.values() for task_id in value["told"]}


class Runner:
    """Runs triggers that share streams; a test says when Airflow has stored their events."""

    def __init__(self) -> None:
        log = structlog.get_logger()
        self.streams = SharedStreamManager(log=log, max_subscriber_queue=1024, ack_timeout=START, cohort_grace_period=0)
        self.events: list[tuple[int, int]] = []
        self.unconfirmed: list[int] = []

    @asynccontextmanager
    async def running(self, number: int, watcher: PandaTaskEventTrigger, store: Store) -> AsyncIterator[None]:
        watcher.asset_state_store = cast("Any", SimpleNamespace(_by_name={"sim": store}))
        running = asyncio.create_task(self._run(number, watcher))
        yield
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await self.streams.unsubscribe(number, watcher.shared_stream_key())

    async def _run(self, number: int, watcher: PandaTaskEventTrigger) -> None:
        key = watcher.shared_stream_key()
        stream = self.streams.subscribe(trigger_id=number, trigger=watcher, key=key)
        async for event in watcher.filter_shared_stream(stream):
            self.events.append((number, event.payload["jedi_task_id"]))
            bound = self.streams.bind_pending_event(trigger_id=number, key=key)
            if bound is not None:
                self.unconfirmed.append(bound)

    def confirm(self) -> None:
        self.streams.confirm_persisted(self.unconfirmed)


async def reach(reached: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, reached)


def test_a_position_is_stored_only_once_airflow_has_stored_the_events(panda: Panda) -> None:
    async def scenario() -> None:
        store = Store()
        runner = Runner()
        async with asyncio.timeout(START), runner.running(1, trigger(), store):
            first = await asyncio.to_thread(end, panda, "user.bob.1")
            await reach(lambda: runner.events == [(1, first)])
            panda.server.faults.inject("delay", "task/get_tasks_detailed_info_since", times=2)
            await reach(lambda: not panda.server.faults.describe()["waiting"])
            assert store.told == set()
        runner = Runner()
        async with asyncio.timeout(START), runner.running(1, trigger(since="2020-01-01"), store):
            await reach(lambda: runner.events == [(1, first)])
            runner.confirm()
            await reach(lambda: store.told == {str(first)})
        runner = Runner()
        async with asyncio.timeout(START), runner.running(1, trigger(since="2020-01-01"), store):
            second = await asyncio.to_thread(end, panda, "user.bob.2")
            await reach(lambda: runner.events)
            assert runner.events == [(1, second)]

    asyncio.run(scenario())


def test_a_watcher_that_joins_late_misses_nothing(panda: Panda) -> None:
    async def scenario() -> None:
        runner, late = Runner(), trigger()
        async with asyncio.timeout(START), runner.running(1, trigger(name="user.bob.2"), Store()):
            first = await asyncio.to_thread(end, panda, "user.bob.1")
            second = await asyncio.to_thread(end, panda, "user.bob.2")
            await reach(lambda: runner.events == [(1, second)])
            async with runner.running(2, late, Store()):
                await reach(lambda: runner.events == [(1, second), (2, first), (2, second)])

    asyncio.run(scenario())
