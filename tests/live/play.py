"""Play all scenarios on a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from panda_airflow.check.reading import READING
from panda_airflow.check.scenario import Patience, Result, Stage, perform
from tests.live.commands import COMMANDS
from tests.live.files import FILES
from tests.live.stage import Live, Site, closing
from tests.live.submissions import SUBMISSIONS

WRITING = [*SUBMISSIONS, *COMMANDS, *FILES]
MOST_JOBS = 100
KILLING = 60.0
"""Seconds that the kills at the end may take, where tasks are not registered yet."""


def play_all(site: Site, patience: Patience, report: Callable[[str], Any]) -> list[Result]:
    """Play everything side by side and leave nothing running.

    :param site: the server.
    :param report: hears what happens.
    """
    cast = [(item, Live(site, item.name)) for item in WRITING]
    with closing(site, KILLING, report):
        results = perform(cast, patience, site.look)
        results += perform([(item, Stage(site.client)) for item in READING], patience)
    for (_, stage), result in zip(cast, results, strict=False):
        if result.missing:
            stage.miss(result.missing)
    return results
