from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer

FAST = Pace(registration=0.05, cycle=0.02, command=0.05, slots=2)
"""A pace at which a task lives for moments."""


settings.register_profile("panda", deadline=None)  # a busy machine is no defect
settings.load_profile("panda")


@pytest.fixture
def devserver(tmp_path: Path) -> Iterator[DevServer]:
    """A running embedded server of its own for one test."""
    with DevServer(tmp_path / "panda", pace=FAST) as server:
        yield server
