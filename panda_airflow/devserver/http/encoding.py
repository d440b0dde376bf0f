"""Requests into arguments and envelopes into replies, with the habits of mod_wsgi and Apache."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from panda_airflow.client.endpoint import Endpoint
from panda_airflow.client.http.envelope import encode
from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import FileStorage

JSON = "application/json"

_APACHE = {
    403: ("Forbidden", "You don't have permission to access this resource."),
    404: ("Not Found", "The requested URL was not found on this server."),
    429: ("Too Many Requests", "Please slow down."),
    500: ("Internal Server Error", "The server encountered an internal error."),
    502: ("Bad Gateway", "The proxy server received an invalid response from an upstream server."),
    503: ("Service Unavailable", "The server is temporarily unable to service your request."),
}
_PAGE = """<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.01//EN" "http://www.w3.org/TR/html4/strict.dtd">
<html><head>
<title>{status} {title}</title>
</head><body>
<h1>{title}</h1>
<p>{text}</p>
</body></html>
"""


class BadBody(ValueError):
    """The body is not what its headers promise."""


def apache(status: int, headers: dict[str, str] | None = None) -> Response:
    """Make one of Apache's own pages.

    :param headers: to add.
    """
    title, text = _APACHE.get(status, ("Error", "Something went wrong."))
    page = _PAGE.format(status=status, title=title, text=text)
    return Response(page, status, {"content-type": "text/html; charset=iso-8859-1"} | (headers or {}))


def plain(text: str, status: int = 200) -> Response:
    """Make a reply as mod_wsgi sends it: always ``text/plain``, in chunks, without a length."""
    response = Response(text, status, {"content-type": "text/plain"})
    del response.headers["content-length"]
    return response


def reply(request: Request, result: Envelope | str, *, legacy: bool = False) -> Response:
    """Write a result as JSON if the request says exactly so, otherwise as Python prints it.

    :param legacy: write ``[success, data or message]``, always as JSON.
    """
    value: Any = asdict(result) if isinstance(result, Envelope) else result
    if isinstance(result, Envelope):
        value |= value.pop("extra")
    if legacy:
        return plain(encode([True, value["data"]] if value["success"] else [False, value["message"]]))
    if JSON in (request.headers.get("accept"), request.headers.get("content-type")):
        return plain(encode(value))
    return plain(str(value))


async def read_arguments(request: Request, endpoint: Endpoint) -> dict[str, Any]:
    """Read the arguments of a request: a query, a JSON object, or a form that may hold files.

    :raises BadBody: a JSON body that is none, or no object.
    :raises OSError: a body that claims to be gzip.
    """
    if request.method in ("GET", "HEAD"):
        return _query(request.url.query)
    if "content-length" not in request.headers:
        return {}
    if request.headers.get("content-type") == JSON:
        gzipped = endpoint.legacy or request.headers.get("content-encoding") == "gzip"
        return _json(await request.body(), endpoint, gzipped=gzipped)
    return _form(await _read_form(request), int(request.headers["content-length"]))


def _query(text: str) -> dict[str, Any]:
    """Collect a query; a key that is repeated becomes a list."""
    values: dict[str, list[str]] = {}
    for key, value in parse_qsl(text, keep_blank_values=True):
        values.setdefault(key, []).append(value)
    return {key: found[0] if len(found) == 1 else found for key, found in values.items()}


def _json(body: bytes, endpoint: Endpoint, *, gzipped: bool) -> dict[str, Any]:
    try:
        value = json.loads(gzip.decompress(body) if gzipped else body)
    except json.JSONDecodeError as error:
        raise BadBody(f"ERROR : received invalid JSON : {error}") from error
    if not isinstance(value, dict):
        module, _, name = endpoint.path.partition("/")
        raise BadBody(
            f"pandaserver.api.v1.{module}_api.{name}() argument after ** must be a mapping, not {type(value).__name__}"
        )
    return value


async def _read_form(request: Request) -> FormData:
    try:
        return await request.form()
    except HTTPException:
        # A form that cannot be read counts as empty.
        return FormData()


def _form(form: FormData, content_length: int) -> dict[str, Any]:
    return {
        key: FileStorage(value.filename or "", value.file, content_length) if isinstance(value, UploadFile) else value
        for key, value in reversed(form.multi_items())
    }
