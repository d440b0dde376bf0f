"""Step that submits a workflow which PanDA itself carries out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from panda_airflow.client import UsageError
from panda_airflow.client.models import Json
from panda_airflow.steps.base import Context, PandaStep
from panda_airflow.steps.once import at_most_once
from panda_airflow.steps.state_store import end_noted


class PandaSubmitWorkflowOperator(PandaStep):
    """Submit a workflow, at most once; XCom holds its ``workflow_id``.

    The server has no method that tells how a workflow is, so there is nothing to wait for.

    :param workflow_definition: in PanDA's own terms: ``workflow_name``, ``nodes`` and what they need.
    :param raw_request: instead, a CWL, Snakemake or yadage workflow whose files are in the cache: ``language``,
        ``sandbox``, ``sourceURL``, ``outDS``, ``workflowSpecFile``, ``workflowInputFile``.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "workflow_definition", "raw_request")
    template_fields_renderers = {  # noqa: RUF012 - declared so by Airflow
        "workflow_definition": "json",
        "raw_request": "json",
    }
    ui_color = "#d8e8d0"

    def __init__(
        self,
        *,
        workflow_definition: dict[str, Json] | None = None,
        raw_request: dict[str, Json] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.workflow_definition = workflow_definition
        self.raw_request = raw_request

    def execute(self, context: Context) -> dict[str, int]:
        """Submit the workflow."""
        if bool(self.workflow_definition) == bool(self.raw_request):
            raise UsageError("give either workflow_definition or raw_request; nothing was sent.")
        with end_noted(self, context):
            result: dict[str, int] = at_most_once(self, context, "the submission of the workflow", self._submit)
        self.log.info("PanDA workflow %s", result["workflow_id"])
        return result

    def _submit(self) -> dict[str, int]:
        if self.workflow_definition:
            return self.client.workflow.submit_workflow(self.workflow_definition)
        return self.client.workflow.submit_workflow_raw_request(self.raw_request or {})
