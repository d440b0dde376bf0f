"""Commands to tasks, and tasks to be commanded."""

from __future__ import annotations

from typing import Any

import pytest

from panda_airflow.devserver.handlers import task as handlers
from panda_airflow.devserver.jedi import registration
from tests.airflow.conftest import Panda, task, wait_until


def submit(panda: Panda, command: str = "sleep 60", **more: Any) -> int:
    return panda.client.task.submit(task(command, **more)).task_id


def partly_failed(panda: Panda, command: str = "test %RNDM:0 = 1 && exit 3; sleep 60") -> int:
    """Have a task that runs and has an input which failed for good: one that more attempts help."""
    task_id = submit(panda, command)
    panda.wait(task_id, ("running",))
    wait_until(lambda: has_failed(panda, task_id))
    return task_id


def has_failed(panda: Panda, task_id: int) -> bool:
    return panda.task(task_id).n_files_failed == 1


def commands(panda: Panda, monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Count the commands of one kind that reach the server from here on."""
    given: list[int] = []

    def put_command(backend: Any, task_id: int, command: str, *more: Any) -> None:
        if command == name:
            given.append(task_id)
        registration.put_command(backend, task_id, command, *more)

    monkeypatch.setattr(handlers, "put_command", put_command)
    return given
