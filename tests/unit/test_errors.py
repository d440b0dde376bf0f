"""Errors travel between processes and say what to do."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from panda_airflow import client
from panda_airflow.client import PandaError


def family(kind: type[PandaError] = PandaError) -> Iterator[type[PandaError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


EXTRA: dict[str, Any] = {"retry_after": 2.5, "code": 4, "task_id": 42, "status": "failed"}


@pytest.mark.parametrize("kind", list(family()))
def test_every_error_survives_pickling(kind: type[PandaError]) -> None:
    plain = kind("it broke.", endpoint="task/kill", server_says="no", advice="Ask.")
    extra = {name: value for name, value in EXTRA.items() if hasattr(plain, name)}
    error = kind("it broke.", endpoint="task/kill", server_says="no", advice="Ask.", **extra)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is kind
    assert copy.args == error.args == ("it broke.",)
    assert vars(copy) == vars(error)
    assert {name: getattr(copy, name) for name in extra} == extra
    assert str(copy) == "task/kill: it broke. The server says: no. Ask."


def test_every_error_is_public() -> None:
    assert {kind.__name__ for kind in family()} <= set(client.__all__)
    assert all(hasattr(client, name) for name in client.__all__)
