"""What goes in comes out: for every endpoint, through a real socket and the embedded server's own reader."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import Request

from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.http.encoding import IDS as IDENTIFIERS
from panda_airflow.client.http.envelope import DATETIME_MARKER, encode, fit
from panda_airflow.client.models import (
    AsyncResult,
    CacheFile,
    CommandReply,
    DatasetFiles,
    Envelope,
    FileInfo,
    Json,
    Secrets,
    ServerView,
    Submission,
    TaskInfo,
)
from panda_airflow.client.records import Record
from panda_airflow.client.session import PandaClient
from panda_airflow.client.task_parameters import REQUIRED_TO_REFINE, REQUIRED_TO_REGISTER
from panda_airflow.devserver.backend import FileStorage, Identity
from panda_airflow.devserver.http.encoding import read_arguments
from panda_airflow.devserver.http.validation import validate
from tests.objects import IDS, objects_of
from tests.support.recorder import Recorder

ANYBODY = Identity("Bob Tester", "Bob Tester", production=True)
HUGE = "µ" * 100_000
LONGEST_QUERY = 2_000
TASK = dict.fromkeys((*REQUIRED_TO_REGISTER, *REQUIRED_TO_REFINE), "x")

TEXTS = st.text()
KEYS = TEXTS.filter(lambda key: key != DATETIME_MARKER)
INTEGERS = st.integers(-(2**53), 2**53)  # the server reads query values as floats first
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=4)
FILE_NAMES = st.text(st.characters(exclude_characters="/\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=50)

KNOWN: dict[Any, st.SearchStrategy[Any]] = {
    int: INTEGERS,
    str: TEXTS,
    bool: st.booleans(),
    float: FLOATS,
    type(None): st.none(),
    Json: JSON,
    dict[str, Json]: OBJECTS,
    Secrets: st.dictionaries(TEXTS, TEXTS).map(json.dumps),
    Submission: IDS,
    CommandReply: st.just(0),
    CacheFile: st.none(),
    AsyncResult: st.fixed_dictionaries({"overall_status": TEXTS, "results": st.lists(OBJECTS, max_size=2)}),
    ServerView: st.just({"parameters": {"a": "é"}, "environment": {"b": "c"}}),
    DatasetFiles: st.fixed_dictionaries(
        {
            "dataset": st.fixed_dictionaries({"id": INTEGERS, "name": TEXTS}),
            "files": st.lists(objects_of(FileInfo), max_size=2),
        }
    ),
}
MESSAGES = {"file_server/validate_cache_file": "FOUND:host:name", "job/set_debug_mode": "Succeeded"}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type as signatures spell it."""
    if kind in KNOWN:
        return KNOWN[kind]
    if isinstance(kind, type) and issubclass(kind, Record):
        return objects_of(kind)
    parts: tuple[Any, ...] = get_args(kind)
    origin = get_origin(kind)
    if origin is list:
        return st.lists(values(parts[0]), max_size=4)
    if origin is dict:
        return st.dictionaries(KEYS, values(parts[1]), max_size=3)
    return st.one_of([values(part) for part in parts]) if parts else OBJECTS


