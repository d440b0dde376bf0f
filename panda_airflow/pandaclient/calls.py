"""From a function of the reference to a request, and from the reply to the tuple that the reference promises.

A function has a signature and a docstring and no body; its row says what becomes of them::

    @calls("task/kill", verdict, task_id="jediTaskID")
    def killTask(jediTaskID: int, verbose: bool = False) -> Answer:
        '''Kill a task.'''
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, ParamSpec

from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.errors import PandaError, ServerError, UsageError
from panda_airflow.client.models import Envelope
from panda_airflow.client.records import ODD
from panda_airflow.client.session import PandaClient
from panda_airflow.pandaclient.servers import session

log = logging.getLogger(__name__)

P = ParamSpec("P")
Answer = tuple[int, Any]
"""Status and output: 0 and what the server answered, 255 and ``None`` or a message where the call failed."""
Given = Mapping[str, Any]
"""The arguments of a call by the names of the reference."""
Source = str | Callable[[Given], Any]
"""Where the value of a server's parameter comes from: an argument, or something made of several."""
Shape = Callable[[Envelope, Given], Answer]

EC_Failed = 255


@dataclass(frozen=True)
class Row:
    """What becomes of a function of the reference.

    :param endpoint: the server method, or its path in the registry.
    :param shape: makes the answer of the envelope.
    :param sources: where the server's parameters come from.
    :param failed: the answer where the server cannot be asked.
    """

    endpoint: str | Endpoint
    shape: Shape
    sources: Mapping[str, Source]
    failed: Callable[[PandaError], Answer]

    @property
    def path(self) -> str:
        """The server method as ``module/method``."""
        return self.endpoint if isinstance(self.endpoint, str) else self.endpoint.path

    def ask(self, given: Given) -> Answer:
        """Make the call."""
        return attempt(lambda client: self._ask(client, given), self.failed)

    def _ask(self, client: PandaClient, given: Given) -> Answer:
        arguments = {name: _value(source, given) for name, source in self.sources.items()}
        envelope = request(client, self.endpoint, arguments)
        if given.get("verbose"):
            tell(f"{client.config.server} {self.path}: success={envelope.success} {envelope.message}")
        return self.answer(envelope, given)

    def answer(self, envelope: Envelope, given: Given) -> Answer:
        """Make the answer of the envelope.

        :raises ServerError: it is of another shape.
        """
        try:
            return self.shape(envelope, given)
        except PandaError:
            raise
        except ODD as wrong:
            raise ServerError(f"the reply has another shape: {wrong}.", endpoint=self.path) from wrong


TABLE: dict[str, Row] = {}
"""The functions of the reference by name."""


def applied(function: Callable[[Any], Any], value: Any) -> Any:
    """Apply a function of the caller's; what goes wrong in it is the caller's to mend.

    :raises UsageError: it cannot handle the value.
    """
    try:
        return function(value)
    except (ValueError, TypeError, LookupError, AttributeError, ImportError) as error:
        name = getattr(function, "__name__", "the function")
        raise UsageError(f"{name} cannot handle the {type(value).__name__}: {error}.") from error


def tell(text: str) -> None:
    """Show a verbose message on standard output, as the reference does."""
    sys.stdout.write(f"{text}\n")


def _value(source: Source, given: Given) -> Any:
    return given[source] if isinstance(source, str) else source(given)


def _any_verdict(envelope: Envelope) -> bool:
    """Let every envelope through: the reference hands the server's refusals to the caller."""
    return True


def request(client: PandaClient, endpoint: str | Endpoint, arguments: Mapping[str, Any]) -> Envelope:
    """Send a request and return its envelope, whatever the verdict.

    :param endpoint: the server method, or its path in the registry.
    :param arguments: by the server's names; ``None`` is left out where the server does not insist.
    :raises PandaError: the server cannot be asked.
    """
    spec = REGISTRY[endpoint] if isinstance(endpoint, str) else endpoint
    parameters = spec.signature.parameters
    said = {k: v for k, v in arguments.items() if v is not None or parameters[k].default is inspect.Parameter.empty}
    return client.send(replace(spec, ok=_any_verdict), said)


def attempt(do: Callable[[PandaClient], Answer], failed: Callable[[PandaError], Answer], **overrides: Any) -> Answer:
    """Do something with the client for the present configuration; the one place where errors become tuples.

    :param do: what to do.
    :param failed: the answer for an error.
    :param overrides: settings that win over the environment.
    """
    try:
        return do(session(**overrides))
    except PandaError as error:
        log.error("%s", error)  # noqa: TRY400 - the error says it all
        return failed(error)


def calls(
    endpoint: str | Endpoint, shape: Shape, failed: Callable[[PandaError], Answer] | None = None, /, **sources: Source
) -> Callable[[Callable[P, Answer]], Callable[P, Answer]]:
    """Make a stub call the server; see :class:`Row` for the parameters."""
    row = Row(endpoint, shape, sources, failed or nothing)

    def decorate(stub: Callable[P, Answer]) -> Callable[P, Answer]:
        TABLE[stub.__name__] = row
        signature = inspect.signature(stub)

        @wraps(stub)
        def function(*args: P.args, **kwargs: P.kwargs) -> Answer:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return row.ask(bound.arguments)

        return function

    return decorate


def nothing(error: PandaError) -> Answer:
    """Answer a failure with no words."""
    return EC_Failed, None


def words(error: PandaError) -> Answer:
    """Answer a failure with what went wrong and what to do."""
    return EC_Failed, str(error)


def data(envelope: Envelope, given: Given) -> Answer:
    """Answer with the data; a refusal is a failure."""
    return (0, envelope.data) if envelope.success else (EC_Failed, None)


def verdict(envelope: Envelope, given: Given) -> Answer:
    """Answer with the server's verdict, and the data or the message."""
    return 0, (envelope.success, envelope.data if envelope.success else envelope.message)


def code(envelope: Envelope, given: Given) -> Answer:
    """Answer with the return code and the message, in success and refusal alike."""
    return 0, (envelope.data, envelope.message)


def message(envelope: Envelope, given: Given) -> Answer:
    """Answer with the message."""
    return 0, envelope.message
