"""Opening the server's reply: from an HTTP status and a body to an accepted envelope or one clear error."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from panda_airflow.client import errors
from panda_airflow.client.endpoint import Endpoint
from panda_airflow.client.models import Envelope, Json, named_task_id

DATETIME_MARKER = "__datetime__"

_REFUSALS: tuple[tuple[str, type[errors.PandaError]], ...] = (
    (r"SSL secure connection is required", errors.CredentialMissing),
    (r"production or pilot role required|not the task owner|permission denied", errors.PermissionDenied),
    (
        r".*not authorized|.*not in authorized users|request \d+ is not owned by|no production|.*has no permission",
        errors.PermissionDenied,
    ),
    (r"database error|failed to register task", errors.NotCarriedOut),
    (r"Database exception while|Failed to retrieve task IDs", errors.NotCarriedOut),
    (r"(?i)(child )?task not found|jediTaskID=\d+ not found|unknown task", errors.NotFound),
    (r"No match requests|request_id .* not found", errors.NotFound),
    (r"no active job|.*PandaID=\d+ (not found|in DB)", errors.NotFound),
    (r"request \d+ is not found|No (parent task|data) found", errors.NotFound),
    (r"Argument error|Type error|expecting (GET|POST), received|.* must be an integer", errors.InvalidArgument),
    (r".* is not a (valid|leave) |.* is not valid JSON|.* must be provided|\w+ is missing", errors.InvalidArgument),
    (r".* is not a command of iDDS|\w+ is unsupported|Parameter .* needs to be|invalid ", errors.InvalidArgument),
    (r"Failed to (parse|deserialize|extract)|ERROR: upload failure", errors.InvalidArgument),
    (r"(?i)command rejected|.*not accepted", errors.WrongState),
    (r"jediTaskID=\d+ is (already queued|in the \w+ state)", errors.DuplicateTask),
)
"""What the server says at the start of a refusal, and which error that is; anything else is ``Refused``."""

_CODES: dict[int, type[errors.PandaError]] = {
    1: errors.ServerError,
    2: errors.NotFound,
    3: errors.PermissionDenied,
    4: errors.WrongState,
}
"""Return codes of commands, for messages that the table above does not know."""


def decode(text: str) -> Json:
    """Read JSON with the server's datetime markers.

    :raises ValueError: the text is not JSON.
    """
    return json.loads(text, object_hook=_restore_datetime)


def encode(value: Json) -> str:
    """Write JSON with the server's datetime markers.

    :raises TypeError: a value has no JSON form.
    :raises ValueError: a number is not finite.
    """
    return json.dumps(value, default=_mark_datetime, allow_nan=False)


def naive_utc(moment: datetime) -> datetime:
    """Give the time as the server's database keeps it; one without a zone is taken for UTC."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _restore_datetime(value: dict[str, Any]) -> Any:
    if len(value) == 1 and DATETIME_MARKER in value:
        return datetime.fromisoformat(value[DATETIME_MARKER])
    return value


