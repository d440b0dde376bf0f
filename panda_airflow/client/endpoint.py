"""One server method, written once: the typed signature of its stub is its specification.

A stub has a signature and a docstring and no body::

    @endpoint("POST", "task/kill", idempotent=True)
    def kill(self, task_id: int, broadcast: bool = False) -> CommandReply:
        '''Ask PanDA to kill a task.'''

The decorator registers an :class:`Endpoint` under its path and turns the stub into the caller: arguments are
bound, those that were not given are left out, the request is sent and the reply parsed into the return type.
The embedded server's route table is the same :data:`REGISTRY`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, update_wrapper
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, get_type_hints

from panda_airflow.client.errors import ServerError
from panda_airflow.client.models import Envelope, parse

P = ParamSpec("P")
R = TypeVar("R")
Arguments = Mapping[str, Any]


def says_success(envelope: Envelope) -> bool:
    """Tell success from failure by the envelope's own flag, which is true to most methods."""
    return envelope.success


@dataclass(frozen=True)
class Endpoint:
    """A method of the PanDA server, as ``/api/v1/<path>``.

    :param method: ``GET`` (arguments in the query) or ``POST`` (arguments as a JSON object).
    :param path: ``module/method``.
    :param stub: the typed function that specifies parameters, defaults and return type.
    :param idempotent: repeating the request after an unknown outcome does no harm.
    :param identity: the server wants to know who is calling.
    :param production: the server wants the production role.
    :param owner: the server wants the owner of the task, or the production role.
    :param enveloped: the reply is an envelope, and not a bare JSON string.
    :param ok: tells from the envelope whether the request was accepted.
    :param check: looks at the arguments before anything is sent; raises ``UsageError``.
    :param upload: name of the multipart field whose argument is a file, for the methods that take one.
    :param same_task: the answer is about the task that was asked for.
    :param legacy: go through ``/server/panda``, which wants gzipped JSON and answers ``[success, value]``.
    """

    method: Literal["GET", "POST"]
    path: str
    stub: Callable[..., Any]
    idempotent: bool
    identity: bool = True
    production: bool = False
    owner: bool = False
    enveloped: bool = True
    ok: Callable[[Envelope], bool] = says_success
    check: Callable[[Arguments], None] | None = None
    upload: str | None = None
    same_task: bool = True
    legacy: bool = False

    @property
    def url_path(self) -> str:
        """Where the server has the method, below its URL."""
        return f"/server/panda/{self.path.split('/')[1]}" if self.legacy else f"/api/v1/{self.path}"

    @cached_property
    def signature(self) -> inspect.Signature:
        """The parameters that go over the wire, with the server's names, order and defaults."""
        bound_to_api = inspect.signature(self.stub)
        return bound_to_api.replace(parameters=list(bound_to_api.parameters.values())[1:])

    @cached_property
    def types(self) -> dict[str, Any]:
        """Resolved annotations by parameter name; ``return`` names the result."""
        return get_type_hints(self.stub)

    def parse(self, envelope: Envelope) -> Any:
        """Turn an accepted envelope into the stub's return type."""
        return parse(self.types["return"], envelope, self.path)


def _refuse_another_task(spec: Endpoint, arguments: Arguments, result: object) -> None:
    asked, told = arguments.get("task_id"), getattr(result, "task_id", None)
    if asked is not None and told is not None and str(told) != str(asked):
        raise ServerError(f"the answer is about task {told}, not about {asked}.", endpoint=spec.path)


REGISTRY: dict[str, Endpoint] = {}
"""Every endpoint by its path, filled as the modules of ``client.api`` are imported."""


class Sender(Protocol):
    """Whoever can carry a call to the server."""

    def send(self, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        """Send one request and return the accepted envelope."""


class ApiModule:
    """The methods of one server module.

    :param sender: carries the calls.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender


def endpoint(
    method: Literal["GET", "POST"],
    path: str,
    *,
    idempotent: bool,
    identity: bool = True,
    production: bool = False,
    owner: bool = False,
    enveloped: bool = True,
    ok: Callable[[Envelope], bool] = says_success,
    check: Callable[[Arguments], None] | None = None,
    upload: str | None = None,
    same_task: bool = True,
) -> Callable[[Callable[Concatenate[Any, P], R]], Callable[Concatenate[Any, P], R]]:
    """Register a stub as an endpoint and make it call the server; see :class:`Endpoint` for the parameters."""

    def decorate(stub: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
        roles = (identity, production, owner)
        spec = Endpoint(method, path, stub, idempotent, *roles, enveloped, ok, check, upload, same_task)
        REGISTRY[path] = spec

        def call(self: ApiModule, /, *args: P.args, **kwargs: P.kwargs) -> R:
            arguments = spec.signature.bind(*args, **kwargs).arguments
            if spec.check:
                spec.check(arguments)
            result: R = spec.parse(self._sender.send(spec, arguments))
            if spec.same_task:
                _refuse_another_task(spec, arguments, result)
            return result

        update_wrapper(call, stub)
        return call

    return decorate
