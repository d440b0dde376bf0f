"""Server module ``statistics``: how many jobs and worker nodes there are, and in which state."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import Json


class StatisticsApi(ApiModule):
    """Methods below ``/api/v1/statistics/``.

    Where there is nothing to count, the server says that its database failed: each method raises ``Refused`` then.
    """

    @endpoint("GET", "statistics/job_stats_by_cloud", idempotent=True, identity=False)
    def job_stats_by_cloud(self, type: str = "production") -> dict[str, dict[str, int]]:
        """Count active jobs and those that ended in the last 12 hours.

        :param type: ``production`` or ``analysis``.
        :return: number of jobs by cloud and status.
        """

    @endpoint("GET", "statistics/production_job_stats_by_cloud_and_processing_type", idempotent=True, identity=False)
    def production_job_stats_by_cloud_and_processing_type(self) -> dict[str, dict[str, dict[str, int]]]:
        """Count active production jobs and those that ended in the last 12 hours.

        :return: number of jobs by cloud, processing type and status.
        """

    @endpoint("GET", "statistics/active_job_stats_by_site", idempotent=True, identity=False)
    def active_job_stats_by_site(self) -> dict[str, dict[str, int]]:
        """Count jobs that have not ended.

        :return: number of jobs by site and status.
        """

    @endpoint("GET", "statistics/active_job_detailed_stats_by_site", idempotent=True, identity=False)
    def active_job_detailed_stats_by_site(self) -> dict[str, Json]:
        """Count jobs that have not ended.

        :return: number of jobs by site, resource type, production source label and status.
        """

    @endpoint("GET", "statistics/job_stats_by_site_and_resource_type", idempotent=True, identity=False)
    def job_stats_by_site_and_resource_type(
        self, time_window: int | None = None
    ) -> dict[str, dict[str, dict[str, int]]]:
        """Count active jobs and those that ended lately.

        :param time_window: minutes that count as lately, at most 10080; 12 hours if not given.
        :return: number of jobs by site, resource type and status.
        """

    @endpoint("GET", "statistics/job_stats_by_site_share_and_resource_type", idempotent=True, identity=False)
    def job_stats_by_site_share_and_resource_type(self, time_window: int | None = None) -> dict[str, Json]:
        """Count active jobs and those that ended lately.

        :param time_window: minutes that count as lately, at most 10080; 12 hours if not given.
        :return: number of jobs by site, production source label (not share, for all its name), resource type and
            status.
        """

    @endpoint("GET", "statistics/get_wn_metrics_by_site", idempotent=True, identity=False)
    def get_wn_metrics_by_site(self, site: str, host: str | None = None, key: str | None = None, days: int = 1) -> Json:
        """Read what the worker nodes of a site did, day by day.

        :param site: its name; a site may have several queues.
        :param host: only this worker node.
        :param key: only ``jobs`` or ``workers``.
        :param days: how far to look back, at most 7.
        """

    @endpoint("GET", "statistics/get_wn_metrics_by_queue", idempotent=True, identity=False)
    def get_wn_metrics_by_queue(
        self, panda_queue: str, host: str | None = None, key: str | None = None, days: int = 1
    ) -> Json:
        """Read what the worker nodes of a queue did, day by day.

        :param panda_queue: its name.
        :param host: only this worker node.
        :param key: only ``jobs`` or ``workers``.
        :param days: how far to look back, at most 7.
        """
