from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer

FAST = Pace(registration=0.05, cycle=0.02, command=0.05, slots=2)
"""A pace at which a task lives for moments."""


settings.register_profile("same", deadline=None, derandomize=True, database=None)  # no run is red by chance
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))


@pytest.fixture
def devserver(tmp_path: Path) -> Iterator[DevServer]:
    """A running embedded server of its own for one test."""
    with DevServer(tmp_path / "panda", pace=FAST) as server:
        yield server
