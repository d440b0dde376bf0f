"""PanDA datasets as Airflow assets, ``panda://<vo>/<dataset>``, and what the events of a step's outlets tell."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from urllib.parse import SplitResult

from airflow.sdk import Asset, AssetAlias

from panda_airflow.steps.result import TaskResult

log = logging.getLogger(__name__)


def dataset_asset(vo: str, dataset: str) -> Asset:
    """Name a dataset as an asset.

    :param vo: virtual organisation whose data management knows it.
    :param dataset: a dataset or a container, with its scope or without, as everybody who names it does; the slash
        that may end the name of a container is no part of the asset.
    :raises ValueError: this cannot be the name of an asset.
    """
    return Asset(uri=f"panda://{vo}/{dataset.rstrip('/')}")


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """Refuse, for Airflow, an address that names no dataset.

    :raises ValueError: it lacks the virtual organisation or the dataset.
    """
    if not uri.netloc or not uri.path.strip("/"):
        raise ValueError(f"{uri.geturl()!r} names no PanDA dataset; write panda://<vo>/<dataset>.")
    return uri


def publish(context: Any, outlets: Iterable[object], result: TaskResult, vo: str) -> None:
    """Tell the asset events of a step what its PanDA task has made; what the author says there himself stays.

    The event of an asset carries ``jedi_task_id``, ``status``, ``output_datasets`` and ``monitor_url``. An asset
    alias gets one event for each output dataset.

    :param context: Airflow's context of the running try.
    :param outlets: the step's; those that are neither assets nor aliases are left alone.
    :param vo: virtual organisation of the datasets.
    """
    told = {
        "jedi_task_id": result["jedi_task_id"],
        "status": result["status"],
        "output_datasets": result["output_datasets"],
        "monitor_url": result["monitor_url"],
    }
    for outlet in outlets:
        if isinstance(outlet, Asset):
            extra = context["outlet_events"][outlet].extra
            extra.update(told | extra)
        elif isinstance(outlet, AssetAlias):
            for dataset in result["output_datasets"]:
                _add(context["outlet_events"][outlet], vo, dataset, told)


def _add(events: Any, vo: str, dataset: str, told: dict[str, Any]) -> None:
    """Add an event to an alias; a name that Airflow refuses must not fail a task that is done."""
    try:
        events.add(dataset_asset(vo, dataset), extra=dict(told))
    except ValueError as error:
        log.warning(
            "The output dataset %s of PanDA task %s has no asset event: %s", dataset, told["jedi_task_id"], error
        )
