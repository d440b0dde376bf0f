"""What every step promises, whichever it is."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from airflow.sdk import BaseOperator, BaseSensorOperator
from airflow.sdk.bases.operator import TriggerFailureReason
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException
from airflow.serialization.serialized_objects import OperatorSerialization

from panda_airflow.client import TaskFailed, WaitTimeout
from panda_airflow.get_provider_info import get_provider_info
from panda_airflow.hooks.step import PandaStep
from panda_airflow.policies.retry import PandaRetryPolicy
from tests.airflow.conftest import Memory, Panda


def steps() -> Iterator[type[BaseOperator]]:
    """Every step of the modules that Airflow is told of."""
    info = get_provider_info()
    for group in (*info["operators"], *info["sensors"]):
        for name in group["python-modules"]:
            for kind in vars(import_module(name)).values():
                if inspect.isclass(kind) and issubclass(kind, PandaStep) and kind.__module__ == name:
                    yield from () if inspect.isabstract(kind) else (kind,)


STEPS = list(steps())


def required(kind: type[BaseOperator]) -> dict[str, Any]:
    """Arguments that a step cannot do without, those of its bases included."""
    parameters = [
        parameter
        for base in kind.__mro__
        if issubclass(base, PandaStep)
        for parameter in inspect.signature(base.__init__).parameters.values()
    ]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
    return dict.fromkeys(needed, "1")


def make(kind: type[BaseOperator], **options: Any) -> BaseOperator:
    step = kind(task_id="step", **required(kind), **options)
    assert isinstance(step, BaseOperator)
    return step


@pytest.mark.parametrize("kind", [kind for kind in STEPS if hasattr(make(kind), "poll_interval")])
def test_a_step_that_would_wait_without_a_pause_is_refused(kind: type[BaseOperator]) -> None:
    with pytest.raises(ValueError, match="poll_interval must be above 0 seconds, not 0"):
        make(kind, poll_interval=0)


def test_the_list_is_complete() -> None:
    names = {kind.__name__ for kind in STEPS}
    assert {"PandaSubmitTaskOperator", "PandaSetSecretOperator", "PandaServerSensor"} <= names
    assert all(name.startswith("Panda") for name in names)
    assert len(names) >= 20


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_has_the_retry_policy_and_a_connection(kind: type[BaseOperator]) -> None:
    step: Any = make(kind)
    assert isinstance(step.retry_policy, PandaRetryPolicy)
    assert step.panda_conn_id == "panda_default"
    assert make(kind, panda_conn_id="panda_other").panda_conn_id == "panda_other"  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_renders_its_connection_and_only_what_it_has(kind: type[BaseOperator]) -> None:
    step = make(kind)
    assert "panda_conn_id" in step.template_fields
    assert all(hasattr(step, name) for name in step.template_fields)
    assert set(step.template_fields_renderers) <= set(step.template_fields)


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_can_be_written_into_the_database_and_copied(kind: type[BaseOperator]) -> None:
    step = make(kind)
    written = OperatorSerialization.serialize_operator(step)
    assert written["task_type"] == kind.__name__
    assert type(copy.deepcopy(step)) is kind


SENSORS = [kind for kind in STEPS if issubclass(kind, BaseSensorOperator)]
OUTCOME = {"kind": "", "task_id": 1, "status": "failed", "what": "it", "value": None}
"""An event of any wait."""
LATE = ("execute_complete", {"event": OUTCOME | {"kind": "timeout"}})
FAILED = ("execute_complete", {"event": OUTCOME | {"kind": "failed"}})
SILENT = ("__fail__", {"error": TriggerFailureReason.TRIGGER_TIMEOUT})
NO_TIME = timedelta(seconds=1)


@pytest.mark.parametrize("kind", SENSORS)
@pytest.mark.parametrize(
    ("resumed_with", "options", "end"),
    [
        (LATE, {"timeout": 1}, AirflowSensorTimeout),
        (LATE, {"timeout": 1, "execution_timeout": NO_TIME}, AirflowSensorTimeout),
        (LATE, {"execution_timeout": NO_TIME}, WaitTimeout),
        (SILENT, {}, AirflowSensorTimeout),
        (SILENT, {"execution_timeout": NO_TIME}, WaitTimeout),
        (LATE, {"soft_fail": True}, AirflowSkipException),
        (FAILED, {"soft_fail": True}, TaskFailed),
        (FAILED, {"never_fail": True}, AirflowSkipException),
    ],
)
def test_a_deferred_sensor_ends_as_one_that_pokes(
    panda: Panda,
    memory: Memory,
    kind: type[BaseSensorOperator],
    resumed_with: tuple[str, dict[str, Any]],
    options: dict[str, Any],
    end: type[Exception],
) -> None:
    context: Any = memory()
    with pytest.raises(end) as raised:
        make(kind, **options).resume_execution(*resumed_with, context)
    assert type(raised.value) is end


@pytest.mark.parametrize("kind", SENSORS)
def test_a_sensor_may_wait_anywhere(kind: type[BaseOperator]) -> None:
    assert make(kind, deferrable=True, mode="reschedule").deferrable is True  # type: ignore[attr-defined]
