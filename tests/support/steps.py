"""Every step that Airflow is told of."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from airflow.sdk import BaseOperator

from panda_airflow.get_provider_info import get_provider_info
from panda_airflow.steps.base import PandaStep


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
