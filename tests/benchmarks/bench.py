"""Measures what calls and waits cost in this client and in others, side by side; ``make bench`` runs it.

All contenders ask the same server, which answers at once, over TLS on loopback, and again through a proxy that
adds 20 ms to each round trip. Each has a process of its own; they take turns, so that a busy machine slows all of
them. A ratio is the median over the turns of the ratio of two medians, one turn's calls each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain, cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from panda_airflow.devserver.auth.certificates import Authority
from tests.benchmarks import waits
from tests.benchmarks.contender import WAYS
from tests.benchmarks.programs import ROOT, Figure, environment, line, program

ROUND_TRIP = 0.020
TOLERANCE = 1.10
Rounds = list[dict[str, float]]
"""For each turn, the median of each contender in seconds."""

NAMES = {
    "panda-client": "panda-client 2.2.0, Client.getTaskStatus",
    "drop-in": "drop-in Client.getTaskStatus",
    "typed": "client.task.get_status",
    "session": "bare requests.Session",
    "stdlib": "http.client, one kept connection",
}

BASE_IMPORTS = "requests, tenacity"
OUR_IMPORT = "panda_airflow.client"
TIMED_IMPORT = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def race(env: dict[str, str], rounds: int, calls: int) -> Rounds:
    """Let the contenders take turns there and back, after some calls each to warm up.

    :param calls: per contender and turn.
    """
    with ExitStack() as running:
        contenders = {way: running.enter_context(program("contender", way, env=env)) for way in WAYS}
        for process in contenders.values():
            line(process, "5")
        there = list(contenders.items())
        return [
            {way: median(json.loads(line(process, str(calls)))) for way, process in order}
            for order in islice(cycle([there, there[::-1]]), rounds)
        ]


def ratio(rounds: Rounds, one: str, other: str) -> float:
    """Compare two contenders."""
    return median(turn[one] / turn[other] for turn in rounds)


def table(title: str, rounds: Rounds) -> str:
    """Show what each contender needs for a call."""
    lines = [f"{title}", f"  {'':<44}{'ms/call':>8}{'/ bare session':>16}"]
    lines += [
        f"  {name:<44}{median(turn[way] for turn in rounds) * 1000:8.3f}{ratio(rounds, way, 'session'):16.2f}"
        for way, name in NAMES.items()
    ]
    return "\n".join(lines) + "\n"


def compared(rounds: Rounds, times_faster: float) -> list[Figure]:
    """What the clients of this project are held to.

    :param times_faster: than panda-client.
    """
    return [
        Figure("client.task.get_status / bare session", ratio(rounds, "typed", "session"), 1.15),
        Figure("panda-client / client.task.get_status", ratio(rounds, "panda-client", "typed"), times_faster, True),
        Figure("drop-in / bare session", ratio(rounds, "drop-in", "session"), 1.15),
        Figure("panda-client / drop-in", ratio(rounds, "panda-client", "drop-in"), times_faster, True),
    ]


def import_seconds(modules: str) -> float:
    """Time an import in a fresh process, without the start of Python: CPU time, since it waits for nothing."""
    command = [sys.executable, "-c", TIMED_IMPORT.format(modules)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)


def imports(rounds: int) -> Figure:
    """Compare what imports cost."""
    both = [(import_seconds(BASE_IMPORTS), import_seconds(OUR_IMPORT)) for _ in range(rounds)]
    base, ours = (median(times) * 1000 for times in zip(*both, strict=True))
    sys.stdout.write(f"Import: {BASE_IMPORTS} {base:.1f} ms, {OUR_IMPORT} {ours:.1f} ms\n")
    return Figure(f"{OUR_IMPORT} beyond {BASE_IMPORTS}, ms", median(b - a for a, b in both) * 1000, 30.0)


def measure(root: Path, rounds: int, calls: int) -> Iterator[Figure]:
    """Print the tables of what a call costs and give the figures."""
    with program("server", Authority(root).host_file) as server:
        port = int(line(server))
        with program("distance", port, ROUND_TRIP) as far:
            for title, reached, times_faster, fewer in (
                ("TLS on loopback", port, 3.0, 1),
                (f"TLS with {ROUND_TRIP * 1000:g} ms of latency", int(line(far)), 2.7, 4),
            ):
                turns = race(environment(root, reached), rounds, max(1, calls // fewer))
                sys.stdout.write(table(title, turns))
                yield from compared(turns, times_faster)
    yield imports(rounds)


def main() -> int:
    """Measure and report.

    :return: exit code: 1 if figures are checked and one is missed by more than the tolerance.
    """
    parser = argparse.ArgumentParser(description="Measure what calls and waits cost in this client and in others.")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=60, help="calls per turn on loopback (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="fail if a figure is missed by more than 10 %%")
    parser.add_argument("--waits", type=int, default=10_000, help="tasks to wait for (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of waiting, in fast motion (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="that survive a triggerer (default: %(default)s)")
    parser.add_argument("--results", type=Path, help="folder to write to what the waits have cost")
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        root, figures = Path(name), []
        crowds = waits.measure(root, options.waits, options.minutes, options.steps, options.results)
        for figure in chain(measure(root, options.rounds, options.calls), crowds):
            sys.stdout.write(f"{figure}\n")
            sys.stdout.flush()
            figures.append(figure)
    return int(options.check and not all(figure.holds(TOLERANCE) for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
