"""Exchanges with a real server, replayed: the client sends what was sent and understands what was answered."""

from __future__ import annotations

import email
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from email import policy
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from panda_airflow.client import errors
from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.http.envelope import decode, open_reply
from panda_airflow.client.models import (
    CacheFile,
    CommandReply,
    DatasetFiles,
    Secrets,
    Submission,
)
from panda_airflow.client.records import Record
from panda_airflow.client.session import PandaClient
from tests.support.recorder import Recorder

FOLDER = Path(__file__).parents[1] / "data" / "exchanges"

NOT_SENT = {
    "refused before it is sent": 8,
    "arguments not in the signature": 4,
    "other HTTP method": 3,
    "JSON not asked for": 3,
    "file not in its field": 2,
    "unknown path": 1,
}
"""Requests that the client cannot send, by design, and how many of the exchanges they are."""

FAILURES: tuple[tuple[str, type[errors.PandaError]], ...] = (
    (r"SSL secure connection is required", errors.CredentialMissing),
    (r"Token authentication failed", errors.CredentialRefused),
    (r"role required$|not the task owner|not authorized|not in authorized|is not owned", errors.PermissionDenied),
    (r"is already queued|is in the \w+ state", errors.DuplicateTask),
    (r"Command rejected", errors.WrongState),
    (r"[Tt]ask not found|jediTaskID=\d+ not found|No data found|No parent task|no active job", errors.NotFound),
    (r"^request \d+ is not found", errors.NotFound),
    (
        r"^Type error|not a valid attribute|not valid JSON|must be (an integer|provided)|not a leave share",
        errors.InvalidArgument,
    ),
    (r"Failed to (deserialize|extract|parse)|is unsupported|^request_id is missing", errors.InvalidArgument),
    (r"is not a command of iDDS", errors.InvalidArgument),
    (r"no attribute 'subprocess_env'|^int\(\) argument|^Type not serializable", errors.ServerError),
    (r"^ERROR|Cannot upload|Failed to (delete|touch)|No jobs were|^PandaID=\d+ not found", errors.Refused),
    (r"^failed to execute|^server failed", errors.Refused),
)
"""What a server says that does not do what was asked, and what the client makes of it."""


@dataclass(frozen=True)
class Exchange:
    """One request to a real server and its answer."""

    name: str
    request: dict[str, Any]
    status: int
    body: str

    @property
    def endpoint(self) -> Endpoint | None:
        return REGISTRY.get(self.request["path"].removeprefix("/api/v1/"))

    @property
    def arguments(self) -> dict[str, Any]:
        return self.request["query"] or self.request["json"] or {}

    @property
    def file(self) -> tuple[str, str]:
        """Form field and file name of an upload."""
        return next(((field, part[0]) for field, part in (self.request["multipart"] or {}).items()), ("", ""))

    @property
    def data(self) -> Any:
        answer = decode(self.body)
        return answer["data"] if isinstance(answer, dict) else answer

    @property
    def message(self) -> str:
        """The server's words, or a bare answer."""
        try:
            answer = decode(self.body)
        except ValueError:
            return self.body
        return str(answer["message"] or "") if isinstance(answer, dict) else str(answer)

    @property
    def failure(self) -> type[errors.PandaError] | None:
        return next((kind for pattern, kind in FAILURES if re.search(pattern, self.message)), None)


def _read(path: Path) -> Iterator[Exchange]:
    for number, item in enumerate(json.loads(path.read_text())["exchanges"]):
        answer = item["response"]
        yield Exchange(f"{path.stem}-{number} {item['note']}", item["request"], answer["status"], answer["body"])


def why_not_sent(exchange: Exchange) -> str:
    """Say why the client cannot send such a request; an empty text if it can."""
    endpoint = exchange.endpoint
    if endpoint is None:
        return "unknown path"
    if exchange.request["method"] != endpoint.method:
        return "other HTTP method"
    if exchange.request["accept"] != "application/json":
        return "JSON not asked for"
    if exchange.file[0] != (endpoint.upload or ""):
        return "file not in its field"
    return _refused_here(endpoint, exchange.arguments)


def _refused_here(endpoint: Endpoint, arguments: dict[str, Any]) -> str:
    try:
        endpoint.signature.bind(**(arguments if not endpoint.upload else {endpoint.upload: "x"}))
        if endpoint.check:
            endpoint.check(arguments)
    except TypeError:
        return "arguments not in the signature"
    except errors.UsageError:
        return "refused before it is sent"
    return ""


EXCHANGES = [exchange for path in sorted(FOLDER.glob("*.json")) for exchange in _read(path)]
SENT = [exchange for exchange in EXCHANGES if not why_not_sent(exchange)]


def call(client: PandaClient, exchange: Exchange, folder: Path) -> Any:
    """Make the call of an exchange through the typed method."""
    assert exchange.endpoint
    arguments = exchange.arguments
    if exchange.endpoint.upload:
        file = folder / exchange.file[1]
        file.write_bytes(b"some content")
        arguments = {exchange.endpoint.upload: file}
    module, method = exchange.endpoint.path.split("/")
    return getattr(getattr(client, module), method)(**arguments)


