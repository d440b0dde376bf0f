"""Server module ``metaconfig``: what the server knows of users, sites and resources."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import Json


class MetaconfigApi(ApiModule):
    """Methods below ``/api/v1/metaconfig/``."""

    @endpoint("GET", "metaconfig/get_banned_users", idempotent=True)
    def get_banned_users(self) -> dict[str, bool]:
        """List the users who may not use PanDA.

        :return: their names, each with ``False``.
        """

    @endpoint("GET", "metaconfig/get_site_specs", idempotent=True, identity=False)
    def get_site_specs(self, type: str = "analysis") -> dict[str, dict[str, Json]]:
        """Describe sites, which PanDA calls queues.

        :param type: ``analysis``, ``production``, ``unified`` or ``all``.
        :return: attributes by name of the site; empty if there is none of this type.
        """

    @endpoint("GET", "metaconfig/get_resource_types", idempotent=True)
    def get_resource_types(self) -> list[dict[str, Json]]:
        """List the classes of jobs by cores and memory.

        :return: ``resource_name``, ``mincore``, ``maxcore``, ``minrampercore`` and ``maxrampercore`` in MB; a bound
            that is ``None`` does not bind.
        """
