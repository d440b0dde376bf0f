"""Server module ``idds``: commands that PanDA passes on to the workflow service iDDS."""

from __future__ import annotations

from panda_airflow.client.endpoint import ApiModule, endpoint
from panda_airflow.client.models import Json


class IddsApi(ApiModule):
    """Methods below ``/api/v1/idds/``, as they are on the wire; see :class:`panda_airflow.client.idds.Idds`."""

    # What a repeat does depends on the command: a second submission is a second request.
    @endpoint("POST", "idds/relay_idds_command", idempotent=False)
    def relay_idds_command(
        self,
        command_name: str,
        args: str | None = None,
        kwargs: str | None = None,
        manager: bool = False,
        json_outputs: bool = False,
    ) -> Json:
        """Call a method of the iDDS client on the server, as the calling user.

        That the call went through says nothing about iDDS, whose own verdict is in the result:
        ``[true, value]``, ``[false, message]`` or ``{"data", "error", "status"}``.

        :param command_name: the method, such as ``get_requests``; ``<method>+<URL>`` names another iDDS server.
        :param args: its positional arguments, a JSON list as text.
        :param kwargs: its named arguments, a JSON object as text.
        :param manager: take the method of ``ClientManager``, not of ``Client``.
        :param json_outputs: ask a manager for values instead of formatted text.
        :return: whatever the method returned.
        :raises InvalidArgument: iDDS has no such method.
        :raises ServerError: the result holds an iDDS enumeration, which has no form here; the command was carried out.
        :raises Refused: the server cannot reach iDDS, or the method failed.
        """

    # A second retry is a second command to iDDS.
    @endpoint("POST", "idds/execute_idds_workflow_command", idempotent=False)
    def execute_idds_workflow_command(
        self, command_name: str, kwargs: str | None = None, json_outputs: bool = False
    ) -> Json:
        """Look at or command an iDDS request of one's own.

        :param command_name: ``get_status``, ``abort``, ``retry``, or ``suspend``, ``resume`` and ``finish``, which
            the server passes on and recent versions of iDDS do not have.
        :param kwargs: arguments of the command, a JSON object as text, such as ``{"request_id": 3}``.
        :param json_outputs: ask for values instead of formatted text.
        :return: whatever iDDS returned; its own verdict is inside.
        :raises PermissionDenied: another user's request.
        :raises NotFound: there is no such request.
        :raises InvalidArgument: the command is unsupported, or ``request_id`` is missing.
        """
