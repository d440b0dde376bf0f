from __future__ import annotations

from collections.abc import Iterator

import pytest

from panda_airflow.devserver.auth.certificates import Authority
from tests.support.clients import Clients


@pytest.fixture
def clients() -> Iterator[Clients]:
    clients = Clients()
    yield clients
    for client in clients.made:
        client.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
