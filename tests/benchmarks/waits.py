"""Measures what it costs to wait for many tasks, by the trigger of this project and by a poll loop per trigger.

All contenders live through the same script, each alone on the machine with a server of its own (the small crowds
together): tasks whose waits begin within a minute, of which 2 % end each minute, and whose ends are to be noticed
within a minute. Minutes pass faster than on the clock, for all alike.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from panda_airflow.devserver.auth.certificates import Authority
from tests.benchmarks.programs import Figure, environment, line, program
from tests.benchmarks.waits_report import write
from tests.benchmarks.waits_restart import measure as restart
from tests.benchmarks.waits_result import HEAD, Result
from tests.benchmarks.waits_script import SHARE, Script

ROWS_PER_SECOND = 5_000
"""Tasks that the server can write the answers for before the script begins."""

PACES = ((1_000, 3.0), (10_000, 6.0), (math.inf, 20.0))
"""Seconds on the clock that count as a minute, for crowds up to a size: as few as all contenders keep up with."""

SESSION_LOAD = 10
"""How much heavier a poll is over a connection of its own."""

OURS = ("triggers", "tuned", "feed")
"""Those of this project."""

IDLE_MINUTES = 3.0
SAMPLES = 200


def run(root: Path, way: str, number: int, minutes: float) -> Result:
    """Have a crowd live through its script."""
    load = number * (SESSION_LOAD if way == "sessions" else 1)
    minute = next(minute for size, minute in PACES if load <= size)
    with program("waits_server", Authority(root).host_file) as server:
        env = airflow_environment(root, int(line(server)))
        with program("waits_crowd", way, env=env) as crowd:
            line(crowd)
            share = 0.0 if way == "idle" else SHARE
            script = Script(number, time.time() + 2 + number / ROWS_PER_SECOND, minute, minutes, share)
            line(server, script.to_line())
            costs = json.loads(line(crowd, script.to_line()))
            requests = json.loads(line(server, "count"))
            return Result(way, number, minute, requests, **costs, **json.loads(line(crowd)))


def airflow_environment(root: Path, port: int) -> dict[str, str]:
    """What a process knows that runs triggers."""
    return environment(root, port) | {
        "AIRFLOW_HOME": str(root),
        "AIRFLOW_CONN_PANDA_DEFAULT": json.dumps({"conn_type": "panda"}),
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }


def sample(root: Path, calls: int) -> dict[str, float]:
    """Measure a call of panda-client."""
    with program("waits_server", Authority(root).host_file) as server:
        env = environment(root, int(line(server)))
        line(server, Script(calls, time.time(), minute=60.0, share=0.0).to_line())
        with program("waits_sample", env=env) as client:
            found: dict[str, float] = json.loads(line(client, str(calls)))
            return found


def results(root: Path, number: int, minutes: float) -> Iterator[Result]:
    """Measure crowds of a hundredth, a tenth, this number and ten times this number."""
    small = [(way, size) for size in (number // 100, number // 10) for way in ("triggers", "polls")]
    with ThreadPoolExecutor(len(small)) as pool:
        yield from pool.map(lambda one: run(root, one[0], one[1], minutes), small)
    yield run(root, "sessions", number // 10, minutes)
    yield run(root, "idle", number, min(minutes, IDLE_MINUTES))
    yield run(root, "polls", number, minutes)
    yield run(root, "triggers", number, minutes)
    yield run(root, "tuned", number, minutes)
    yield run(root, "list", number, minutes)
    yield run(root, "feed", number * 10, minutes)


def figures(found: list[Result]) -> Iterator[Figure]:
    """What the trigger of this project is held to."""
    of = {(one.way, one.number): one for one in found}
    number = max(one.number for one in found if one.way == "triggers")
    ours, tuned, listed, polls, idle = (of[way, number] for way in ("triggers", "tuned", "list", "polls", "idle"))
    few, sessions = (of[way, number // 10] for way in ("triggers", "sessions"))
    fewest = next(one for one in found if one.way == "triggers")
    yield Figure(f"{number:,} waits: requests, % of the poll loops'", 100 * ours.asked / polls.asked, 1.0)
    yield Figure("CPU time, % of the poll loops'", 100 * ours.cpu / polls.cpu, 10.0)
    yield Figure("CPU time with full garbage collections rare, %", 100 * tuned.cpu / polls.cpu, 10.0)
    yield Figure("CPU time of one wait for the list of all, %", 100 * listed.cpu / polls.cpu, 10.0)
    yield Figure(f"{number // 10:,} waits: CPU, % of loops with a session each", 100 * few.cpu / sessions.cpu, 10.0)
    yield Figure("end to event, 99th percentile, s", ours.quantile(0.99), 65.0)
    yield Figure("memory per wait beyond Airflow's own, kB", (ours.memory - idle.memory) / 1000, 15.0)
    yield Figure("event loop blocked at most, ms", ours.block * 1000, 50.0)
    yield Figure("the same with full garbage collections rare, ms", tuned.block * 1000, 50.0)
    yield Figure("the same without Python's garbage collector, ms", ours.own_block * 1000, 50.0)
    yield Figure(f"{number * 10:,} waits: requests / those of {fewest.number:,}", found[-1].asked / fewest.asked, 3.0)
    yield Figure("ends that were not told", sum(one.untold for one in found if one.way in OURS), 0.0)


def measure(root: Path, number: int, minutes: float, steps: int, folder: Path | None) -> Iterator[Figure]:
    """Print the table and give the figures.

    :param number: of tasks; crowds of a hundredth, a tenth and ten times as many are measured too.
    :param steps: of a real Airflow whose triggerer is killed; 0 for no such thing.
    :param folder: where to write all down, or None.
    """
    page: list[str] = []

    def say(text: str) -> None:
        page.append(text)
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    say(f"Waits of {minutes:g} minutes, 2 % of the tasks ending each minute\n{HEAD}")
    found = []
    for result in results(root, number, minutes):
        say(str(result))
        found.append(result)
    say(compared(sample(root, SAMPLES), next(one.asked for one in found if (one.way, one.number) == ("polls", number))))
    reached = [*figures(found), *(restart(root, steps) if steps else ())]
    if folder:
        write(folder, "\n".join([*page, *map(str, reached)]), found)
    yield from reached


def compared(call: dict[str, float], polls: int) -> str:
    """Say what panda-client needs for a call, and by extrapolation for as many as the poll loops have made."""
    return (
        f"  panda-client 2.2.0, {SAMPLES} calls of getTaskStatus measured: {call['clock'] * 1000:.1f} ms each, "
        f"{call['cpu'] * 1000:.1f} ms of it CPU\n  Extrapolated, not measured: {polls:,} of them, one after another, "
        f"take {polls * call['clock']:,.0f} s, {polls * call['cpu']:,.0f} s of it CPU"
    )
