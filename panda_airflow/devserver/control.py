"""Local control of a running embedded server, for tests and tools in other processes.

``GET /devserver/state`` tells URLs, files and faults. ``POST /devserver/faults`` takes the parameters of
``Faults.inject`` as a JSON object, ``DELETE /devserver/faults`` clears them. ``POST /devserver/token`` and
``POST /devserver/proxy`` take the parameters of ``DevServer.token`` and ``DevServer.proxy`` and answer
``{"token": ...}`` and ``{"path": ...}``. Every request needs the secret that is kept in ``control.secret`` of the
server's root directory, as ``Authorization: Bearer <secret>``: a token is enough to run commands as the user who
started the server.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from panda_airflow.client.errors import UsageError
from panda_airflow.devserver.auth.certificates import Authority, write_private
from panda_airflow.devserver.auth.tokens import TokenIssuer
from panda_airflow.devserver.backend import Backend

Serve = Callable[[Request], Awaitable[Response]]


def control_secret(root: Path) -> str:
    """Read the secret that whoever controls a server has to know; made on first use.

    :param root: the server's root directory.
    """
    path = root / "control.secret"
    if not path.exists():
        write_private(path, secrets.token_urlsafe(32).encode())
    return path.read_text()


@dataclass(frozen=True)
class Control:
    """Serves ``/devserver/``.

    :param backend: state to tell, faults to set.
    :param issuer: of tokens.
    :param authority: of proxies.
    :param secret: without which nothing is told or done.
    """

    backend: Backend
    issuer: TokenIssuer
    authority: Authority
    secret: str

    def routes(self) -> list[Route]:
        """List the URLs."""
        return [
            Route("/devserver/state", self._guarded(self.state)),
            Route("/devserver/faults", self._guarded(self.faults), methods=["POST", "DELETE"]),
            Route("/devserver/token", self._guarded(self.token), methods=["POST"]),
            Route("/devserver/proxy", self._guarded(self.proxy), methods=["POST"]),
        ]

    def _guarded(self, serve: Serve) -> Serve:
        expected = f"Bearer {self.secret}".encode()

        async def guard(request: Request) -> Response:
            if secrets.compare_digest(request.headers.get("authorization", "").encode(), expected):
                return await serve(request)
            error = "this needs the header Authorization: Bearer <what control.secret in the root directory holds>"
            return JSONResponse({"error": error}, 403)

        return guard

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
