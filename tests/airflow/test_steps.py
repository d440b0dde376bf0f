"""What every step promises, whichever it is."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import BaseOperator, BaseSensorOperator
from airflow.sdk.bases.operator import TriggerFailureReason
from airflow.sdk.exceptions import AirflowSensorTimeout, AirflowSkipException
from airflow.serialization.serialized_objects import OperatorSerialization

from panda_airflow.client import TaskFailed, WaitTimeout
from panda_airflow.policies.retry import PandaRetryPolicy
from tests.airflow.conftest import Memory, Panda
from tests.support.steps import STEPS, make


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
