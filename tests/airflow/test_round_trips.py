"""Every step that can defer survives its deferral: another worker comes to what one worker alone would have."""

from __future__ import annotations

import copy
import inspect
import json
import pkgutil
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import BaseSensorOperator
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.serde import deserialize, serialize
from airflow.triggers.base import BaseTrigger

from panda_airflow import operators, sensors
from panda_airflow.operators import base, polling
from panda_airflow.sensors import base as sensors_base
from panda_airflow.sensors import task as sensors_task
from panda_airflow.steps.base import PandaStep
from tests.airflow.conftest import Memory, connection, serve
from tests.support import rude_server
from tests.support.scenes import (
    IDDS,
    SCENES,
    Arguments,
    request_in,
)
from tests.support.steps import STEPS, make
from tests.support.triggers import by_core, by_sdk, event_of

CAN_DEFER = [kind for kind in STEPS if hasattr(make(kind), "deferrable")]
BASES = {"PandaCommandOperator", "PandaPollOperator", "PandaPollSensor", "PandaTaskOperator"}


ABORT: Arguments = {"command": "abort", "command_kwargs": {"request_id": 2}, "manager": True}
IDDS_SCENES: dict[str, tuple[list[str], Arguments]] = {
    "PandaIddsCommandOperator": (
        [IDDS["abort"], request_in("Transforming"), request_in("Cancelled")],
        ABORT | {"wait_for_completion": True, "statuses": ["Cancelled"]},
    ),
    "PandaWaitIddsRequestSensor": ([request_in("Transforming"), request_in("Finished")], {"request_id": 2}),
}
"""What iDDS answers, which the embedded server has none of, and the step's arguments."""


@contextmanager
def scene(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Arguments, dict[str, str]]]:
    """Run a server on which a step has something to do; give the step's arguments, and what differs per server."""
    if name in IDDS_SCENES:
        answers, arguments = IDDS_SCENES[name]
        with rude_server.serve(*map(rude_server.reply, answers)) as rude:
            extra = {"vo": "wlcg", "real_load_balancer": True, "attempts": 1}
            value = {"conn_type": "panda", "host": rude.url, "password": "thisisatoken", "extra": extra}
            monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", json.dumps(value))
            yield arguments, {"TOKEN": "thisisatoken"}
        return
    with serve(root, monkeypatch) as panda:
        token = panda.server.token(production=True)
        monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", connection(panda.server, token, vo="wlcg.production"))
        arguments = SCENES[name](panda)
        yield arguments, {"TOKEN": token, "URL": panda.server.url, "CACHE": panda.server.url_ssl}


def new(kind: type[Any], arguments: Arguments, *, deferrable: bool) -> Any:
    """Make a step that looks often, from arguments of its own."""
    interval = "poke_interval" if issubclass(kind, BaseSensorOperator) else "poll_interval"
    return kind(task_id="step", deferrable=deferrable, **copy.deepcopy(arguments), **{interval: 0.1})


def alone(kind: type[Any], arguments: Arguments, secret: str) -> Any:
    """Let one worker do it all."""
    return new(kind, arguments, deferrable=False).execute(Memory()())


def relayed(kind: type[Any], arguments: Arguments, secret: str) -> Any:
    """Let one worker defer, a triggerer wait and another worker go on, each with what Airflow stored only."""
    context = Memory()()
    with pytest.raises(TaskDeferred) as stopped:
        new(kind, arguments, deferrable=True).execute(context)
    trigger = checked(stopped.value.trigger, secret)
    kwargs = travelled(stopped.value.kwargs or {}) | {"event": event_of(trigger)}
    return new(kind, arguments, deferrable=True).resume_execution(stopped.value.method_name, kwargs, context)


def checked(trigger: BaseTrigger, secret: str) -> BaseTrigger:
    """Make a trigger again from what is stored of it, which must be plain and hold no secret."""
    _, kwargs = trigger.serialize()
    stored = json.dumps(kwargs)
    assert json.loads(stored) == kwargs
    assert secret not in stored
    assert kwargs["panda_conn_id"] == "panda_default"
    for travel in (by_sdk, by_core):
        trigger_elsewhere = travel(trigger)
        assert trigger_elsewhere.serialize() == trigger.serialize()
    return by_core(by_sdk(trigger))


def travelled(kwargs: Any) -> Any:
    return deserialize(json.loads(json.dumps(serialize(kwargs))))


@pytest.fixture
def nothing_has_ended_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The look before a deferral, which may tell the end and spare it, tells nothing."""
    for module in (base, polling, sensors_base, sensors_task):
        monkeypatch.setattr(module, "first_look", lambda *_: None)


@pytest.mark.usefixtures("nothing_has_ended_yet")
@pytest.mark.parametrize("kind", CAN_DEFER, ids=lambda kind: kind.__name__)
def test_a_step_that_defers_comes_to_what_it_would_have_in_one_worker(
    kind: type[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for way in (alone, relayed):
        with scene(kind.__name__, tmp_path / way.__name__, monkeypatch) as (arguments, own):
            result = way(kind, arguments, own["TOKEN"])
            assert result == travelled(result)
            results.append(impersonal(result, own))
    assert results[0] == results[1]


def impersonal(result: Any, own: dict[str, str]) -> str:
    """Leave out what tells one server and one time from another."""
    words = json.dumps(result)
    for name, value in own.items():
        words = words.replace(value, name)
    return re.sub(r"\d{4}-\d\d-\d\d[ T][\d:.,]+|[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{16}", "TIME OR ID", words)


def test_no_step_that_defers_is_forgotten() -> None:
    assert {kind.__name__ for kind in CAN_DEFER} == SCENES.keys() | IDDS_SCENES.keys()
    found = {
        value.__name__
        for package in (operators, sensors)
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        for value in vars(import_module(module.name)).values()
        if inspect.isclass(value) and issubclass(value, PandaStep) and value.__module__ == module.name
    }
    assert found - {kind.__name__ for kind in STEPS} == BASES
