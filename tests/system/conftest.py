from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.airflow import Airflow, Layout
from tests.system.panda import Panda


@pytest.fixture(scope="session")
def shared_panda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panda]:
    """A server for all tests, in this process."""
    panda = Panda(tmp_path_factory.mktemp("panda") / "server")
    yield panda
    panda.stop()


@pytest.fixture(scope="session")
def airflow(shared_panda: Panda, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """One Airflow for all tests; each has DAG runs of its own."""
    variables = {"AIRFLOW_CONN_PANDA_DEFAULT": json.dumps(shared_panda.connection())}
    home: Path = tmp_path_factory.mktemp("airflow")
    with Airflow(Layout(), home, variables) as running:
        yield running


@pytest.fixture
def panda(shared_panda: Panda) -> Iterator[Panda]:
    """The server without trouble of its own."""
    yield shared_panda
    shared_panda.calm()
