"""Server module ``event``: ranges of events that jobs process one by one; all but one method serve pilots."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import Json


class EventApi(ApiModule):
    """Methods below ``/api/v1/event/``."""

    @endpoint("GET", "event/get_available_event_range_count", idempotent=True, production=True)
    def get_available_event_range_count(self, job_id: int, jobset_id: int, task_id: int, timeout: int = 60) -> int:
        """Count the event ranges that wait for a job.

        :param job_id: PandaID.
        :param jobset_id: of the job.
        :param task_id: JediTaskID.
        :param timeout: seconds the server gives itself.
        """

    @endpoint("GET", "event/get_event_range_statuses", idempotent=True)
    def get_event_range_statuses(self, job_task_ids: str) -> dict[str, dict[str, Json]]:
        """Read how far the event ranges of jobs are.

        :param job_task_ids: pairs of IDs, a JSON list as text: ``[{"task_id": 5, "panda_id": 7}]``.
        :return: by PandaID and event range ID: ``status``, ``error`` code and ``dialog``.
        :raises ServerError: the pairs cannot be read, or the database is down: the server says the same.
        """

    # A repeat would hand out further ranges.
    @endpoint("POST", "event/acquire_event_ranges", idempotent=False, production=True)
    def acquire_event_ranges(
        self,
        job_id: int,
        jobset_id: int,
        task_id: int | None = None,
        n_ranges: int = 10,
        timeout: int = 60,
        scattered: bool = False,
        segment_id: int | None = None,
    ) -> list[Json]:
        """Take event ranges for a job to process.

        :param job_id: PandaID.
        :param jobset_id: of the job.
        :param task_id: JediTaskID.
        :param n_ranges: how many at most.
        :param timeout: seconds the server gives itself.
        :param scattered: not necessarily neighbours.
        :param segment_id: take them from this segment.
        """

    @endpoint("POST", "event/update_single_event_range", idempotent=True, production=True)
    def update_single_event_range(
        self,
        event_range_id: str,
        event_range_status: str,
        core_count: int | None = None,
        cpu_consumption_time: float | None = None,
        object_store_id: int | None = None,
        timeout: int = 60,
    ) -> dict[str, Json]:
        """Report an event range as processed or failed.

        :param event_range_id: its ID.
        :param event_range_status: such as ``finished`` or ``failed``.
        :param core_count: cores it took.
        :param cpu_consumption_time: CPU seconds it took.
        :param object_store_id: where its output is; panda-server 1.0.4 always fails if this is given.
        :param timeout: seconds the server gives itself.
        :return: ``Command`` for the pilot, or ``None`` there.
        """

    @endpoint("POST", "event/update_event_ranges", idempotent=True, production=True)
    def update_event_ranges(self, event_ranges: str, timeout: int = 120, version: int = 0) -> Json:
        """Report many event ranges; panda-server 1.0.4 does so and then fails to answer.

        :param event_ranges: a JSON list as text.
        :param timeout: seconds the server gives itself.
        :param version: 0 event service, 1 jumbo jobs with zip files, 2 ranges that nobody has taken before.
        :raises ServerError: always, with panda-server 1.0.4.
        """
