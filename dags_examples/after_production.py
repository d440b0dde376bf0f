"""Run whenever a simulation task on PanDA is done, whoever submitted it from wherever: no DAG has to wait for it."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, AssetWatcher, dag, task

from panda_airflow.triggers.events import PandaTaskEventTrigger

SIMULATION = Asset(
    "finished_simulation",
    watchers=[AssetWatcher(name="panda", trigger=PandaTaskEventTrigger(name="user.*.simulation.*"))],
)


@task
def ended(triggering_asset_events: Any = None) -> list[dict[str, Any]]:
    """List the tasks that have ended; tasks that end together may share a run."""
    return [event.extra["payload"] for event in triggering_asset_events[SIMULATION]]


@task(map_index_template="{{ task.op_kwargs['end']['name'] }}")
def validate(end: dict[str, Any]) -> int:
    """Check one of them."""
    print(f"{end['name']} has made {end['output_datasets']}, see {end['monitor_url']}")
    return int(end["files"]["finished"])


@dag(schedule=[SIMULATION], catchup=False, doc_md=__doc__)
def after_production() -> None:
    """One run for one event, or for a few."""
    validate.expand(end=ended())


after_production()
