"""The HTTP face of the embedded server: ``/api``, ``/server/panda``, ``/cache``, ``/auth``, ``/iam``.

Application failures are HTTP 200 with ``success: false``; everything else follows Apache and mod_wsgi.
"""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from panda_airflow.client.endpoint import Endpoint
from panda_airflow.client.models import Envelope
from panda_airflow.devserver.auth.identity import Forbidden, Gate
from panda_airflow.devserver.auth.tokens import CLIENT_ID, ISSUER
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.http.encoding import apache, plain, read_arguments, reply
from panda_airflow.devserver.http.fault_layer import FaultLayer
from panda_airflow.devserver.http.routes import Routes, not_emulated
from panda_airflow.devserver.http.validation import Invalid, validate

log = logging.getLogger(__name__)

LOCAL_NAMES = ("127.0.0.1", "localhost")
METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "TRACE", "PATCH")
LEGACY_LEFT = frozenset(
    {
        "putEventPickingRequest", "put_checkpoint", "delete_checkpoint", "put_file_recovery_request",
        "put_workflow_request",
    }
)  # fmt: skip
"""Methods of ``/server/panda`` that panda-server 1.0.4 still has and that are not emulated."""


@dataclass(frozen=True)
class Frontend:
    """Serves the URLs of a PanDA server.

    :param backend: passed to the handlers.
    :param gate: tells who is calling.
    :param routes: finds endpoint and handler.
    """

    backend: Backend
    gate: Gate
    routes: Routes

    async def api(self, request: Request) -> Response:
        """Answer ``/api/v1/<module>/<method>``, and what is left of ``/server/panda/<method>``."""
        if request.method not in ("GET", "HEAD", "POST", "OPTIONS"):
            return apache(403)
        endpoint = self.routes.find(request.url.path)
        if endpoint is None:
            return _unknown(_method_name(request.url.path))
        try:
            return await self._call(request, endpoint)
        except Forbidden as refused:
            return plain(f"ERROR : {refused}", 403)
        except Invalid as refused:
            return reply(request, Envelope(success=False, message=str(refused)))
        except Exception as error:  # like the server's own entry point: whatever breaks is a 500
            log.debug("%s failed", endpoint.path, exc_info=True)
            return plain(str(error) or repr(error), 500)
        finally:
            await request.close()

    async def _call(self, request: Request, endpoint: Endpoint) -> Response:
        caller = await run_in_threadpool(self.gate.identify, request.headers, request.scope.get("client_certificate"))
        arguments = await read_arguments(request, endpoint)
        if reason := not_emulated(endpoint.path):
            return plain(f"ERROR : {endpoint.path} is not emulated: {reason}", 501)
        act = self._act_unchecked if endpoint.legacy else self._act
        result = await run_in_threadpool(act, endpoint, caller, request.method, arguments)
        return reply(request, result, legacy=endpoint.legacy)

    def _act(
        self, endpoint: Endpoint, caller: Identity | None, method: str, arguments: dict[str, Any]
    ) -> Envelope | str:
        checked = validate(endpoint, caller, method, arguments, self.backend.store.owner_of)
        return self.routes.handlers[endpoint.path](self.backend, caller, **checked)

    def _act_unchecked(
        self, endpoint: Endpoint, caller: Identity | None, _method: str, arguments: dict[str, Any]
    ) -> Envelope | str:
        """Act as the legacy methods do, on arguments of any type; what does not fit is a 500."""
        if caller is None:
            return Envelope(success=False, message="SSL secure connection is required")
        return self.routes.handlers[endpoint.path](self.backend, caller, **arguments)

    async def cache(self, request: Request) -> Response:
        """Serve a file of the cache to anybody."""
        path = (self.backend.cache / request.path_params["name"]).resolve()
        if not (path.is_relative_to(self.backend.cache.resolve()) and path.is_file()):
            return apache(404)
        kind, encoding = mimetypes.guess_type(path.name)
        return FileResponse(path, media_type="application/gzip" if encoding == "gzip" else kind)

    async def auth_config(self, request: Request) -> Response:
        """Tell clients how a VO gets tokens; there is no device flow behind it."""
        vo = request.path_params["vo"]
        if vo.removesuffix(".production") not in self.gate.policy.vos:
            return apache(404)
        url = f"{self.backend.base_url}/iam/.well-known/openid-configuration"
        return JSONResponse(
            {
                "client_secret": "not-secret", "audience": CLIENT_ID, "client_id": CLIENT_ID, "oidc_config_url": url,
                "no_verify": "True", "robot_ids": "", "vo": vo,
            }
        )  # fmt: skip

    async def discovery(self, _request: Request) -> Response:
        """Name the token issuer and where its key is."""
        return JSONResponse({"issuer": ISSUER, "jwks_uri": f"{self.backend.base_url}/iam/jwk"})

    async def key_set(self, _request: Request) -> Response:
        """Publish the key that tokens are checked with."""
        return JSONResponse(await run_in_threadpool(self.gate.issuer.key_set))


def build_app(frontend: Frontend, more: Sequence[Route] = ()) -> ASGIApp:
    """Assemble the ASGI application.

    Names other than this machine's are refused, lest a web page reach it under a name of its own (DNS rebinding).

    :param frontend: serves what a PanDA server serves.
    :param more: routes that a real server does not have.
    """
    routes = [
        *more,
        Route("/api/{path:path}", frontend.api, methods=METHODS),
        Route("/server/panda/{path:path}", frontend.api, methods=["GET", "POST"]),
        Route("/cache/{name:path}", frontend.cache),
        Route("/auth/{vo}_auth_config.json", frontend.auth_config),
        Route("/iam/.well-known/openid-configuration", frontend.discovery),
        Route("/iam/jwk", frontend.key_set),
    ]
    pages: dict[Any, Any] = {404: _not_found, 405: _not_allowed}
    app = FaultLayer(Starlette(routes=routes, exception_handlers=pages), frontend.backend.faults)
    return TrustedHostMiddleware(app, LOCAL_NAMES, www_redirect=False)


async def _not_found(_request: Request, _error: Exception) -> Response:
    return apache(404)


async def _not_allowed(_request: Request, _error: Exception) -> Response:
    return apache(403)


def _unknown(name: str) -> Response:
    if name in LEGACY_LEFT:
        return plain(f"ERROR : the legacy method {name} is not emulated", 501)
    return plain(f"ERROR : method {name} is forbidden", 403)


def _method_name(url_path: str) -> str:
    """Cut the method out of a path of the right length; of others the server makes an empty name."""
    fields = url_path.split("/")
    wanted = 5 if fields[1] == "api" else 4
    return fields[-1] if len(fields) == wanted else ""
