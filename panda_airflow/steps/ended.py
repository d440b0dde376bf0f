"""Whether a step has ended in Airflow, though its own process or its trigger goes on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.listeners import hookimpl
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.listener import get_listener_manager
from tenacity import Retrying, stop_after_attempt, wait_fixed

ENDED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""States in which Airflow has no use for a task's result any more."""


def is_wanted(ti: Any) -> bool:
    """Whether the Airflow task has not ended: its trigger moved, or a clear left the rest to the next try.

    Airflow's own database may be busy just when many steps are ended at once, so it is asked more than once.

    :param ti: the task instance, as a trigger or a step knows it; None where nobody is left to want anything.
    """
    if ti is None:
        return False
    ask = Retrying(stop=stop_after_attempt(5), wait=wait_fixed(1), reraise=True)
    states = ask(
        RuntimeTaskInstance.get_task_states,
        dag_id=ti.dag_id,
        task_ids=[ti.task_id],
        run_ids=[ti.run_id],
        map_index=ti.map_index,
    )
    key = f"{ti.task_id}_{ti.map_index}" if ti.map_index >= 0 else ti.task_id
    return states.get(ti.run_id, {}).get(key, "removed") not in ENDED


class _LastLook:
    """A listener of Airflow's, for the end of this process."""

    def __init__(self, ti: Any, kill: Callable[[], object]) -> None:
        self._ti = ti
        self._kill = kill

    @hookimpl
    def before_stopping(self, component: object) -> None:  # noqa: ARG002 - Airflow's signature
        get_listener_manager().pm.unregister(self)
        if not is_wanted(self._ti):
            self._kill()


def kill_if_refused(ti: Any, kill: Callable[[], object]) -> None:
    """Kill what a step leaves to its trigger or its next try, if a person has ended the step so that neither comes.

    Airflow refuses then that the step defers or is tried again, logs that and ends the process, and calls no
    ``on_kill``. So it is asked at the end of the process: at any moment before, a person may still end the step.

    :param ti: the task instance of the step.
    :param kill: its ``on_kill``.
    """
    if isinstance(ti, RuntimeTaskInstance):  # otherwise Airflow does not run the step, and calls no listener
        get_listener_manager().add_listener(_LastLook(ti, kill))
