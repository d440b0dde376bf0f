"""Arguments on the wire: a JSON body, a query string, or a file as a multipart body."""

from __future__ import annotations

import gzip
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, get_args

from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.errors import UsageError
from panda_airflow.client.files import CHUNK, Progress
from panda_airflow.client.http.envelope import encode, naive_utc
from panda_airflow.client.records import LARGEST_ID, is_id, shown


class Multipart:
    """One file as a multipart body, read piece by piece each time it is sent.

    :param name: name of the form field.
    :param file: the file to send, under its own name.
    :param progress: hears how much of it is on its way.
    """

    def __init__(self, name: str, file: Path, progress: Progress | None = None) -> None:
        self._boundary = secrets.token_hex(16)
        self._file = file
        self._progress = progress
        shown = file.name.replace("\\", "\\\\").replace('"', '\\"')
        self._head = (
            f'--{self._boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{shown}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        self._tail = f"\r\n--{self._boundary}--\r\n".encode()
        self._size = file.stat().st_size

    @property
    def content_type(self) -> str:
        """Value of the header that goes with this body."""
        return f"multipart/form-data; boundary={self._boundary}"

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        with self._file.open("rb") as stream:
            for chunk in iter(partial(stream.read, CHUNK), b""):
                yield chunk
                if self._progress:
                    self._progress(stream.tell(), self._size)
        yield self._tail


@dataclass(frozen=True)
class Parts:
    """What the arguments of a call become.

    :param query: pairs for the query string, a list repeating its key.
    :param body: bytes or a file, for a POST.
    :param headers: those that describe the body.
    """

    query: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | Multipart | None = None
    headers: dict[str, str] = field(default_factory=dict)


def parts_of(endpoint: Endpoint, arguments: Arguments, progress: Progress | None = None) -> Parts:
    """Put the arguments of a call into the form that its endpoint wants.

    :param progress: hears how much of an uploaded file is on its way.
    :raises UsageError: an argument has no JSON form, or its file cannot be read; nothing was sent.
    """
    _check_numbers(endpoint, arguments)
    if endpoint.upload:
        return _file(endpoint, Path(arguments[endpoint.upload]), progress)
    if endpoint.method == "GET":
        return Parts(query=_query(endpoint, arguments))
    body = _json(endpoint, dict(arguments)).encode()
    if endpoint.legacy:
        body = gzip.compress(body)
    return Parts(body=body, headers={"Content-Type": "application/json"})


IDS = frozenset({"task_id", "jedi_task_id", "parent_tid", "task_id_list", "job_id", "job_ids", "request_id"})
"""Parameters that are IDs."""


def _check_numbers(endpoint: Endpoint, arguments: Arguments) -> None:
    """Refuse what is no number where one belongs: a process of the server loops for ever over an ID that is ``true``.

    Text is left to the server, which reads digits in a query.
    """
    for name, value in arguments.items():
        kind = endpoint.types.get(name)
        if kind is int or int in get_args(kind):
            for item in value if isinstance(value, list | tuple) else [value]:
                _check_number(endpoint, name, item)


def _check_number(endpoint: Endpoint, name: str, value: object) -> None:
    if isinstance(value, str) or (value is None and endpoint.signature.parameters[name].default is None):
        return
    is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_ID
    if not is_number or (name in IDS and not is_id(value)):
        what = "an ID" if name in IDS else "a whole number"
        raise UsageError(f"{name} must be {what}, not {shown(value)}; nothing was sent.", endpoint=endpoint.path)


def _file(endpoint: Endpoint, file: Path, progress: Progress | None) -> Parts:
    if any(character in file.name for character in "\r\n"):
        raise UsageError(f"the file name {file.name!r} holds a line break.", endpoint=endpoint.path)
    try:
        body = Multipart(str(endpoint.upload), file, progress)
        file.open("rb").close()
    except OSError as error:
        raise UsageError(f"the file {file} cannot be read ({error.strerror}).", endpoint=endpoint.path) from error
    return Parts(body=body, headers={"Content-Type": body.content_type})


def _query(endpoint: Endpoint, arguments: Arguments) -> list[tuple[str, str]]:
    return [
        (name, _text(endpoint, name, item))
        for name, value in arguments.items()
        for item in (value if isinstance(value, list | tuple) else [value])
        if item is not None
    ]


def _text(endpoint: Endpoint, name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return naive_utc(value).isoformat(sep=" ")
    return _json(endpoint, value, name)


def _json(endpoint: Endpoint, value: Any, name: str = "") -> str:
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        found = _why(value, name)
        raise UsageError(f"{found}; nothing was sent.", endpoint=endpoint.path) from error


def _why(value: Any, name: str) -> str:
    with suppress(RecursionError):
        return unencodable(value, name) or f"{name or 'an argument'} has no JSON form"
    return f"{name or 'an argument'} is nested too deeply"


def unencodable(value: Any, path: str = "", inside: tuple[int, ...] = ()) -> str | None:
    """Find the first part of a value that has no JSON form, as ``task_parameters.log.x is a set, which ...``.

    :param path: how the value is reached.
    :param inside: identities of the containers around it, to notice one that contains itself.
    """
    if id(value) in inside:
        return f"{path} contains itself"
    if isinstance(value, dict):
        return _first(value.items(), "{path}.{key}", path, (*inside, id(value)))
    if isinstance(value, list | tuple):
        return _first(enumerate(value), "{path}[{key}]", path, (*inside, id(value)))
    try:
        encode(value)
    except (TypeError, ValueError):
        shown = f"{value}" if isinstance(value, float) else f"a {type(value).__name__}"
        return f"{path} is {shown}, which has no JSON form"
    return None


def _first(items: Any, form: str, path: str, inside: tuple[int, ...]) -> str | None:
    for key, value in items:
        where = form.format(path=path, key=key).lstrip(".")
        if not isinstance(key, str | int | float | bool | None):
            return f"the key {where} is a {type(key).__name__}, which has no JSON form"
        found = unencodable(value, where, inside)
        if found:
            return found
    return None
