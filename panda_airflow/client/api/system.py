"""Server module ``system``: whether the server lives, and who it takes the caller for."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import ServerView, UserAttributes


class SystemApi(ApiModule):
    """Methods below ``/api/v1/system/``."""

    @endpoint("GET", "system/is_alive", idempotent=True, identity=False)
    def is_alive(self) -> None:
        """Return if the server answers; it does so even while its database is down.

        A token that is sent along is checked here too.

        :raises AuthError: the token is refused.
        :raises TransportError: no answer.
        """

    @endpoint("GET", "system/get_attributes", idempotent=True)
    def get_attributes(self) -> ServerView:
        """Read the request as the server sees it: its parameters and environment.

        The server echoes the caller's bearer token; it is masked in the result.
        """

    @endpoint("GET", "system/get_user_attributes", idempotent=True)
    def get_user_attributes(self) -> UserAttributes:
        """Read who the server takes the caller for, and with which roles.

        Takes seconds where the server looks the caller's e-mail address up.
        """

    @endpoint("GET", "system/get_voms_attributes", idempotent=True)
    def get_voms_attributes(self) -> dict[str, str]:
        """Read the credential attributes of the caller, ``GRST_CRED_...`` by name."""