def _mark_datetime(value: object) -> dict[str, str]:
    if isinstance(value, datetime):
        return {DATETIME_MARKER: naive_utc(value).isoformat()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def open_reply(
    endpoint: Endpoint, status: int, body: str, headers: Mapping[str, str] = MappingProxyType({})
) -> Envelope:
    """Return the envelope of an accepted request.

    :param status: HTTP status.
    :param body: text of the reply: JSON, or whatever a proxy or a broken server sent instead.
    :param headers: of the reply; ``Retry-After`` and ``Location`` are looked at.
    :raises ConfigError: whatever answered is not a PanDA server.
    :raises AuthError: the credential was not accepted.
    :raises ServerError: the server broke, or the reply is no envelope.
    :raises Refused: the server said no.
    """
    if status != HTTPStatus.OK:
        raise http_error(endpoint.path, status, body, headers)
    envelope = _read(endpoint, body)
    if not endpoint.ok(envelope):
        raise refusal(endpoint, envelope)
    return envelope


def _read(endpoint: Endpoint, body: str) -> Envelope:
    try:
        value = decode(body)
    except ValueError:
        value = _python_repr(body)
    if endpoint.legacy and isinstance(value, list):
        value = {"success": value[0], "data": value[1]} if value[0] else {"success": False, "message": value[1]}
    if not endpoint.enveloped and isinstance(value, str):
        return Envelope(not value.startswith("ERROR"), value, value)
    if not isinstance(value, dict) or "success" not in value:
        says = "the reply is not a PanDA envelope." if body.strip() else "the reply is empty."
        raise errors.ServerError(says, endpoint=endpoint.path, server_says=plain_text(body), advice=_CHECK_URL)
    extra = {name: item for name, item in value.items() if name not in ("success", "message", "data")}
    return Envelope(bool(value["success"]), str(value.get("message") or ""), value.get("data"), extra)


def _python_repr(body: str) -> Any:
    """Read the Python literal that the server answers where it did not understand what the client accepts."""
    try:
        return ast.literal_eval(body)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def refusal(endpoint: Endpoint, envelope: Envelope) -> errors.PandaError:
    """Classify an application failure, which arrives with HTTP status 200."""
    message, code = envelope.message.strip(), envelope.data if isinstance(envelope.data, int) else None
    kind = next((kind for pattern, kind in _REFUSALS if re.match(pattern, message)), None)
    kind = kind or _CODES.get(code or 0, errors.Refused)
    said: dict[str, Any] = {"endpoint": endpoint.path, "server_says": plain_text(message, 1000).rstrip(". ")}
    if issubclass(kind, errors.DuplicateTask):
        return kind("the task name is taken.", code=code, task_id=named_task_id(message), **said)
    if issubclass(kind, errors.PermissionDenied) and re.match(r"production or pilot role|no production", message):
        said["advice"] = _ASK_FOR_ROLE
    if issubclass(kind, errors.Refused):
        return kind("the server refused.", code=code, **said)
    return kind("the server did not carry out the request.", advice=_ADVICE.get(kind, ""), **said)


_ADVICE: dict[type[errors.PandaError], str] = {
    errors.CredentialMissing: "Give a token (PANDA_AUTH=oidc) or a grid proxy (X509_USER_PROXY).",
    errors.NotCarriedOut: "Nothing was registered; the PanDA database may be down, so try again later.",
}

_ASK_FOR_ROLE = (
    "Only the production role may do this, whoever owns the task: be a member of it, and ask for it with production "
    "in the connection, or with a proxy that has it."
)
_CHECK_URL = "Check that the URL, its port and http or https are those of a PanDA server."
_CHECK_TOKEN = "Check the token, its issuer and groups, and the VO (PANDA_AUTH_VO)."  # noqa: S105
_NOT_PANDA = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED,
    HTTPStatus.MISDIRECTED_REQUEST,
)

_HTTP_REFUSALS: tuple[tuple[str, type[errors.PandaError], str], ...] = (
    (r"Token authentication failed.*expired", errors.CredentialExpired, "Renew the token and try again."),
    (r"Token authentication failed", errors.CredentialRefused, _CHECK_TOKEN),
    (
        r"Type not serializable",
        errors.ServerError,
        "The command was carried out; the legacy route can tell what came of it.",
    ),
    (r".* is banned", errors.CredentialRefused, "Ask the people who run the server why."),
    (
        r"method .*is forbidden",
        errors.InvalidArgument,
        "Check the versions of client and server.",
    ),
)


def http_error(what: str, status: int, body: str, headers: Mapping[str, str]) -> errors.PandaError:
    """Classify a reply whose HTTP status alone says that it is no envelope.

    :param what: the endpoint, for the message.
    """
    text = plain_text(body).removeprefix("ERROR : ")
    kind, advice = _kind_of_status(status, text)
    if 300 <= status < 400:  # noqa: PLR2004 - the class of redirections
        text = f"go to {headers.get('Location', 'another address')}"
    said: dict[str, Any] = {"endpoint": what, "server_says": text.rstrip(". "), "advice": advice}
    if issubclass(kind, errors.ServerError):
        return kind(f"HTTP {status}.", retry_after=_seconds(headers.get("Retry-After", "")), **said)
    if issubclass(kind, errors.InvalidArgument):
        said["hopeless"] = "forbidden" not in text  # as one process of a server may say that is being replaced
    return kind(f"HTTP {status}.", **said)


def _kind_of_status(status: int, text: str) -> tuple[type[errors.PandaError], str]:
    for pattern, kind, advice in _HTTP_REFUSALS:
        if re.match(pattern, text):
            return kind, advice
    if status == HTTPStatus.UNAUTHORIZED:
        return errors.CredentialRefused, _CHECK_TOKEN
    if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_URI_TOO_LONG):
        return errors.InvalidArgument, "Ask for less at once."
    if status in _NOT_PANDA or 300 <= status < 400 or (status == 403 and "Forbidden" in text):  # noqa: PLR2004
        return errors.ConfigError, _CHECK_URL
    return errors.ServerError, "Try again later."


def _seconds(retry_after: str) -> float | None:
    """Read a ``Retry-After``, which is a number of seconds or a date."""
    with suppress(ValueError):
        return max(0.0, float(retry_after))
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def plain_text(body: str, limit: int = 300) -> str:
    """Reduce a body to one line for people: without HTML tags, without the frames of a traceback.

    :param limit: longest result, in characters.
    """
    text = body
    if body.lstrip().startswith("<"):
        parser = _Text()
        parser.feed(body)
        text = " ".join(parser.parts)
    head, traceback, frames = text.partition("Traceback (most recent call last):")
    if traceback:
        text = f"{head} {frames.strip().splitlines()[-1] if frames.strip() else ''}"
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."
