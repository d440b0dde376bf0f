"""Whatever a server says, a file holds or a connection names: a value comes out, or one error of this library.

FUZZ=100000 tries so many inputs each.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panda_airflow.client import ClientConfig, PandaClient, PandaError
from panda_airflow.client.endpoint import REGISTRY, Endpoint
from panda_airflow.client.http.envelope import open_reply
from panda_airflow.client.idds import EXECUTE, RELAY, open_result
from panda_airflow.client.models import Envelope
from panda_airflow.hooks.panda import config_from_connection
from panda_airflow.pandaclient import Client
from panda_airflow.pandaclient.calls import TABLE, Row
from panda_airflow.steps.definition import read_parameters
from panda_airflow.waiting.feed.push import read

MANY = settings(
    max_examples=int(os.environ.get("FUZZ", "150")),
    deadline=None,
    derandomize="FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)

KEYS = [
    "success",
    "message",
    "data",
    "status",
    "command",
    "jediTaskID",
    "taskName",
    "reqID",
    "PandaID",
    "jobStatus",
    "attemptNr",
    "stateChangeTime",
    "Files",
    "modificationTime",
    "errorDialog",
    "pilotErrorCode",
    "pilotErrorDiag",
    "files",
    "dataset",
    "id",
    "name",
    "parameters",
    "environment",
    "error",
    "overall_status",
    "results",
    "async_meta",
    "error_msg",
    "request_id",
    "errors",
    "__datetime__",
    "msg_type",
    "taskid",
    "user_dn_clean",
    "fqans",
]
WORDS = st.sampled_from(
    [
        "",
        "NULL",
        "done",
        "running",
        "2026-11-22T11:42:40",
        "0001-01-01T00:00:00+14:00",
        "finished*2",
        "\ud800",
        "\0\x1b",
        "task_status",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | WORDS
    | st.text(st.characters(), max_size=20)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=5)
    ),
    max_leaves=20,
)
ENVELOPES = st.fixed_dictionaries(
    {"success": st.just(value=True) | st.booleans() | SCALARS, "data": JSON}, optional={"message": WORDS | JSON}
)
DEEP = st.tuples(
    st.sampled_from(['["', "[", '{"a":', "(", "-", "{'a':", '{"success": true, "data": [']), st.integers(1, 3000)
).map(lambda drawn: drawn[0] * drawn[1])
MANGLED = st.tuples(ENVELOPES.map(json.dumps), st.integers(0, 400), st.text(max_size=3)).map(
    lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] + 1 :]
)
BODIES = ENVELOPES.map(json.dumps) | ENVELOPES.map(repr) | JSON.map(json.dumps) | MANGLED | DEEP | st.text()
STATUSES = st.sampled_from([200, 200, 200, 200, 302, 400, 401, 403, 404, 429, 500, 503, 999])
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "Location"]),
    st.text() | st.sampled_from(["1e999", "-5", "Fri, 99 Nov 99999 99:99:99 +9999"]),
)


def fit_to_be_kept(value: Any) -> None:
    """A text or JSON that a log, an event and a database take."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False, default=str)
    text.encode()
    assert "\0" not in text
    assert "\x1b" not in text


@MANY
@given(endpoint=st.sampled_from(sorted(REGISTRY)), status=STATUSES, body=BODIES, headers=HEADERS, legacy=st.booleans())
def test_whatever_a_server_says(endpoint: str, status: int, body: str, headers: dict[str, str], legacy: bool) -> None:
    spec = REGISTRY[endpoint]
    try:
        envelope = open_reply(spec, status, body, headers)
        fit_to_be_kept([envelope.data, envelope.message, envelope.extra])
        told(spec, envelope)
        said = ""
    except PandaError as error:
        said = str(error)
    fit_to_be_kept(said)
    assert len(said) < 2500


def told(spec: Endpoint, envelope: Envelope) -> None:
    """Look at all that the typed values tell."""
    result = spec.parse(envelope)
    rows = result.values() if isinstance(result, dict) else result if isinstance(result, list) else [result]
    for row in rows:
        repr(row)
        for name in ("errors", "inputs_by_status", "input_datasets", "output_datasets"):
            getattr(row, name, None)
        task_id = getattr(row, "task_id", 1)
        assert type(task_id) is int
        assert 0 <= task_id < 2**63 or envelope.data is None


@MANY
@given(
    name=st.sampled_from([name for name in Client.__all__ if name in TABLE]),
    success=st.booleans(),
    data=JSON,
    message=WORDS,
)
def test_whatever_the_drop_in_hears(name: str, success: bool, data: Any, message: str) -> None:
    row: Row = TABLE[name]
    given_to = {"taskDict": {"jediTaskID": 1}, "loader": None, "properErrorCode": True, "verbose": False}
    with suppress(PandaError):
        row.answer(Envelope(success, message, data), given_to)


@MANY
@given(result=JSON, relayed=st.booleans())
def test_whatever_idds_answers(result: Any, relayed: bool) -> None:
    with suppress(PandaError):
        open_result(RELAY if relayed else EXECUTE, result)


@MANY
@given(body=BODIES | JSON.map(json.dumps))
def test_whatever_a_broker_sends(body: str) -> None:
    with suppress(ValueError):
        read(body)


PIECES = (
    "a|b|: |\n|  |- |[|]|{|}|, |&x |*x|<<: |!!int |!!timestamp |!!bool |!!binary |!!float |!!set |!!omap |!!pairs |"
    "!!python/name:os.system |? |> |\"|'|#|---\n|1:1|0x|1e9|.inf|~|\\ud800|%TAG ! !\n|\t|é|\0|2026-11-24|!!str |"
    "12345678901234567890"
)
YAML = st.lists(st.sampled_from([*PIECES.split("|"), "|\n"]), max_size=25).map("".join)
DEFINITIONS = YAML | BODIES | JSON.map(yaml.dump) | st.text()


@MANY
@given(text=DEFINITIONS, file=st.sampled_from(["", "fit.json", "fit.yaml"]))
def test_whatever_a_task_definition_holds(text: str, file: str) -> None:
    try:
        found = read_parameters(text, file)
    except PandaError:
        return
    json.dumps(found, allow_nan=False, ensure_ascii=False).encode()


EXTRAS = st.dictionaries(
    st.sampled_from([*ClientConfig.__dataclass_fields__, "urll", "%"]) | st.text(max_size=5),
    JSON | st.text(),
    max_size=4,
)


@MANY
@given(
    host=st.none() | st.text() | st.sampled_from(["localhost", "http://h", "https://h:1/x", "[::1]", "a@b", "h:x"]),
    schema=st.none() | st.sampled_from(["http", "https", "ftp"]) | st.text(max_size=5),
    port=st.none() | st.integers(-5, 99999),
    password=st.none() | st.text().map("hush-hush{}".format),
    extra=EXTRAS | JSON,
)
def test_whatever_a_connection_names(
    host: str | None, schema: str | None, port: int | None, password: str | None, extra: Any
) -> None:
    connection = SimpleNamespace(host=host, schema=schema, port=port, password=password, extra_dejson=extra)
    try:
        with PandaClient(config_from_connection(connection)) as client:
            said = repr(client.config)
    except PandaError as error:
        said = str(error)
    assert "hush-hush" not in said
