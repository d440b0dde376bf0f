"""The hook: an Airflow connection turned into a PanDA client."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from panda_airflow.client import ClientConfig, ConfigError, ConnectionMissing, PandaClient, PandaError


class PandaHook(BaseHook):
    """Gives the whole typed PanDA client as ``hook.client``.

    :param panda_conn_id: Airflow connection of type ``panda``. Where the default connection does not exist, the
        environment variables of PanDA users apply, if they name a server.
    """

    conn_name_attr = "panda_conn_id"
    default_conn_name = "panda_default"
    conn_type = "panda"
    hook_name = "PanDA"

    def __init__(self, panda_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.panda_conn_id = panda_conn_id

    @cached_property
    def config(self) -> ClientConfig:
        """Configuration of the client: what the connection says, then the environment, then defaults.

        :raises ConnectionMissing: the connection does not exist, or cannot be read for the moment.
        :raises ConfigError: it holds something that cannot work.
        """
        try:
            connection = self.get_connection(self.panda_conn_id)
        except AirflowNotFoundException:  # also where Airflow only failed to read it: CERN's server is no substitute
            config = ClientConfig.from_env() if self.panda_conn_id == self.default_conn_name else None
            if config and (config.url_ssl or config.url):
                return config
            raise ConnectionMissing(
                f"the Airflow connection {self.panda_conn_id!r} does not exist, or cannot be read.",
                advice="Create it with connection type 'panda', or name another one in panda_conn_id; in place of "
                f"{self.default_conn_name} PANDA_URL_SSL can name the server.",
            ) from None
        return config_from_connection(connection)

    @cached_property
    def client(self) -> PandaClient:
        """The PanDA server's methods as ``client.<module>.<method>``."""
        return PandaClient(self.config)

    def get_conn(self) -> PandaClient:
        """Return the client, as Airflow's hooks do."""
        return self.client

    def test_connection(self) -> tuple[bool, str]:
        """Ask the server who we are; for the Test button of the connection form."""
        try:
            self.client.system.is_alive()
            user = self.client.system.get_user_attributes()
        except PandaError as error:
            return False, str(error)
        return (
            True,
            f"{self.config.server} knows you as {user.name}{', with the production role' if user.production else ''}.",
        )


def config_from_connection(connection: Any) -> ClientConfig:
    """Read a client configuration from an Airflow connection.

    Host, port and schema name the server, the password is a token, and the extra holds further fields of
    ``ClientConfig`` under their own names. What the connection does not say is read from the environment, but a
    server that is named here has nothing to do with the URLs there.

    :raises ConfigError: the extra holds a field that does not exist, or the values cannot work.
    """
    extra = connection.extra_dejson
    if not isinstance(extra, dict):
        raise ConfigError(f"the extra of the connection must be a JSON object, not a {type(extra).__name__}.")
    values = {name: value for name, value in extra.items() if value not in (None, "")}
    if connection.host:
        scheme, _, host = connection.host.rpartition("://")
        scheme = scheme or connection.schema or "https"
        port = f":{connection.port}" if connection.port else ""
        server = {"url_ssl" if scheme == "https" else "url": f"{scheme}://{host.partition('/')[0]}{port}"}
        values = {"url_ssl": "", "url": "", "cache_url": ""} | server | values
    if connection.password:
        values = {"token": connection.password, "auth": "oidc"} | values
    return ClientConfig.from_env(**values)
