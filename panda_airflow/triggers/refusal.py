"""Deferrals that Airflow refuses, as a person ended the step while it was at work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow.listeners import hookimpl
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.sdk.listener import get_listener_manager

from panda_airflow.triggers.base import is_wanted


class RefusedDeferral:
    """A listener of Airflow's for the end of one process of a step that is about to defer.

    Of a refusal Airflow tells the step nothing: it logs it and ends the process, so that ``on_kill`` is not called,
    and no trigger begins that could be told of the kill. Only after that can it be asked for, as a person may end the
    step at any moment before.

    :param ti: the task instance.
    :param then: what to do if a person has ended the step.
    """

    def __init__(self, ti: Any, then: Callable[[], object]) -> None:
        self._ti = ti
        self._then = then

    @hookimpl
    def before_stopping(self, component: object) -> None:  # noqa: ARG002 - Airflow's signature
        """See whether the step has ended, once."""
        get_listener_manager().pm.unregister(self)
        if not is_wanted(self._ti):
            self._then()


def heed_refusal(ti: Any, then: Callable[[], object]) -> None:
    """Do something if Airflow refuses the deferral that is to follow; see :class:`RefusedDeferral`."""
    if isinstance(ti, RuntimeTaskInstance):  # otherwise Airflow does not run the step, and calls no listener
        get_listener_manager().add_listener(RefusedDeferral(ti, then))
