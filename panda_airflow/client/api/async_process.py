"""Server module ``async_process``: requests that the machines of the server carry out later."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import AsyncResult, Envelope


def answered(envelope: Envelope) -> bool:
    """Tell a look at a request from a failure to look; ``success`` may speak of what was asked for."""
    return envelope.success or "async_meta" in envelope.extra


class AsyncProcessApi(ApiModule):
    """Methods below ``/api/v1/async_process/``; each request returns a ``request_id`` to ask for the result with."""

    # A repeat leaves a result that nobody asks for, and does no harm.
    @endpoint("POST", "async_process/submit_grep_request", idempotent=True)
    def submit_grep_request(
        self,
        pattern: str,
        log_filename: str,
        service_name: str | None = None,
        machine_name: str | None = None,
        max_matches: int | None = None,
        tail_bytes: int | None = None,
    ) -> dict[str, str]:
        """Ask for the lines of a server log that match a pattern.

        :param pattern: a regular expression.
        :param log_filename: such as ``panda-server.log``, without directory.
        :param service_name: on all machines of this service; this or ``machine_name`` is needed, not both.
        :param machine_name: on this machine.
        :param max_matches: number of lines, at most 200000.
        :param tail_bytes: look only at the end of the log, at most 1 GiB.
        :return: ``request_id``.
        :raises PermissionDenied: the caller is not on the list of those who may.
        :raises InvalidArgument: the name of the log is invalid, or the machines are not clear.
        """

    # A repeat sleeps once more.
    @endpoint("POST", "async_process/submit_sleep_echo_request", idempotent=True, production=True)
    def submit_sleep_echo_request(self, service_name: str, message: str, seconds: int = 10) -> dict[str, str]:
        """Ask a machine to sleep and say something, as a test of the way.

        :param service_name: on any machine of this service.
        :param message: at most 100 characters.
        :param seconds: how long to sleep, at most 60.
        :return: ``request_id``.
        """

    @endpoint("GET", "async_process/get_result", idempotent=True, ok=answered)
    def get_result(self, request_id: str) -> AsyncResult:
        """Look what became of a request, also of one of the module ``data_carousel``.

        :param request_id: as it was returned, a UUID.
        :raises NotFound: there is no such request.
        :raises PermissionDenied: another user's request.
        """
