"""Commands to iDDS, the workflow service behind PanDA: arguments encoded, the route chosen, the result opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from typing import Any

from panda_airflow.client.api.idds import IddsApi
from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.errors import ConfigError, InvalidArgument, NotFound, PandaError, ServerError, UsageError
from panda_airflow.client.http.envelope import CHECK_ID, encode, refusal
from panda_airflow.client.models import Envelope, Json
from panda_airflow.client.records import is_id, shown

Dumper = Callable[[Any], str]
Loader = Callable[[str], Any]

RELAY = REGISTRY["idds/relay_idds_command"]
EXECUTE = REGISTRY["idds/execute_idds_workflow_command"]


class Idds(IddsApi):
    """The server module ``idds`` with arguments and results as Python values.

    Each command goes by the legacy route, as only there the server can write every result of iDDS, or by
    ``/api/v1`` where it has no legacy route any more, or with ``legacy=False``.
    """

    def call(
        self,
        command: str,
        *args: Any,
        manager: bool = False,
        json_outputs: bool = False,
        dumper: Dumper = json.dumps,
        loader: Loader | None = None,
        legacy: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Call a method of the iDDS client on the server, as the calling user, and return its value.

        :param command: the method, such as ``get_requests``; ``<method>+<URL>`` names another iDDS server.
        :param args: its positional arguments.
        :param manager: take the method of ``ClientManager``, not of ``Client``.
        :param json_outputs: ask a manager for values instead of formatted text.
        :param dumper: writes the arguments as JSON; see :func:`workflow_objects`.
        :param loader: reads the result from JSON.
        :param legacy: take the legacy route.
        :param kwargs: its named arguments.
        :raises PermissionDenied: another user's request.
        :raises NotFound: there is no such request.
        :raises InvalidArgument: iDDS has no such method.
        :raises Refused: iDDS, or the way to it, failed.
        """
        options: dict[str, Any] = {"manager": manager, "json_outputs": json_outputs, "legacy": legacy}
        return open_result(RELAY, self.relay(command, args, kwargs, dumper=dumper, loader=loader, **options))

    def command(
        self, command: str, request_id: int, *, json_outputs: bool = False, legacy: bool = True, **kwargs: Any
    ) -> Any:
        """Look at or command an iDDS request of one's own.

        :param command: ``get_status``, ``abort`` or ``retry``; recent versions of iDDS have no others.
        :param request_id: the number that iDDS gave it.
        :param json_outputs: ask for values instead of formatted text.
        :param legacy: take the legacy route.
        :param kwargs: further arguments of the command.
        :raises UsageError: the request ID is none.
        :raises PermissionDenied: another user's request.
        :raises NotFound: there is no such request.
        :raises InvalidArgument: the command is unsupported.
        :raises Refused: iDDS, or the way to it, failed.
        """
        if not is_id(request_id):
            raise UsageError(f"request_id must be an ID, not {shown(request_id)}; nothing was sent.")
        result = self.execute(command, {"request_id": request_id} | kwargs, json_outputs=json_outputs, legacy=legacy)
        opened = open_result(EXECUTE, result)
        if command == "get_status" and _is_empty(opened):
            raise NotFound(f"iDDS has no request {request_id}.", endpoint=EXECUTE.path, advice=CHECK_ID)
        return opened

    def relay(
        self,
        command: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        manager: bool = False,
        json_outputs: bool = False,
        dumper: Dumper = json.dumps,
        loader: Loader | None = None,
        legacy: bool = True,
    ) -> Any:
        """Call a method as :meth:`call` does and return iDDS's answer unopened, with its own verdict inside.

        :param command: the method.
        :param args: its positional arguments.
        :param kwargs: its named arguments.
        :param manager: take the method of ``ClientManager``.
        :param json_outputs: ask for values instead of text.
        :param dumper: writes the arguments as JSON.
        :param loader: reads the result from JSON.
        :param legacy: take the legacy route.
        :raises Refused: the command did not reach iDDS.
        """
        given = {"args": dumper(args) if args else None, "kwargs": dumper(kwargs) if kwargs else None}
        switches = {"manager": manager or None, "json_outputs": json_outputs or None}
        return self._answer(RELAY, {"command_name": command} | given | switches, loader, legacy=legacy)

    def execute(
        self,
        command: str,
        kwargs: Mapping[str, Any] | None = None,
        *,
        json_outputs: bool = False,
        dumper: Dumper = json.dumps,
        loader: Loader | None = None,
        legacy: bool = True,
    ) -> Any:
        """Command a request as :meth:`command` does and return iDDS's answer unopened.

        :param command: what to do.
        :param kwargs: arguments of the command.
        :param json_outputs: ask for values instead of text.
        :param dumper: writes the arguments as JSON.
        :param loader: reads the result from JSON.
        :param legacy: take the legacy route.
        :raises Refused: the server did not pass the command on.
        """
        given = {"kwargs": dumper(kwargs) if kwargs else None, "json_outputs": json_outputs or None}
        return self._answer(EXECUTE, {"command_name": command} | given, loader, legacy=legacy)

    def _answer(self, endpoint: Endpoint, given: Mapping[str, Any], loader: Loader | None, *, legacy: bool) -> Any:
        arguments = {name: value for name, value in given.items() if value is not None}
        envelope = self._send(endpoint, arguments, legacy=legacy)
        # Some commands are answered by a status and a message, which the newer route spreads over the envelope.
        data = [envelope.data, envelope.message] if envelope.message else envelope.data
        return loader(encode(data)) if loader else data

    def _send(self, endpoint: Endpoint, arguments: Mapping[str, Any], *, legacy: bool) -> Envelope:
        if not legacy:
            return self._sender.send(endpoint, arguments)
        try:
            return self._sender.send(replace(endpoint, legacy=True), arguments)
        except InvalidArgument as error:
            if "is forbidden" not in error.server_says:
                raise
            return self._sender.send(endpoint, arguments)


