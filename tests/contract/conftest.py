from __future__ import annotations

from collections.abc import Iterator

import pytest

from panda_airflow.client.config import ClientConfig
from panda_airflow.client.session import PandaClient
from tests.support.recorder import Recorder


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with Recorder.running() as server:
        yield server


@pytest.fixture(scope="module")
def client(recorder: Recorder) -> Iterator[PandaClient]:
    config = ClientConfig(url=recorder.url, auth="oidc", vo="wlcg", token="a.b.c", attempts=1)
    with PandaClient(config) as client:
        yield client
