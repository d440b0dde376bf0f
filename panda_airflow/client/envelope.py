"""Opening the server's reply: from an HTTP status and a body to an accepted envelope or one clear error."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from datetime import datetime
from html.parser import HTMLParser
from typing import Any

from panda_airflow.client import errors
from panda_airflow.client.endpoint import Endpoint
from panda_airflow.client.models import Envelope, Json, named_task_id

DATETIME_MARKER = "__datetime__"

_REFUSALS: tuple[tuple[str, type[errors.PandaError]], ...] = (
    (r"SSL secure connection is required", errors.CredentialMissing),
    (r"production or pilot role required|not the task owner|permission denied", errors.PermissionDenied),
    (r"database error|failed to register task", errors.ServerError),
    (r"(?i)task not found|jediTaskID=\d+ not found|unknown task", errors.NotFound),
    (r"Argument error|Type error|expecting (GET|POST), received|.* must be an integer", errors.InvalidArgument),
    (r"Command rejected|.*not accepted", errors.WrongState),
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


def _restore_datetime(value: dict[str, Any]) -> Any:
    if value.keys() == {DATETIME_MARKER}:
        return datetime.fromisoformat(value[DATETIME_MARKER])
    return value


def _mark_datetime(value: object) -> dict[str, str]:
    if isinstance(value, datetime):
        return {DATETIME_MARKER: value.isoformat()}
    raise TypeError(f"{type(value).__name__} has no JSON form")


def open_reply(endpoint: Endpoint, status: int, body: str) -> Envelope:
    """Return the envelope of an accepted request.

    :param status: HTTP status.
    :param body: text of the reply: JSON, or whatever a proxy or a broken server sent instead.
    :raises AuthError: the credential was not accepted.
    :raises ServerError: the server broke, or the reply is no envelope.
    :raises Refused: the server said no.
    """
    if status != 200:  # noqa: PLR2004 - the only status that carries an envelope
        raise _http_error(endpoint, status, plain_text(body))
    envelope = _read(endpoint, body)
    if not endpoint.ok(envelope):
        raise refusal(endpoint, envelope)
    return envelope


def _read(endpoint: Endpoint, body: str) -> Envelope:
    try:
        value = decode(body)
    except ValueError:
        value = _python_repr(body)
    if not isinstance(value, dict) or "success" not in value:
        raise errors.ServerError(
            "the reply is not a PanDA envelope.",
            endpoint=endpoint.path,
            server_says=plain_text(body),
            advice="Check that the URL is that of a PanDA server.",
        )
    return Envelope(bool(value["success"]), str(value.get("message") or ""), value.get("data"))


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
    said: dict[str, Any] = {"endpoint": endpoint.path, "server_says": message.rstrip(". ")}
    if issubclass(kind, errors.DuplicateTask):
        return kind("the task name is taken.", code=code, task_id=named_task_id(message), **said)
    if issubclass(kind, errors.Refused):
        return kind("the server refused.", code=code, **said)
    return kind("the server did not carry out the request.", advice=_ADVICE.get(kind, ""), **said)


_ADVICE: dict[type[errors.PandaError], str] = {
    errors.CredentialMissing: "Give a token (PANDA_AUTH=oidc) or a grid proxy (X509_USER_PROXY).",
    errors.ServerError: "Nothing was registered; the PanDA database may be down, so try again later.",
    errors.CredentialExpired: "Renew the token and try again.",
    errors.CredentialRefused: "Check the token, its issuer and groups, and the VO (PANDA_AUTH_VO).",
}

_HTTP_REFUSALS: tuple[tuple[str, type[errors.PandaError]], ...] = (
    (r"Token authentication failed.*expired", errors.CredentialExpired),
    (r"Token authentication failed|.*is banned", errors.CredentialRefused),
    (r"method .* is forbidden", errors.InvalidArgument),
)


def _http_error(endpoint: Endpoint, status: int, text: str) -> errors.PandaError:
    said: dict[str, Any] = {"endpoint": endpoint.path, "server_says": text.removeprefix("ERROR : ")}
    for pattern, kind in _HTTP_REFUSALS:
        if re.match(pattern, said["server_says"]):
            return kind(f"HTTP {status}.", advice=_ADVICE.get(kind, ""), **said)
    if status == 401:  # noqa: PLR2004 - what a proxy in front of the server answers
        return errors.CredentialRefused("HTTP 401.", advice=_ADVICE[errors.CredentialRefused], **said)
    if status in (404, 405) or 300 <= status < 400 or (status == 403 and "Forbidden" in text):  # noqa: PLR2004
        return errors.ConfigError(f"HTTP {status}.", advice="Check that the URL is that of a PanDA server.", **said)
    return errors.ServerError(f"HTTP {status}.", advice="Try again later.", **said)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.handle_data: Callable[[str], None] = self.parts.append


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
