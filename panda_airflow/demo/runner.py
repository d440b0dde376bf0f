"""Runs the demo from nothing to the checked result."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from panda_airflow.client import ClientConfig, PandaClient, PandaError
from panda_airflow.demo.expected import agree, lost_slices, particle_summary
from panda_airflow.demo.rest import AirflowApi
from panda_airflow.demo.services import (
    Services,
    airflow_environment,
    free_port,
    own_environment,
)
from panda_airflow.demo.story import Story, follow
from panda_airflow.devserver.auth.certificates import private_directory

DAG_ID = "particle_table"
START_LIMIT = 300.0
RUN_LIMIT = 600.0
"""Seconds for Airflow to start and for the DAG to run; even a slow, busy machine takes less."""


def run_demo(root: Path, dags: Path) -> str:
    """Run the example DAG and check its result.

    :param root: directory of all state; what is there is used again.
    :param dags: directory of the example DAGs.
    :return: the result, for people.
    :raises PandaError: a part did not start, the DAG failed, or its result is wrong.
    """
    if not (dags / f"{DAG_ID}.py").is_file():
        raise PandaError(f"there is no {DAG_ID}.py in {dags}; name the directory of the example DAGs with --dags.")
    root, dags = private_directory(root), dags.resolve()
    story = Story(time.monotonic())
    home = root / f"airflow-{version('apache-airflow-core')}"
    with Services(root / "logs") as services:
        panda = _start_panda(services, root / "panda", story)
        with PandaClient(ClientConfig.from_env(panda)) as client:
            airflow = _start_airflow(services, home, dags, panda, story)
            run_id = airflow.trigger(DAG_ID)
            story.say(f"DAG run {run_id} of {DAG_ID}")
            state = _finish(services, lambda: follow(story, airflow, client, DAG_ID, run_id))
            if state != "success":
                raise PandaError(f"the DAG run ended as {state}.\n{_step_errors(home, run_id)}")
            result = airflow.result(DAG_ID, run_id, "merge")
    return _checked(result)


def _start_panda(services: Services, root: Path, story: Story) -> dict[str, str]:
    """Start the embedded server; return the variables that PanDA users have."""
    variables = root / "env.sh"
    variables.unlink(missing_ok=True)
    settings = {"root": root, "http-port": 0, "https-port": 0, "registration": 0.5, "cycle": 0.1, "command": 0.2}
    arguments = ["devserver", *(word for name, value in settings.items() for word in (f"--{name}", str(value)))]
    services.start("panda", "panda_airflow.cli", arguments, own_environment())
    services.wait(variables.exists, "the embedded PanDA server", START_LIMIT)
    words = (shlex.split(line)[-1] for line in variables.read_text().splitlines())
    panda = dict(word.split("=", 1) for word in words)
    story.say(f"embedded PanDA server at {panda['PANDA_URL_SSL']}")
    return panda


def _start_airflow(services: Services, home: Path, dags: Path, panda: dict[str, str], story: Story) -> AirflowApi:
    """Start all parts of Airflow and wait until each has reported and has read the DAG."""
    port, began = free_port(), datetime.now(UTC)
    environment = airflow_environment(home, dags, port) | panda
    _migrate(services, home, environment, story)
    serve = ["--host", "127.0.0.1", "--port", str(port)]
    parts = {
        "api-server": serve,
        "scheduler": ["--skip-serve-logs"],
        "triggerer": ["--skip-serve-logs"],
        "dag-processor": [],
    }
    for name, arguments in parts.items():
        services.start(name, "airflow", [name, *arguments], environment)
    airflow = AirflowApi(f"http://127.0.0.1:{port}")
    services.wait(airflow.is_ready, "Airflow's API server", START_LIMIT)
    services.wait(lambda: airflow.was_parsed(DAG_ID, began), "Airflow to read the DAG", START_LIMIT)
    services.wait(lambda: not airflow.unhealthy(), "all parts of Airflow", START_LIMIT)
    story.say(f"Airflow at {airflow.url}")
    return airflow


def _migrate(services: Services, home: Path, environment: dict[str, str], story: Story) -> None:
    """Make Airflow's database, once."""
    done = home / "migrated"
    if not done.exists():
        story.say("making Airflow's database")
        home.mkdir(parents=True, exist_ok=True)
        services.finish(services.start("migrate", "airflow", ["db", "migrate"], environment), START_LIMIT)
        done.touch()


def _finish(services: Services, look: Callable[[], str]) -> str:
    """Look until the DAG run has ended; return its state."""
    states = ["queued"]

    def has_ended() -> bool:
        states.append(look())
        return states[-1] in ("success", "failed")

    services.wait(has_ended, "the DAG run to end", RUN_LIMIT)
    return states[-1]


def _step_errors(home: Path, run_id: str) -> str:
    """Gather what the steps of a DAG run logged as errors."""
    lines = []
    for log in sorted(home.glob(f"logs/dag_id={DAG_ID}/run_id={run_id}/**/*.log")):
        records = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        errors = [record for record in records if record.get("level") in ("error", "critical")]
        lines += [f"{log}:" for _ in errors[:1]]
        for record in errors:
            details = [f"{error['exc_type']}: {error['exc_value']}" for error in record.get("error_detail") or []]
            lines += [f"    {text}" for text in [record["event"], *details]]
    return "\n".join(lines)


def _checked(result: dict[str, Any]) -> str:
    """Compare the merged result with the one-pass computation."""
    jobs = result.pop("jobs")
    if lost := lost_slices(jobs):
        raise PandaError(f"slices {', '.join(lost)} of the table had no job of their own: {json.dumps(jobs)}")
    expected = particle_summary()
    if not agree(result, expected):
        raise PandaError(f"the result is wrong:\n{json.dumps(result)}\nexpected:\n{json.dumps(expected)}")
    kinds = ", ".join(f"{number} {kind}s" for kind, number in sorted(result["kinds"].items()))
    (mass, heaviest), (longest, stable), (shortest, fleeting) = (
        result[name] for name in ("heaviest", "longest_lived", "shortest_lived")
    )
    return (
        f"\n{result['particles']} particles in {len(jobs)} jobs: {kinds}\n"
        f"heaviest: {heaviest}, {mass:g} MeV\n"
        f"longest measured lifetime: {stable}, {longest:.4g} s; shortest: {fleeting}, {shortest:.4g} s\n"
        "The result is right: one pass over the whole table gives the same.\n"
    )
