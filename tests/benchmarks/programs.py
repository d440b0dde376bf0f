"""Programs of this folder, each a process of its own, what they know, and figures held against their goals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from panda_airflow.devserver.auth.certificates import Authority
from tests.support.tokens import jwt

ROOT = Path(__file__).parents[2]
Program = subprocess.Popen[str]


@dataclass(frozen=True)
class Figure:
    """Something measured against what it should be.

    :param meaning: for people.
    :param value: a ratio, or in the unit that the meaning names.
    :param goal: the largest value that is good enough, or the smallest.
    :param at_least: the goal is the smallest value.
    """

    meaning: str
    value: float
    goal: float
    at_least: bool = False

    def holds(self, tolerance: float = 1.0) -> bool:
        """Whether the goal is reached, give or take a factor."""
        return self.value * tolerance >= self.goal if self.at_least else self.value <= self.goal * tolerance

    def __str__(self) -> str:
        bound = "at least" if self.at_least else "at most"
        verdict = "reached" if self.holds() else "MISSED"
        return f"  {self.meaning:<62}{self.value:8.3f}   ({bound} {self.goal:g}: {verdict})"


@contextmanager
def program(name: str, *args: object, env: dict[str, str] | None = None) -> Iterator[Program]:
    """Run a program of this folder, which ends with its standard input."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *map(str, args)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT
    ) as process:
        yield process


def line(process: Program, told: str = "") -> str:
    """Say a line to a program, if any, and hear one."""
    assert process.stdin
    assert process.stdout
    if told:
        process.stdin.write(f"{told}\n")
        process.stdin.flush()
    heard = process.stdout.readline()
    if not heard:
        raise RuntimeError(f"a program ended early: {process.args!r}")
    return heard


def environment(root: Path, port: int) -> dict[str, str]:
    """Everything that a client knows; nothing of the caller's proxies and certificates."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "PANDA_URL_SSL": f"https://localhost:{port}",
        "PANDA_AUTH": "oidc",
        "PANDA_AUTH_VO": "wlcg",
        "PANDA_AUTH_ID_TOKEN": jwt(),
        "PANDA_BEHIND_REAL_LB": "1",
        "X509_CERT_DIR": str(Authority(root).ca_directory),
    }
