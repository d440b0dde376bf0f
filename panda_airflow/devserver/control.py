"""Local control of a running embedded server, for tests and tools in other processes.

``GET /devserver/state`` tells URLs, files and faults. ``POST /devserver/faults`` takes the parameters of
``Faults.inject`` as a JSON object, ``DELETE /devserver/faults`` clears them. ``POST /devserver/token`` and
``POST /devserver/proxy`` take the parameters of ``DevServer.token`` and ``DevServer.proxy`` and answer
``{"token": ...}`` and ``{"path": ...}``. Whoever can reach the server may use it: it listens on this machine only,
and every identity it knows is made up.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from panda_airflow.client.errors import UsageError
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.certificates import Authority
from panda_airflow.devserver.tokens import TokenIssuer


@dataclass(frozen=True)
class Control:
    """Serves ``/devserver/``.

    :param backend: state to tell, faults to set.
    :param issuer: of tokens.
    :param authority: of proxies.
    """

    backend: Backend
    issuer: TokenIssuer
    authority: Authority

    def routes(self) -> list[Route]:
        """List the URLs."""
        return [
            Route("/devserver/state", self.state),
            Route("/devserver/faults", self.faults, methods=["POST", "DELETE"]),
            Route("/devserver/token", self.token, methods=["POST"]),
            Route("/devserver/proxy", self.proxy, methods=["POST"]),
        ]

    async def state(self, _request: Request) -> Response:
        """Tell URLs, files and faults."""
        return JSONResponse(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "url": self.backend.base_url,
            "url_ssl": self.backend.secure_url,
            "root": str(self.backend.root),
            "ca_file": str(self.authority.ca_file),
            "faults": self.backend.faults.describe(),
        }

    async def faults(self, request: Request) -> Response:
        """Inject a fault, or clear them all."""
        if request.method == "DELETE":
            self.backend.faults.clear()
            return JSONResponse(self._state())
        return await _with_arguments(request, self._inject)

    def _inject(self, **arguments: Any) -> dict[str, Any]:
        self.backend.faults.inject(**arguments)
        return self._state()

    async def token(self, request: Request) -> Response:
        """Issue a token."""
        return await _with_arguments(request, lambda **given: {"token": self.issuer.token(**given)})

    async def proxy(self, request: Request) -> Response:
        """Issue a grid proxy."""
        return await _with_arguments(request, lambda **given: {"path": str(self.authority.proxy(**given))})


async def _with_arguments(request: Request, act: Callable[..., dict[str, Any]]) -> Response:
    try:
        return JSONResponse(act(**json.loads(await request.body() or b"{}")))
    except (UsageError, TypeError, ValueError) as error:
        return JSONResponse({"error": str(error)}, 400)
