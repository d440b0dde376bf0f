"""OpenLineage: the datasets that a step's PanDA task reads and writes, and which task it is.

A dataset is in the namespace ``panda://<vo>``, since it belongs to the data management of the virtual organisation
and not to one server; its name is PanDA's, without the slash that may end the name of a container.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from panda_airflow.steps.base import PandaStep
from panda_airflow.steps.result import TaskResult

if TYPE_CHECKING:
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Asset
    from openlineage.client.event_v2 import Dataset

INPUTS = frozenset({"input"})
OUTPUTS = frozenset({"output", "log"})


class TaskLineage(PandaStep):
    """What the OpenLineage provider asks a step that has to do with a PanDA task; without it nothing is imported.

    The provider adds the error of a failure itself.
    """

    known_task: int | None = None
    """JediTaskID, once it is known in this try."""
    result: TaskResult | None = None
    """What the step returns, once it does."""

    @property
    def vo(self) -> str:
        """Virtual organisation of the task."""
        parameters = getattr(self, "task_parameters", None)
        given = parameters.get("vo") if isinstance(parameters, dict) else None
        return str(given or self.hook.config.vo)

    def get_openlineage_facets_on_start(self) -> OperatorLineage[Any, Any]:
        """Return the datasets that the task parameters declare."""
        return self._lineage()

    def get_openlineage_facets_on_complete(self, ti: object) -> OperatorLineage[Any, Any]:  # noqa: ARG002
        """Return the datasets that the task has read and written, and the task."""
        return self._lineage()

    def get_openlineage_facets_on_failure(self, ti: object) -> OperatorLineage[Any, Any]:  # noqa: ARG002
        """Return the datasets that the task parameters declare, and the task if there is one."""
        return self._lineage()

    def _lineage(self) -> OperatorLineage[Any, Any]:
        from airflow.providers.openlineage.extractors import OperatorLineage  # noqa: PLC0415 - only where it is

        return OperatorLineage(
            inputs=self._datasets(declared_datasets(getattr(self, "task_parameters", None), INPUTS)),
            outputs=self._datasets(self._outputs()),
            run_facets=self._run_facets(),
        )

    def _outputs(self) -> list[str]:
        """Name the outputs that the server lists for a task that has any, or else those that are declared."""
        if self.result and self.result["status"] in ("done", "finished") and self.result["output_datasets"]:
            return self.result["output_datasets"]
        return declared_datasets(getattr(self, "task_parameters", None), OUTPUTS)

    def _datasets(self, names: Iterable[str]) -> list[Dataset]:
        return [dataset(self.vo, name) for name in names]

    def _run_facets(self) -> dict[str, Any]:
        from openlineage.client.facet_v2 import external_query_run  # noqa: PLC0415 - as above

        if self.known_task is None:
            return {}
        facet = external_query_run.ExternalQueryRunFacet(str(self.known_task), source=self.hook.config.server)
        return {"externalQuery": facet}


def declared_datasets(parameters: object, kinds: Collection[str]) -> list[str]:
    """Name the datasets that task parameters declare.

    :param parameters: JEDI's task parameters; anything but a dict declares nothing.
    :param kinds: values of ``param_type``: ``INPUTS`` or ``OUTPUTS``.
    :return: each name once; names that JEDI has yet to fill in are left out.
    """
    if not isinstance(parameters, dict):
        return []
    entries = [*parameters.get("jobParameters", []), *parameters.values()]
    named = [entry.get("dataset") for entry in entries if isinstance(entry, dict) and entry.get("param_type") in kinds]
    named += [parameters.get("dsForIN")] if kinds == INPUTS else []
    names = (name.strip() for value in named if value for name in str(value).split(","))
    return list(dict.fromkeys(name for name in names if name and not set(name) & set("%$")))


def dataset(vo: str, name: str) -> Dataset:
    """Describe a dataset to OpenLineage."""
    from openlineage.client.event_v2 import Dataset  # noqa: PLC0415 - only where it is

    return Dataset(namespace=f"panda://{vo}", name=name.rstrip("/"))


def asset_to_openlineage(asset: Asset, lineage_context: object) -> Dataset:  # noqa: ARG001 - Airflow's signature
    """Describe an asset ``panda://<vo>/<dataset>`` to OpenLineage, under the name that steps give the dataset."""
    parts = urlsplit(asset.uri)
    return dataset(parts.netloc, parts.path.strip("/"))
