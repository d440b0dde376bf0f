"""The layer that spoils requests on demand, between the socket and the application."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from panda_airflow.devserver.faults import Fault, Faults
from panda_airflow.devserver.http.encoding import apache

_TRACEBACK = """Traceback (most recent call last):
  File "panda.py", line 371, in application
    exec_result = tmp_method(*param_list, **params)
RuntimeError: could not get a connection from the pool
"""


@dataclass(frozen=True)
class FaultLayer:
    """An ASGI application around another one.

    :param app: answers the requests that nothing is wrong with.
    :param faults: what to spoil.
    """

    app: ASGIApp
    faults: Faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, well or badly."""
        control = scope["path"].startswith("/devserver/")
        fault = None if control else self.faults.take(_endpoint(scope["path"]))
        if fault is None:
            await self.app(scope, receive, send)
        elif fault.kind == "refuse":
            wait = {} if fault.retry_after is None else {"retry-after": f"{fault.retry_after:g}"}
            await apache(fault.status, wait)(scope, receive, send)
        elif fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
            await self.app(scope, receive, send)
        elif fault.kind == "drop_before":
            await _hang_up(scope, receive)
        else:
            await self._spoil(fault, scope, receive, send)

    async def _spoil(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        answer: list[Message] = []
        await self.app(scope, receive, _into(answer))
        if fault.kind == "drop_after":
            await _hang_up(scope, receive)
        else:
            await _nonsense(fault, answer)(scope, receive, send)


def _endpoint(url_path: str) -> str:
    return url_path.removeprefix("/api/v1/").lstrip("/")


def _into(answer: list[Message]) -> Send:
    async def keep(message: Message) -> None:
        answer.append(message)

    return keep


def _nonsense(fault: Fault, answer: list[Message]) -> Response:
    if fault.body == "html":
        return Response("<html><body><h1>It works!</h1></body></html>", headers={"content-type": "text/html"})
    if fault.body == "traceback":
        return Response(_TRACEBACK, headers={"content-type": "text/plain"})
    body = b"".join(message.get("body", b"") for message in answer)
    return Response(body[: len(body) // 2], headers={"content-type": "text/plain"})


async def _hang_up(scope: Scope, receive: Receive) -> None:
    scope["transport"].abort()
    while (await receive())["type"] != "http.disconnect":
        pass