def argument(name: str, kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type, of which some are IDs."""
    if name not in IDENTIFIERS or int not in (kind, *get_args(kind)):
        return values(kind)
    return st.lists(IDS, max_size=4) if get_origin(kind) is list else IDS | (st.none() if get_args(kind) else IDS)


def fitted(value: Any) -> Any:
    """A reply as it is kept."""
    if isinstance(value, dict):
        return {fit(key): fitted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [fitted(item) for item in value]
    return fit(value) if isinstance(value, str) else value


@st.composite
def arguments_of(draw: st.DrawFn, endpoint: Endpoint) -> dict[str, Any]:
    """What an endpoint needs and some of the rest."""
    parameters = endpoint.signature.parameters.values()
    given = [item.name for item in parameters if item.default is item.empty or draw(st.booleans())]
    drawn = {name: draw(argument(name, endpoint.types[name])) for name in given}
    if "task_parameters" in drawn:
        drawn["task_parameters"] |= TASK
    return drawn | ({"use_email_as_id": False} if endpoint.path == "job/kill" else {})


@st.composite
def replies_of(draw: st.DrawFn, endpoint: Endpoint) -> Envelope:
    """What an endpoint may answer."""
    if not endpoint.enveloped:
        text = " " + draw(TEXTS)
        return Envelope(True, text, text)
    return Envelope(True, MESSAGES.get(endpoint.path, draw(TEXTS)), draw(values(endpoint.types["return"])))


def call(client: PandaClient, endpoint: Endpoint, arguments: dict[str, Any]) -> Any:
    module, method = endpoint.path.split("/")
    return getattr(getattr(client, module), method)(**arguments)


def received(recorder: Recorder, endpoint: Endpoint) -> dict[str, Any]:
    """The arguments as the embedded server's handlers would get them."""
    method, target, headers, body = recorder.request
    url = urlsplit(target)
    pairs = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
    scope = {
        "type": "http", "method": method, "path": url.path, "query_string": url.query.encode(), "headers": pairs,
        "server": ("localhost", 80), "scheme": "http",
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    read = asyncio.run(read_arguments(Request(scope, receive), endpoint))
    return validate(endpoint, ANYBODY, method, read, lambda _task: ANYBODY.name)


def expected(endpoint: Endpoint, arguments: dict[str, Any]) -> dict[str, Any]:
    """What should arrive: in a query neither None nor an empty list has a form, so neither is sent."""
    if endpoint.path == "task/get_status":
        return {"task_id": str(arguments["task_id"])}  # the method itself reads the text
    if endpoint.method == "POST":
        return arguments
    return {name: value for name, value in arguments.items() if value is not None and value != []}


def has_a_form(endpoint: Endpoint, arguments: dict[str, Any]) -> bool:
    """Whether the server can tell a query value from another: it takes the text ``None`` for nothing."""
    if endpoint.method == "POST":
        return True
    required = [item.name for item in endpoint.signature.parameters.values() if item.default is item.empty]
    values = arguments.values()
    return "None" not in values and ["None"] not in values and all(arguments[name] != [] for name in required)


def answer(recorder: Recorder, endpoint: Endpoint, reply: Envelope) -> None:
    body = {"success": True, "message": reply.message, "data": reply.data} if endpoint.enveloped else reply.data
    recorder.answer = (200, encode(body))


@pytest.mark.parametrize("path", sorted(path for path in REGISTRY if not REGISTRY[path].upload))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_endpoint(client: PandaClient, recorder: Recorder, path: str, data: st.DataObject) -> None:
    endpoint = REGISTRY[path]
    arguments = data.draw(arguments_of(endpoint).filter(lambda drawn: has_a_form(endpoint, drawn)))
    reply = data.draw(replies_of(endpoint))
    if endpoint.types["return"] is TaskInfo and endpoint.same_task:
        reply.data["jediTaskID"] = arguments["task_id"]
    answer(recorder, endpoint, reply)
    assert call(client, endpoint, arguments) == endpoint.parse(Envelope(True, fit(reply.message), fitted(reply.data)))
    assert received(recorder, endpoint) == expected(endpoint, arguments)


@pytest.mark.parametrize("path", sorted(path for path in REGISTRY if REGISTRY[path].upload))
@settings(max_examples=15, deadline=None)
@given(name=FILE_NAMES.filter(lambda name: name not in (".", "..")), content=st.binary())
def test_every_upload(
    client: PandaClient,
    recorder: Recorder,
    tmp_path_factory: pytest.TempPathFactory,
    path: str,
    name: str,
    content: bytes,
) -> None:
    endpoint = REGISTRY[path]
    file = tmp_path_factory.mktemp("upload") / name
    file.write_bytes(content)
    answer(recorder, endpoint, Envelope(True, "", "päth"))
    assert call(client, endpoint, {str(endpoint.upload): file}) in (None, "päth")
    (arrived,) = received(recorder, endpoint).values()
    assert isinstance(arrived, FileStorage)
    assert (arrived.filename, arrived.file.read()) == (name, content)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=st.lists(JSON, max_size=3), kwargs=OBJECTS, result=JSON)
def test_the_legacy_route(
    client: PandaClient, recorder: Recorder, args: list[Json], kwargs: dict[str, Json], result: Json
) -> None:
    recorder.answer = (200, encode([True, result]))
    assert client.idds.relay("some", args, kwargs) == fitted(result)
    arrived = received(recorder, replace(REGISTRY["idds/relay_idds_command"], legacy=True))
    assert arrived.pop("command_name") == "some"
    assert {name: json.loads(text) for name, text in arrived.items()} == {
        name: value for name, value in (("args", args), ("kwargs", kwargs)) if value
    }


@pytest.mark.parametrize(
    ("path", "arguments"),
    [
        ("creds/set_user_secrets", {"key": "k", "value": HUGE}),
        ("task/submit", {"task_parameters": TASK | {"log": {HUGE: [HUGE]}}}),
        ("job/kill", {"job_ids": list(range(1, 50_001))}),
        ("creds/get_user_secrets", {"keys": ["é" * LONGEST_QUERY, ""]}),
    ],
)
def test_large_arguments_and_replies(
    client: PandaClient, recorder: Recorder, path: str, arguments: dict[str, Any]
) -> None:
    endpoint = REGISTRY[path]
    reply = {Secrets: json.dumps({"k": HUGE}), Submission: 2**60}.get(endpoint.types["return"], [True] * 50_000)
    answer(recorder, endpoint, Envelope(True, HUGE, reply))
    assert call(client, endpoint, arguments) == endpoint.parse(Envelope(True, HUGE, reply))
    assert received(recorder, endpoint) == arguments


def test_secrets_are_never_printed(client: PandaClient, recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    answer(recorder, REGISTRY["creds/get_user_secrets"], Envelope(True, "", '{"KEY": "s3cret"}'))
    secrets = client.creds.get_user_secrets()
    client.creds.set_user_secrets("KEY", "s3cret")
    assert secrets["KEY"] == "s3cret"
    assert f"{secrets} {secrets!r}" == "<secrets KEY> <secrets KEY>"
    assert "s3cret" not in caplog.text
