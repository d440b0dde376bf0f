"""Server module ``creds``: secrets that jobs find at run time, and credentials that the server keeps."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import Secrets


class CredsApi(ApiModule):
    """Methods below ``/api/v1/creds/``."""

    @endpoint("POST", "creds/set_user_secrets", idempotent=True)
    def set_user_secrets(self, key: str | None = None, value: str | None = None) -> None:
        """Store a secret of the caller, where the caller's jobs can read it, or delete some.

        :param key: its name; ``None`` deletes all secrets of the caller.
        :param value: its text; ``None`` deletes this key.
        """

    @endpoint("GET", "creds/get_user_secrets", idempotent=True)
    def get_user_secrets(self, keys: list[str] | None = None) -> Secrets:
        """Read secrets of the caller.

        :param keys: their names; all if not given or empty. A comma in a name divides it in two.
        :return: text by name, without those that do not exist.
        """

    @endpoint("GET", "creds/get_key_pair", idempotent=True)
    def get_key_pair(self, public_key_name: str, private_key_name: str) -> Secrets:
        """Read a key pair that the server keeps.

        :param public_key_name: its name on the server.
        :param private_key_name: its name on the server.
        :return: ``public_key`` and ``private_key``.
        :raises PermissionDenied: the caller is not registered for key pairs.
        :raises Refused: there is no such key.
        """

    @endpoint("GET", "creds/get_proxy", idempotent=True)
    def get_proxy(self, role: str | None = None, dn: str | None = None) -> Secrets:
        """Read an X.509 proxy that the server keeps.

        :param role: of the proxy, such as ``production``.
        :param dn: whose proxy; the caller's if not given.
        :return: ``user_proxy``, PEM.
        :raises PermissionDenied: the caller is not registered for proxies.
        :raises Refused: there is no such proxy.
        """

    @endpoint("GET", "creds/get_access_token", idempotent=True)
    def get_access_token(self, client_name: str, token_key: str | None = None) -> Secrets:
        """Read an access token that the server keeps.

        :param client_name: whose token, a name in the server's configuration.
        :param token_key: from ``get_token_key``, where the server wants one; travels in the URL, as the server
            looks for it there.
        :return: the token, as ``user_proxy``.
        :raises PermissionDenied: the caller is not registered for tokens.
        :raises Refused: the key is invalid, or there is no such token.
        """

    @endpoint("GET", "creds/get_token_key", idempotent=True)
    def get_token_key(self, client_name: str) -> Secrets:
        """Read the key that ``get_access_token`` wants.

        :param client_name: whose token the key opens.
        :return: ``tokenKey``.
        :raises PermissionDenied: the caller is not registered for token keys.
        :raises Refused: there is no such key.
        """