def agrees(result: Any, exchange: Exchange) -> bool:
    """Whether a typed result says what the body says."""
    if isinstance(result, CommandReply):
        return (result.code, result.message) == (exchange.data, exchange.message)
    if isinstance(result, Submission):
        reactivated = exchange.message.startswith("reactivation accepted")
        return (result.task_id, result.reactivated) == (exchange.data, reactivated)
    if isinstance(result, CacheFile):
        return exchange.message == (f"FOUND:{result.host}:{result.name}" if result else "NOTFOUND")
    if isinstance(result, Secrets):
        return bool(result == json.loads(exchange.data))
    return same(result, exchange.data)


def same(value: Any, data: Any) -> bool:
    """Whether a typed value holds the data that it was made of."""
    if isinstance(value, Record):
        return all(same_field(getattr(value, name), data.get(sent)) for name, sent in spellings(value))
    if isinstance(value, DatasetFiles):
        return {"name": value.name, "id": value.id} == data["dataset"] and same(value.files, data["files"])
    if isinstance(value, list):
        return len(value) == len(data) and all(map(same, value, data))
    if isinstance(value, dict):
        return value.keys() == data.keys() and all(same(item, data[name]) for name, item in value.items())
    return bool(value == data)


def spellings(record: Record | type[Record]) -> list[tuple[str, str]]:
    """The fields of a record, as we and as the server spell them."""
    named = [item for item in fields(record) if item.name != "raw"]  # type: ignore[arg-type]
    return [(item.name, item.metadata.get("key", item.name)) for item in named]


def same_field(value: Any, sent: Any) -> bool:
    if sent is None or (isinstance(sent, str) and sent.strip() in ("", "NULL")):
        return not value
    return bool(value == (sent.strip() if isinstance(sent, str) else sent))


def test_nearly_all_exchanges_are_replayed() -> None:
    reasons = Counter(why_not_sent(exchange) for exchange in EXCHANGES)
    assert reasons == {"": 346, **NOT_SENT}


@pytest.mark.parametrize("exchange", SENT, ids=lambda exchange: exchange.name)
def test_exchange(client: PandaClient, recorder: Recorder, exchange: Exchange, tmp_path: Path) -> None:
    recorder.answer = (exchange.status, exchange.body)
    if exchange.failure:
        with pytest.raises(exchange.failure) as caught:
            call(client, exchange, tmp_path)
        assert_explains(caught.value, exchange)
    else:
        assert agrees(call(client, exchange, tmp_path), exchange)
    assert_sent(recorder, exchange)


def test_query_values_are_what_the_server_casts(client: PandaClient, recorder: Recorder) -> None:
    recorder.answer = (200, '{"success": true, "message": "", "data": {}}')
    client.task.get_tasks_modified_since("2026-11-22 00:00:00", dn=None, full=True, min_task_id=7)
    query = parse_qs(urlsplit(recorder.request[1]).query)
    assert query == {"since": ["2026-11-22 00:00:00"], "full": ["true"], "min_task_id": ["7"]}


def test_records_spell_their_fields_as_the_server_does() -> None:
    seen: dict[type[Record], set[str]] = {}
    for exchange in SENT:
        if exchange.endpoint and not exchange.failure:
            result = exchange.endpoint.parse(open_reply(exchange.endpoint, exchange.status, exchange.body))
            for record in records(result):
                seen.setdefault(type(record), set()).update(record.raw)  # type: ignore[attr-defined]
    assert seen.keys() == set(Record.__subclasses__())
    for kind, sent in seen.items():
        assert {name for _, name in spellings(kind)} - sent == set(), kind


def records(value: Any) -> Iterator[Record]:
    """Every record in a result."""
    if isinstance(value, Record):
        yield value
    elif isinstance(value, DatasetFiles):
        yield from value.files
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from records(item)


def assert_explains(error: errors.PandaError, exchange: Exchange) -> None:
    """The error names the method, keeps the server's words and shows no traceback."""
    assert exchange.endpoint
    assert error.endpoint == exchange.endpoint.path
    assert error.server_says
    assert error.server_says.split()[-1] in exchange.message
    assert "Traceback" not in str(error)
    if isinstance(error, errors.DuplicateTask):
        assert f"jediTaskID={error.task_id} " in exchange.message


def assert_sent(recorder: Recorder, exchange: Exchange) -> None:
    """The server got the request of the exchange."""
    method, target, headers, content = recorder.request
    path, query = urlsplit(target).path, parse_qs(urlsplit(target).query, keep_blank_values=True)
    assert (method, path) == (exchange.request["method"], exchange.request["path"])
    assert headers["Accept"] == "application/json"
    assert query == as_query(exchange.request["query"] or {})
    if exchange.request["json"] is not None:
        assert headers["Content-Type"] == "application/json"
        assert json.loads(content) == exchange.request["json"]
    if exchange.request["multipart"]:
        assert file_sent(headers["Content-Type"], content) == (*exchange.file, b"some content")


def as_query(arguments: dict[str, Any]) -> dict[str, list[str]]:
    lists = {name: value if isinstance(value, list) else [value] for name, value in arguments.items()}
    return {name: [str(item) for item in items] for name, items in lists.items()}


def file_sent(content_type: str, content: bytes) -> tuple[str, str, bytes]:
    """Field name, file name and content of a multipart body with one part."""
    parsed = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + content, policy=policy.HTTP)
    (part,) = parsed.iter_parts()
    field = part["Content-Disposition"].params["name"]
    return str(field), str(part.get_filename()), part.get_content()
