"""Server module ``workflow``: workflows that PanDA itself carries out."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import Json


class WorkflowApi(ApiModule):
    """Methods below ``/api/v1/workflow/``; panda-server 1.0.4 has none to ask how a workflow is."""

    # A repeat would make a second workflow.
    @endpoint("POST", "workflow/submit_workflow_raw_request", idempotent=False)
    def submit_workflow_raw_request(self, params: dict[str, Json] | str) -> dict[str, int]:
        """Submit a CWL, Snakemake or yadage workflow whose files are in the cache.

        :param params: ``language``, ``sandbox``, ``sourceURL``, ``outDS``, ``workflowSpecFile``,
            ``workflowInputFile``; an object or its JSON text.
        :return: ``workflow_id``.
        :raises InvalidArgument: the text is not JSON.
        """

    # A repeat would make a second workflow.
    @endpoint("POST", "workflow/submit_workflow", idempotent=False)
    def submit_workflow(self, workflow_definition: dict[str, Json]) -> dict[str, int]:
        """Submit a workflow that is defined in PanDA's own terms.

        :param workflow_definition: ``workflow_name``, ``nodes`` and what they need.
        :return: ``workflow_id``.
        """
