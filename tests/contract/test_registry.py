"""The client's endpoints are the server's: names, order, types, defaults, methods and roles."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import panda_airflow.client.api
from panda_airflow.client.endpoint import REGISTRY, Endpoint

Aspects = dict[str, Any]

SERVER: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("panda_api_v1.json").read_text())["endpoints"]

MODULES_NOT_FOR_USERS = {"harvester", "pilot"}

KNOWN_DIFFERENCES = {
    ("job/get_description", "method"): "GET works too, but thousands of PandaIDs do not fit a query",
    ("job/get_description_incl_archive", "method"): "as above",
    ("system/get_attributes", "kwargs"): "arguments of any name, which the server only echoes",
    ("task/get_status", "task_id"): "declared without a type, read as an integer",
    ("task/get_datasets_and_files", "task_id"): "declared without a type, read as an integer",
    ("event/get_available_event_range_count", "timeout"): "declared without a type, counts seconds",
    ("event/update_single_event_range", "object_store_id"): "declared as the function id() instead of a type",
    ("task/get_datasets_and_files", "dataset_types"): "a list by declaration, a tuple by default",
}

MUST_NOT_BE_REPEATED = {
    "task/submit",
    "task/reassign",
    "task/reactivate",
    "task/increase_attempts",
    "job/submit",
    "job/reassign",
    "file_server/update_jedi_log",
    "file_server/upload_file_recovery_request",
    "file_server/upload_workflow_request",
    "file_server/upload_event_picking_request",
    "idds/relay_idds_command",
    "idds/execute_idds_workflow_command",
    "event/acquire_event_ranges",
    "workflow/submit_workflow",
    "workflow/submit_workflow_raw_request",
    "data_carousel/change_staging_destination",
    "data_carousel/change_staging_source",
    "data_carousel/submit_change_staging_destination",
    "data_carousel/submit_change_staging_source",
}


def of_server(spec: dict[str, Any]) -> Aspects:
    """Describe an endpoint as the server declares it, in our spelling of types."""
    parameters = {item["name"]: (our_spelling(item), item.get("default", "required")) for item in spec["params"]}
    return parameters | {
        "method": spec["method"],
        "identity": spec["identity_required"],
        "production": spec["production_role"],
        "owner": spec["owner_only"],
        "kwargs": spec["kwargs"],
        "order": list(parameters),
        "upload": next((item["name"] for item in spec["params"] if item["type"] == "FileStorage"), None),
    }


def our_spelling(parameter: dict[str, Any]) -> str:
    """Spell a type of the server's as the stubs do; a default of None makes it optional."""
    name = str(parameter["type"]).replace("FileStorage", "Path").replace("List[", "list[")
    name = re.sub(r"[Dd]ict\b", "dict[str, Json]", name)
    optional = parameter.get("default") == "None" and not name.endswith("| None")
    return f"{name} | None" if optional else name


def of_ours(endpoint: Endpoint) -> Aspects:
    """Describe one of the client's endpoints."""
    parameters = {
        item.name: (item.annotation, "required" if item.default is inspect.Parameter.empty else repr(item.default))
        for item in endpoint.signature.parameters.values()
    }
    return parameters | {
        "method": endpoint.method,
        "identity": endpoint.identity,
        "production": endpoint.production,
        "owner": endpoint.owner,
        "kwargs": any(item.kind is item.VAR_KEYWORD for item in endpoint.signature.parameters.values()),
        "order": list(parameters),
        "upload": endpoint.upload,
    }


def test_signatures_differ_from_the_servers_only_where_we_know() -> None:
    found = {
        (path, aspect): (theirs.get(aspect), ours.get(aspect))
        for path, endpoint in REGISTRY.items()
        for theirs, ours in [(of_server(SERVER[path]), of_ours(endpoint))]
        for aspect in theirs.keys() | ours.keys()
        if theirs.get(aspect) != ours.get(aspect)
    }
    assert found.keys() == KNOWN_DIFFERENCES.keys(), found


def test_no_endpoint_for_users_is_missing() -> None:
    assert {path for path in SERVER if path.split("/")[0] not in MODULES_NOT_FOR_USERS} == REGISTRY.keys()
    assert len(REGISTRY) == 96


def test_only_what_acts_twice_must_not_be_repeated() -> None:
    assert {path for path, endpoint in REGISTRY.items() if not endpoint.idempotent} == MUST_NOT_BE_REPEATED
    assert all(endpoint.idempotent for endpoint in REGISTRY.values() if endpoint.method == "GET")


@pytest.mark.parametrize("path", sorted(REGISTRY))
def test_stubs_are_documented_and_typed_and_empty(path: str) -> None:
    endpoint = REGISTRY[path]
    text = inspect.getdoc(endpoint.stub) or ""
    assert [name for name in endpoint.signature.parameters if f":param {name}:" not in text] == []
    assert endpoint.types.keys() == {*endpoint.signature.parameters, "return"}
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(endpoint.stub))).body
    assert isinstance(function, ast.FunctionDef)
    assert len(function.body) == 1, "a stub has a docstring and no code"


def test_modules_name_their_methods_as_the_server_does() -> None:
    for name in panda_airflow.client.api.__all__:
        module = getattr(panda_airflow.client.api, name)
        methods = {f"{_server_name(name)}/{method}" for method in vars(module) if not method.startswith("_")}
        assert methods <= REGISTRY.keys()


def _server_name(class_name: str) -> str:
    words = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in class_name.removesuffix("Api"))
    return words.removeprefix("_")
