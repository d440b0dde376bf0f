"""Tries of a submitting step."""

from __future__ import annotations

from typing import Any

import pytest

from panda_airflow.operators.task import PandaSubmitTaskOperator
from tests.airflow.conftest import (
    Memory,
    Panda,
    connection,
)


def submit(memory: Memory, parameters: dict[str, Any], *, wait: bool = False, **more: Any) -> dict[str, Any]:
    """Run one try of a submitting step, in a new operator as every try is."""
    step = PandaSubmitTaskOperator(
        task_id="fit",
        task_parameters=parameters,
        wait_for_completion=wait,
        **({"poll_interval": 0.1} | more),
    )
    return dict(step.execute(memory()))


def recorded(memory: Memory) -> dict[str, Any]:
    value = memory.store.get("panda_submission")
    assert isinstance(value, dict)
    return value


DEATHS = {
    "before the intent": (1, "before"),
    "after the intent": (1, "after"),
    "before recording": (2, "before"),
    "after recording": (2, "after"),
}


def as_production(panda: Panda, monkeypatch: pytest.MonkeyPatch) -> None:
    described = connection(panda.server, panda.server.token(production=True), production=True)
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", described)
