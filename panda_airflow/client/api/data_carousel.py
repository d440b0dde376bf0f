"""Server module ``data_carousel``: datasets that are staged from tape to disk for tasks.

Every operation comes twice: carried out at once, however long that takes, or registered and looked up later with
``async_process/get_result``.
"""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import Json


class DataCarouselApi(ApiModule):
    """Methods below ``/api/v1/data_carousel/``."""

    # A repeat would leave the new place for a third.
    @endpoint("POST", "data_carousel/change_staging_destination", idempotent=False, production=True)
    def change_staging_destination(self, request_id: int | None = None, dataset: str | None = None) -> Json:
        """Stage a dataset to another place than the one chosen.

        :param request_id: number of the staging request; this or ``dataset`` is needed, and this one wins.
        :param dataset: its name, as ``scope:name``.
        """

    # A repeat would leave the new place for a third.
    @endpoint("POST", "data_carousel/submit_change_staging_destination", idempotent=False, production=True)
    def submit_change_staging_destination(
        self, request_id: int | None = None, dataset: str | None = None
    ) -> dict[str, str]:
        """Register the operation ``change_staging_destination``.

        :param request_id: number of the staging request; this or ``dataset`` is needed, and this one wins.
        :param dataset: its name, as ``scope:name``.
        :return: ``async_id``, the ``request_id`` of ``async_process/get_result``.
        """

    # A repeat would leave the new source for a third.
    @endpoint("POST", "data_carousel/change_staging_source", idempotent=False, production=True)
    def change_staging_source(
        self,
        request_id: int | None = None,
        dataset: str | None = None,
        cancel_fts: bool = False,
        change_src_expr: bool = False,
        source_rse: str | None = None,
    ) -> Json:
        """Stage a dataset from another source.

        :param request_id: number of the staging request; this or ``dataset`` is needed, and this one wins.
        :param dataset: its name, as ``scope:name``.
        :param cancel_fts: cancel the transfers that are under way.
        :param change_src_expr: replace the source in the rule instead of only dropping it.
        :param source_rse: take this source; implies ``change_src_expr``.
        """

    # A repeat would leave the new source for a third.
    @endpoint("POST", "data_carousel/submit_change_staging_source", idempotent=False, production=True)
    def submit_change_staging_source(
        self,
        request_id: int | None = None,
        dataset: str | None = None,
        cancel_fts: bool = False,
        change_src_expr: bool = False,
        source_rse: str | None = None,
    ) -> dict[str, str]:
        """Register the operation ``change_staging_source``.

        :param request_id: number of the staging request; this or ``dataset`` is needed, and this one wins.
        :param dataset: its name, as ``scope:name``.
        :param cancel_fts: cancel the transfers that are under way.
        :param change_src_expr: replace the source in the rule instead of only dropping it.
        :param source_rse: take this source; implies ``change_src_expr``.
        :return: ``async_id``, the ``request_id`` of ``async_process/get_result``.
        """

    @endpoint("POST", "data_carousel/force_to_staging", idempotent=True, production=True)
    def force_to_staging(self, request_id: int | None = None, dataset: str | None = None) -> Json:
        """Begin to stage a dataset that waits in the queue.

        :param request_id: number of the staging request; this or ``dataset`` is needed, and this one wins.
        :param dataset: its name, as ``scope:name``.
        """

    @endpoint("POST", "data_carousel/submit_force_to_staging", idempotent=True, production=True)
    def submit_force_to_staging(self, request_id: int | None = None, dataset: str | None = None) -> dict[str, str]:
        """Register the operation ``force_to_staging``.

        :param request_id: number of the staging request; this or ``dataset`` is needed, and this one wins.
        :param dataset: its name, as ``scope:name``.
        :return: ``async_id``, the ``request_id`` of ``async_process/get_result``.
        """

    @endpoint("POST", "data_carousel/retire_unused", idempotent=True, production=True)
    def retire_unused(self, request_id: int | None = None, dataset: str | None = None) -> Json:
        """Give up a staged dataset that no task needs any more.

        :param request_id: number of the staging request; this or ``dataset`` is needed, and this one wins.
        :param dataset: its name, as ``scope:name``.
        """

    @endpoint("POST", "data_carousel/submit_retire_unused", idempotent=True, production=True)
    def submit_retire_unused(self, request_id: int | None = None, dataset: str | None = None) -> dict[str, str]:
        """Register the operation ``retire_unused``.

        :param request_id: number of the staging request; this or ``dataset`` is needed, and this one wins.
        :param dataset: its name, as ``scope:name``.
        :return: ``async_id``, the ``request_id`` of ``async_process/get_result``.
        """