def open_result(endpoint: Endpoint, result: Json) -> Json:
    """Take the value out of iDDS's answer.

    :param endpoint: that it came through.
    :param result: ``[true, value]``, ``[false, message]``, ``{"data", "error", "status"}``, a verdict
        ``{"message", "status"}`` for each request that was commanded, or the value itself.
    :raises PandaError: iDDS says no.
    """
    match result:
        case [True, value]:
            return open_result(endpoint, value)
        case [False, message]:
            raise _failure(endpoint, message)
        case {"data": value, "error": None, "status": 0}:
            return open_result(endpoint, value)
        case {"data": _, "error": message, "status": status}:
            raise _failure(endpoint, message or f"status {status}")
        case [int(status), str(message)] if endpoint is EXECUTE:
            return _verdict(endpoint, {"status": status, "message": message})
        case [[int(), {"message": _, "status": int()}], *_]:
            return [_verdict(endpoint, verdict) for verdict in _verdicts(endpoint, result)]
    return result


def _is_empty(result: Json) -> bool:
    """Whether a look found no request: an empty list, or a table without a row below its rule."""
    if not isinstance(result, str):
        return result in ([], {}, None)
    _, rule, body = result.partition("---")
    return bool(rule) and not body.strip("- \n")


def _failure(endpoint: Endpoint, message: Json) -> PandaError:
    return refusal(endpoint, Envelope(success=False, message=str(message)))


def _verdicts(endpoint: Endpoint, result: Json) -> list[dict[str, Any]]:
    for item in result:
        match item:
            case [int(), {"message": _, "status": int()}]:
                continue
        raise ServerError(f"iDDS answers in another way: {shown(item)}", endpoint=endpoint.path)
    return [verdict for _, verdict in result]


def _verdict(endpoint: Endpoint, verdict: dict[str, Any]) -> str:
    if verdict["status"]:
        raise _failure(endpoint, verdict["message"])
    return str(verdict["message"])


def workflow_objects() -> tuple[Dumper, Loader]:
    """Import what writes and reads the workflow objects of iDDS, for ``dumper`` and ``loader``.

    The loader makes objects of whatever classes a reply names: only for a server that you trust.

    :raises ConfigError: ``idds-common`` is not installed.
    """
    try:
        utils = import_module("idds.common.utils")
    except ImportError as error:
        raise ConfigError("iDDS workflow objects need idds-common.", advice="Install panda-airflow[idds].") from error
    return utils.json_dumps, utils.json_loads
