"""Step that commands iDDS, the workflow service behind PanDA."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from panda_airflow.client import UsageError
from panda_airflow.client.models import Json
from panda_airflow.client.status import check_statuses
from panda_airflow.operators.polling import PandaPollOperator
from panda_airflow.steps.base import Context
from panda_airflow.steps.once import at_most_once
from panda_airflow.waiting.poll_checks import request_plan


class PandaIddsCommandOperator(PandaPollOperator):
    """Call a method of the iDDS client on the PanDA server, as this identity, and keep its value in XCom.

    A method that only reads, ``get...`` or ``ping``, is called again by a retry; any other at most once.

    :param command: the method, such as ``abort`` or ``get_requests``.
    :param command_args: its positional arguments.
    :param command_kwargs: its named arguments.
    :param manager: take the method of iDDS's ``ClientManager``, not of its ``Client``.
    :param json_outputs: ask a manager for values instead of formatted text.
    :param wait_for_completion: afterwards wait for the request that ``request_id`` among the named arguments names,
        or that the command returned.
    :param statuses: statuses of the request that end the wait well.
    :param request_name: of a ``submit``: the name that the workflow gives its request. Where the answer is lost, the
        step looks for a newer request of this name; give each run a name of its own. Without it, a person has to look.

    The other parameters are those of :class:`~panda_airflow.operators.polling.PandaPollOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "command", "command_args", "command_kwargs", "request_name")
    template_fields_renderers = {"command_args": "json", "command_kwargs": "json"}  # noqa: RUF012 - declared so by Airflow

    def __init__(
        self,
        *,
        command: str,
        command_args: Sequence[Json] = (),
        command_kwargs: Mapping[str, Json] | None = None,
        manager: bool = False,
        json_outputs: bool = False,
        wait_for_completion: bool = False,
        statuses: Sequence[str] = ("Finished",),
        request_name: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(wait_for_completion=wait_for_completion, **kwargs)
        self.command = command
        self.command_args = command_args
        self.command_kwargs = command_kwargs or {}
        self.manager = manager
        self.json_outputs = json_outputs
        self.request_name = request_name
        self.statuses = check_statuses(statuses, f"statuses of {self.task_id}", "request")

    def begin(self, context: Context) -> Json:
        """Give the command, then wait for its request if that is wanted."""
        if self.command.startswith(("get", "ping")):
            value = self._call()
        else:
            value = at_most_once(
                self,
                context,
                f"the iDDS command {self.command}",
                self._call,
                self._newest if self.request_name else None,
            )
        if not self.wait_for_completion:
            return value
        request = self.command_kwargs.get("request_id", value)
        if not (isinstance(request, int) or (isinstance(request, str) and request.isdigit())):
            raise UsageError(f"the iDDS command {self.command} names no request to wait for, but {request!r:.100}.")
        return self.follow(context, request_plan(int(request), self.statuses, time.time(), self.poll_interval))

    def _newest(self) -> int:
        """Return the newest request of the name, or 0; iDDS reads a ``*`` in it as a pattern."""
        found = self.client.idds.call("get_request_id_by_name", manager=True, json_outputs=True, name=self.request_name)
        return int((found or {}).get(self.request_name, 0))

    def _call(self) -> Json:
        return self.client.idds.call(
            self.command,
            *self.command_args,
            manager=self.manager,
            json_outputs=self.json_outputs,
            **self.command_kwargs,
        )
