from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest
from airflow.models.asset import AssetEvent
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.utils.session import create_session
from sqlalchemy import select

from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.steps.assets import dataset_asset, publish, sanitize_uri
from panda_airflow.steps.result import TaskResult
from tests.airflow.conftest import Panda, Run, task, unnamed

Play = Callable[[DAG], Run]
RESULT: TaskResult = {
    "jedi_task_id": 42,
    "server": "https://panda.example",
    "status": "done",
    "name": "user.bob.fit",
    "files": {},
    "output_datasets": ["user.bob.fit_mass/", "user.bob.fit.log/"],
    "monitor_url": "https://panda.example/task/42/",
}


def events_of(dag_id: str) -> dict[str, dict[str, Any]]:
    """What Airflow keeps of the asset events of a DAG, by address."""
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_dag_id == dag_id)).all()
        return {event.asset.uri: event.extra for event in events}


def _told(result: dict[str, Any]) -> dict[str, Any]:
    return {
        "jedi_task_id": result["jedi_task_id"],
        "status": result["status"],
        "output_datasets": result["output_datasets"],
        "monitor_url": result["monitor_url"],
    }


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_asset_events_tell_what_the_task_made(panda: Panda, play: Play, deferrable: bool) -> None:
    dag_id = f"outlets_{deferrable}"
    with DAG(dag_id) as dag:
        PandaSubmitTaskOperator(
            task_id="fit",
            task_parameters=unnamed(task("echo 125 > mass.txt", outputs=["mass.txt"])),
            outlets=[Asset("panda://wlcg/higgs.mass"), AssetAlias(f"made_{deferrable}")],
            poll_interval=0.2,
            deferrable=deferrable,
        )
    result = play(dag).results["fit"]
    told = _told(result)
    assert told["status"] == "done"
    made = {dataset_asset("wlcg", dataset).uri for dataset in result["output_datasets"]}
    assert made
    assert events_of(dag_id) == dict.fromkeys({"panda://wlcg/higgs.mass"} | made, told)


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_asset_events_of_a_sensor_tell_of_each_task(panda: Panda, play: Play, deferrable: bool) -> None:
    dag_id = f"sensed_outlets_{deferrable}"
    ids = [
        panda.client.task.submit(task("echo 125 > mass.txt", name, outputs=["mass.txt"])).task_id
        for name in ("user.bob.one", "user.bob.two")
    ]
    with DAG(dag_id) as dag:
        for name, given in (("one", ids[0]), ("both", ids)):
            PandaWaitTaskStatusSensor(
                task_id=name,
                jedi_task_id=given,
                outlets=[Asset(f"panda://wlcg/sensed.{name}"), AssetAlias(f"sensed_{name}_{deferrable}")],
                poke_interval=0.2,
                timeout=30,
                deferrable=deferrable,
            )
    run = play(dag)
    first, second = (_told(result) for result in run.results["both"])
    assert first == _told(run.results["one"])
    assert (first["jedi_task_id"], second["jedi_task_id"]) == tuple(ids)
    made = {dataset_asset("wlcg", name).uri: told for told in (first, second) for name in told["output_datasets"]}
    assert len(made) >= 2
    assert events_of(dag_id) == made | {"panda://wlcg/sensed.one": first, "panda://wlcg/sensed.both": first}


def test_what_the_author_says_in_an_event_stays() -> None:
    asset, events = Asset("panda://wlcg/higgs.mass"), OutletEventAccessors()
    events[asset].extra.update({"status": "blessed", "channel": "4l"})
    publish({"outlet_events": events}, [asset, "no asset"], RESULT, "wlcg")
    assert events[asset].extra.items() >= {"status": "blessed", "channel": "4l", "jedi_task_id": 42}.items()


def test_a_dataset_that_airflow_cannot_name_does_not_keep_the_others_from_their_events() -> None:
    alias, events = AssetAlias("made"), OutletEventAccessors()
    publish({"outlet_events": events}, [alias], {**RESULT, "output_datasets": ["x" * 2000, "user.bob.mass"]}, "wlcg")
    assert [event.dest_asset_key.uri for event in events[alias].asset_alias_events] == ["panda://wlcg/user.bob.mass"]


def test_a_container_is_one_asset_however_it_is_written() -> None:
    assert dataset_asset("wlcg", "user.bob.mass/") == dataset_asset("wlcg", "user.bob.mass")
    assert dataset_asset("wlcg", "user.bob:user.bob.mass").uri == "panda://wlcg/user.bob:user.bob.mass"


@pytest.mark.parametrize("uri", ["panda://wlcg", "panda:///user.bob.mass", "panda:user.bob.mass"])
def test_an_address_that_names_no_dataset_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="panda://<vo>/<dataset>"):
        sanitize_uri(urlsplit(uri))
