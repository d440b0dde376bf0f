"""A server without its HTTP side, with tasks whose jobs are real processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from panda_airflow.client.models import Envelope
from panda_airflow.client.status import FINAL_STATUSES
from panda_airflow.devserver.backend import Backend, Identity, Pace
from panda_airflow.devserver.faults import Faults
from panda_airflow.devserver.handlers import job as job_module
from panda_airflow.devserver.handlers import task as task_module
from panda_airflow.devserver.jedi.cycle import Jedi
from panda_airflow.devserver.storage.store import Store

BOB = Identity("Bob Tester/CN=nickname:bob", "Bob Tester")
ALICE = Identity("Alice Tester/CN=nickname:alice", "Alice Tester")
MANAGER = Identity("Alice Tester/CN=nickname:alice", "Alice Tester", production=True)
FAST = Pace(registration=0.05, cycle=0.02, command=0.05, slots=4)
OUT = "user.bob.$JEDITASKID._${SN/P}.out.txt"
PATIENCE = 20.0


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for a condition to give something true, and return that."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come")


def parameters(name: str, command: str = "true", jobs: int = 2, *, output: bool = False, **more: Any) -> dict[str, Any]:
    """Describe a task of jobs without input, as prun does."""
    items: list[dict[str, Any]] = [{"type": "constant", "value": '-j "" --sourceURL ${SURL}'}]
    if output:
        dataset = f"{name}_out.txt/"
        items += [
            {
                "type": "template",
                "param_type": "output",
                "value": OUT,
                "dataset": dataset,
                "container": dataset,
                "hidden": True,
            },
            {"type": "constant", "value": f"-o \"{{'out.txt': '{OUT}'}}\""},
        ]
    items.append({"type": "constant", "value": f'-p "{quote(command)}"'})
    log = {
        "type": "template",
        "param_type": "log",
        "dataset": f"{name}.log/",
        "value": f"{name}.log.$JEDITASKID.${{SN}}.log.tgz",
    }
    return {
        "taskName": name, "userName": "ignored", "vo": "wlcg", "prodSourceLabel": "user", "taskType": "anal",
        "processingType": "panda-client-1.5", "taskPriority": 900, "architecture": "", "transUses": "",
        "transHome": None, "transPath": "https://localhost/trf/user/runGen-00-00-02", "noInput": True,
        "nEvents": jobs, "nEventsPerJob": 1,
        "site": "LOCAL_TEST", "skipScout": True, "uniqueTaskName": True, "jobParameters": items, "log": log, **more,
    }  # fmt: skip


class Caller:
    """A handler module with backend and caller filled in."""

    def __init__(self, module: Any, backend: Backend, caller: Identity) -> None:
        self._parts = module, backend, caller

    def __getattr__(self, name: str) -> Callable[..., Envelope]:
        module, backend, caller = self._parts
        return lambda *args, **kwargs: cast("Envelope", getattr(module, name)(backend, caller, *args, **kwargs))


class Site:
    """A server without its HTTP side."""

    def __init__(self, root: Path, pace: Pace = FAST) -> None:
        self.store = Store(root / "panda.sqlite")
        self.backend = Backend(root, self.store, Faults(self.store, lambda: None), pace)
        self.jedi = Jedi(self.backend)
        self.jedi.start()
        self.task = Caller(task_module, self.backend, BOB)
        self.job = Caller(job_module, self.backend, BOB)
        self.manager = Caller(task_module, self.backend, MANAGER)

    def submit(self, *args: Any, **kwargs: Any) -> int:
        reply = self.task.submit(parameters(*args, **kwargs))
        assert reply.success, reply
        return int(reply.data)

    def status(self, task_id: int) -> str | None:
        found: str | None = self.task.get_status(task_id).data
        return found

    def reach(self, task_id: int, *statuses: str) -> str:
        found: str = until(lambda: (s := self.status(task_id)) in statuses and s, f"{statuses} of task {task_id}")
        return found

    def end(self, task_id: int) -> str:
        return self.reach(task_id, *FINAL_STATUSES)

    def info(self, task_id: int) -> dict[str, Any]:
        return cast("dict[str, Any]", self.task.get_detailed_info(task_id).data)

    def jobs(self, task_id: int, *, bad: bool = False) -> list[dict[str, Any]]:
        return cast("list[dict[str, Any]]", self.task.get_job_descriptions(task_id, bad).data)

    def running(self, task_id: int) -> list[dict[str, Any]]:
        return [job for job in self.jobs(task_id) if job["jobStatus"] == "running"]

    def text(self, lfn: str) -> str:
        return (self.backend.cache / lfn).read_text()

    def close(self) -> None:
        self.jedi.stop()
        self.store.close()
