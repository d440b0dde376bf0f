from __future__ import annotations

import importlib.util
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from panda_airflow.client import ClientConfig
from panda_airflow.get_provider_info import connection_fields, get_provider_info

PACKAGE = Path(__file__).parents[2] / "panda_airflow"


def airflow_file(name: str) -> Any:
    """Read a file of Airflow's without importing it."""
    spec = importlib.util.find_spec("airflow")
    assert spec
    assert spec.submodule_search_locations
    return json.loads(Path(spec.submodule_search_locations[0], name).read_text())


def test_airflow_accepts_the_description() -> None:
    jsonschema.validate(get_provider_info(), airflow_file("provider_info.schema.json"))


@pytest.mark.parametrize("room", ["hooks", "operators", "sensors", "triggers"])
def test_every_module_of_a_room_is_listed(room: str) -> None:
    listed = {name for group in get_provider_info()[room] for name in group["python-modules"]}
    assert listed <= {f"panda_airflow.{room}.{path.stem}" for path in (PACKAGE / room).glob("*.py")}
    assert listed


def test_the_form_has_a_field_for_every_setting_that_has_no_place_of_its_own() -> None:
    assert connection_fields().keys() == {item.name for item in fields(ClientConfig)} - {"url", "url_ssl", "token"}


def test_no_secret_is_typed_in_the_open() -> None:
    for item in fields(ClientConfig):
        if item.metadata["secret"] and item.name != "token":
            assert connection_fields()[item.name]["schema"]["format"] == "password"


def test_defaults_of_the_form_are_those_of_the_client() -> None:
    """A form that is saved untouched must not change anything."""
    untouched = {name: field["schema"]["default"] for name, field in connection_fields().items()}
    assert ClientConfig.from_env({}, **untouched) == ClientConfig()
