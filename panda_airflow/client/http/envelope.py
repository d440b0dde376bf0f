"""Opening the server's reply: from an HTTP status and a body to an accepted envelope or one clear error."""

from __future__ import annotations

import ast
import json
import math
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

_LONGEST_REPR = 1 << 20
"""Characters of a Python literal that are read; a larger one takes long."""

_CODES: dict[int, type[errors.PandaError]] = {
    1: errors.ServerError,
    2: errors.NotFound,
    3: errors.PermissionDenied,
    4: errors.WrongState,
}
"""Return codes of commands, for messages that the table above does not know."""


DEEPEST = 100
"""Levels of lists and objects in a reply, at most: what reads or writes values calls itself for each."""

_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_MAY_BE_UNFIT = re.compile(r"\\(?:[bfr]|u(?:00[0189]|007[fF]|[dD][89a-fA-F]))")
"""Escapes that stand for such characters; others are no printable characters of the reply itself."""


def decode(text: str) -> Json:
    """Read JSON with the server's datetime markers.

    :raises ValueError: the text is not JSON, or nested too deeply.
    """
    try:
        return json.loads(text, object_hook=_restore_datetime, parse_constant=_no_number, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def fit(text: str) -> str:
    """Replace what no log, terminal or database takes: control characters and halves of surrogate pairs.

    Line feeds and tabs stay.
    """
    return _UNFIT.sub("\ufffd", text.replace("\r\n", "\n"))


def _fit(value: Json) -> Json:
    if isinstance(value, str):
        return fit(value)
    if isinstance(value, dict):
        return {fit(key): _fit(item) for key, item in value.items()}
    return [_fit(item) for item in value] if isinstance(value, list) else value


def _is_deep(value: Json) -> bool:
    """Whether a value is nested more deeply than ``DEEPEST`` levels; level by level, for it may be deep indeed."""
    level = [value]
    for _ in range(DEEPEST + 1):
        inner = (item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list))
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return False
    return True


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
    """Read a marked time; a mark that holds none stays as it is, for whoever wants a time there."""
    if len(value) == 1 and DATETIME_MARKER in value:
        with suppress(TypeError, ValueError, OverflowError):
            return naive_utc(datetime.fromisoformat(value[DATETIME_MARKER]))
    return value


def _no_number(_: str) -> None:
    """Read ``NaN`` or ``Infinity``, which are no JSON and which no database takes, as nothing."""


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


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
    value = _value(body)
    if endpoint.legacy:
        value = _from_legacy(value)
    if not endpoint.enveloped and isinstance(value, str):
        return Envelope(not value.startswith("ERROR"), value, value)
    if not isinstance(value, dict) or not isinstance(value.get("success"), bool):
        says = "the reply is not a PanDA envelope." if body.strip() else "the reply is empty."
        raise errors.ServerError(says, endpoint=endpoint.path, server_says=plain_text(body), advice=_CHECK_URL)
    extra = {name: item for name, item in value.items() if name not in ("success", "message", "data")}
    return Envelope(value["success"], str(value.get("message") or ""), value.get("data"), extra)


def _value(body: str) -> Json:
    """Read the reply, its text made fit; what cannot be read, or is too deep to be used, is nothing."""
    try:
        value, sure = decode(body), body.isprintable() and not _MAY_BE_UNFIT.search(body)
    except ValueError:
        value, sure = _python_repr(body), False
    if body.count("[") + body.count("{") > DEEPEST and _is_deep(value):
        return None
    return value if sure else _fit(value)


def _from_legacy(value: Json) -> Json:
    match value:
        case [True, data, *_]:
            return {"success": True, "data": data}
        case [False, message, *_]:
            return {"success": False, "message": message}
    return value


def _python_repr(body: str) -> Any:
    """Read the Python literal that the server answers where it did not understand what the client accepts."""
    if len(body) > _LONGEST_REPR or body[:1] not in ("{", "["):
        return None
    try:
        return decode(json.dumps(ast.literal_eval(body)))  # what JSON cannot express is no reply
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def refusal(endpoint: Endpoint, envelope: Envelope) -> errors.PandaError:
    """Classify an application failure, which arrives with HTTP status 200."""
    message, code = envelope.message.strip(), envelope.data if type(envelope.data) is int else None
    kind = next((kind for pattern, kind in _REFUSALS if re.match(pattern, message)), None)
    kind = kind or _CODES.get(code or 0, errors.Refused)
    said: dict[str, Any] = {"endpoint": endpoint.path, "server_says": plain_text(message, 1000).rstrip(". ")}
    if issubclass(kind, errors.DuplicateTask):
        return kind("the task name is taken.", code=code, task_id=named_task_id(message), **said)
    if not issubclass(kind, errors.Refused):
        return kind("the server did not carry out the request.", advice=_ADVICE.get(kind, ""), **said)
    return kind("the server refused.", code=code, advice=_advice(endpoint, kind, message), **said)


def _advice(endpoint: Endpoint, kind: type[errors.PandaError], message: str) -> str:
    if issubclass(kind, errors.PermissionDenied) and re.match(r"production or pilot role|no production", message):
        return _ASK_FOR_ROLE
    return "" if "task_id" in endpoint.signature.parameters else _OTHERWISE.get(kind, "")


CHECK_ID = "Check the ID or name; the server says the same while its database is down."

_OTHERWISE: dict[type[errors.PandaError], str] = {
    errors.NotFound: CHECK_ID,
    errors.PermissionDenied: "Use the identity that it belongs to, or one with the production role.",
}
"""Advice where it is not about a task, which might be too new."""

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
        text = plain_text(f"go to {headers.get('Location', 'another address')}")
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
    with suppress(ValueError, TypeError, OverflowError, IndexError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


_LONGEST_PAGE = 100_000
"""Characters of a page that are looked at; the parser's time grows with their square at worst."""


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
    text = fit(body[:_LONGEST_PAGE])
    if text.lstrip().startswith("<"):
        parser = _Text()
        parser.feed(text)
        text = " ".join(parser.parts)
    head, traceback, frames = text.partition("Traceback (most recent call last):")
    if traceback:
        text = f"{head} {frames.strip().splitlines()[-1] if frames.strip() else ''}"
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}..."
