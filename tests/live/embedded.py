"""The embedded server as one more site: it has to do what real servers do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from panda_airflow.check.scenario import Patience
from panda_airflow.client.config import ClientConfig
from panda_airflow.devserver.backend import Pace
from panda_airflow.devserver.server import DevServer
from tests.live.stage import Site

PACE = Pace(registration=2.5, cycle=0.05, command=1.0, slots=40)
"""Time enough to be seen in the registration window and before a command is executed, on a busy machine, too; all jobs
run at once, most of them only sleep."""

PATIENCE = Patience(seconds=240.0, interval=0.2)


@contextmanager
def embedded(root: Path) -> Iterator[Site]:
    """Run an embedded server; with a production role to ask for, and a stranger.

    :param root: of its state.
    """
    with DevServer(root, pace=PACE) as server:
        bob = ClientConfig(
            url=server.url,
            cache_url=server.url,
            real_load_balancer=True,
            auth="oidc",
            vo="wlcg",
            token=server.token("Bob Tester", production=True),
            production=True,
        )
        alice = replace(bob, token=server.token("Alice Tester"), production=False)
        yield Site(bob, {}, PATIENCE.interval, alice)
