"""Play all scenarios on the server that a connection or the environment names, and on the embedded one beside it.

Exit code: 0 all as expected, or no server is named; 1 something differs; 2 the connection cannot be used; 3 the server
cannot be reached.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from panda_airflow.check.command import AS_EXPECTED, DIFFERS, UNUSABLE, exit_code, find_config, greet
from panda_airflow.check.scenario import DIFFERENT, Patience, Result
from panda_airflow.check.table import table
from panda_airflow.client.errors import PandaError
from panda_airflow.client.session import PandaClient
from tests.live.embedded import PATIENCE, embedded
from tests.live.history import ABOUT
from tests.live.play import play_all
from tests.live.stage import Site

INTERRUPTED = 128 + signal.SIGINT
SECONDS, INTERVAL = 420.0, 3.0
"""How long to wait for all scenarios together, and between two rounds of looks."""


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(environ: Mapping[str, str]) -> int:
    """Play, print the table and write the histories.

    :param environ: the variables that docs/reference/server.md describes.
    :return: exit code.
    """
    default = "panda_default" if "AIRFLOW_CONN_PANDA_DEFAULT" in environ else ""
    conn_id = environ.get("PANDA_LIVE_CONN_ID", default)
    if not (conn_id or environ.get("PANDA_URL_SSL") or environ.get("PANDA_URL")):
        say("No PanDA server is named by PANDA_LIVE_CONN_ID or PANDA_URL_SSL: nothing is checked.")
        return AS_EXPECTED
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return live(conn_id, environ)
    except PandaError as error:
        say(f"{error}")
        return exit_code(error)
    except ValueError as error:
        say(f"PANDA_LIVE_PATIENCE must be a number of seconds, PANDA_LIVE_PARAMETERS a JSON object: {error}.")
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED


def live(conn_id: str, environ: Mapping[str, str]) -> int:
    """Play on both servers.

    :param conn_id: Airflow connection of the server, or empty for the environment.
    :return: exit code.
    :raises PandaError: the server cannot be asked.
    """
    config = find_config(conn_id)
    config = replace(config, production=config.production or bool(environ.get("PANDA_LIVE_PRODUCTION")))
    other = environ.get("PANDA_LIVE_OTHER_CONN_ID")
    with PandaClient(config) as client:
        say(greet(client))
    patience = Patience(float(environ.get("PANDA_LIVE_PATIENCE", SECONDS)), INTERVAL)
    site = Site(
        config,
        json.loads(environ.get("PANDA_LIVE_PARAMETERS", "{}")),
        patience.interval,
        find_config(other) if other else None,
        environ.get("PANDA_LIVE_USER", ""),
    )
    say(f"Names begin with {site.stem}; this takes at most {patience.seconds / 60 + 2:.0f} minutes.")
    here = play_all(site, patience, say)
    write(site, Path(environ.get("PANDA_LIVE_HISTORIES", f".live/{site.stem}.json")))
    with TemporaryDirectory() as folder, embedded(Path(folder) / "panda") as beside:
        there = play_all(beside, PATIENCE, lambda _: None)
    return compare(here, there)


def write(site: Site, file: Path) -> None:
    """Write the histories of all tasks."""
    about = ABOUT.format(server=site.config.server, interval=site.interval)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"about": about, "histories": site.histories()}, indent=1))
    say(f"The histories of the tasks are in {file}.")


def compare(here: list[Result], there: list[Result]) -> int:
    """Print what both servers did, and what was expected where this one differs; return the exit code."""
    rows = [(one.scenario, str(one), str(other), _verdict(one, other)) for one, other in zip(here, there, strict=True)]
    say("\n" + table(("scenario", "this server", "embedded", ""), rows))
    wrong = [one for one in here if one.verdict == DIFFERENT]
    if wrong:
        expected = [(one.scenario, str(one), "; ".join(one.expects)) for one in wrong]
        say("Not what real servers did before:\n\n" + table(("scenario", "this server", "a real server"), expected))
    return DIFFERS if wrong or any(row[-1] == DIFFERENT for row in rows) else AS_EXPECTED


def _verdict(one: Result, other: Result) -> str:
    """Compare two servers; one that did not get to the end is compared as far as it got."""
    if one.skipped or other.skipped or one.missing:
        return one.verdict if not other.skipped else other.verdict
    return "same" if one.facts == other.facts else DIFFERENT


if __name__ == "__main__":
    sys.exit(main(os.environ))
