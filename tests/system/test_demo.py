"""The demo: a real Airflow, a real PanDA server of its own, and nothing left behind."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from panda_airflow.demo import leash

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).parents[2]
GUARD = 600
"""Seconds after which a demo hangs; how fast it is, is not tested here."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State that the runs of this module share, as those on a user's machine do."""
    return tmp_path_factory.mktemp("demo")


@pytest.fixture
def demo(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that has just been started."""
    command = [sys.executable, "-m", "panda_airflow.cli", "demo", "--root", str(root)]
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        yield process
        process.kill()


def left_behind(root: Path) -> list[str]:
    """List the processes that know of the demo's directory.

    Some rewrite their command line and wipe their environment; these still have their log open. Jobs have it nowhere
    but in their working directory.
    """
    found = []
    for process in psutil.process_iter():
        try:
            places = {process.cwd(), *(file.path for file in process.open_files())}
            known = [*process.cmdline(), *process.environ().values(), *places]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(root) in word for word in known):
            found.append(" ".join([*process.cmdline(), *places]))
    return found


def wait_for_the_end(root: Path) -> list[str]:
    """Give the processes of a demo that was killed the time to end; list those that do not."""
    deadline = time.monotonic() + 60
    while left_behind(root) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left_behind(root)


def read_until(process: subprocess.Popen[str], word: str) -> str:
    """Read the demo's lines up to one that holds a word."""
    assert process.stdout
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if word in line:
            break
    return "".join(lines)


def test_a_dag_retries_its_panda_task_until_done_and_finds_what_one_pass_finds(
    demo: subprocess.Popen[str], root: Path
) -> None:
    told, _ = demo.communicate(timeout=GUARD)
    assert demo.returncode == 0, told
    assert "step retry                       deferred" in told
    assert "slice 5 fails on purpose in attempt 2" in told
    assert "step retry                       success" in told
    assert "669 particles in 6 jobs: 292 baryons, 16 leptons, 293 mesons, 68 others" in told
    assert left_behind(root) == []
    token = re.search("PANDA_AUTH_ID_TOKEN=(.+)", (root / "panda" / "env.sh").read_text())
    assert token
    for path in (root / "logs").iterdir():
        assert token[1] not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_demo_that_is_killed_leaves_no_process(demo: subprocess.Popen[str], root: Path) -> None:
    read_until(demo, "Airflow at")
    running = [process for process in left_behind(root) if leash.__name__ not in process]
    for service in ("panda", "api-server", "scheduler", "triggerer", "dag-processor"):
        assert any(f"{root}/logs/{service}.log" in process for process in running)
    demo.kill()
    assert wait_for_the_end(root) == []


@pytest.mark.parametrize(
    ("moment", "number"),
    [("embedded PanDA server", signal.SIGTERM), ("step retry                       deferred", signal.SIGINT)],
)
def test_a_demo_interrupted_by_an_impatient_user_leaves_no_process(
    demo: subprocess.Popen[str], root: Path, moment: str, number: signal.Signals
) -> None:
    read_until(demo, moment)
    demo.send_signal(number)
    time.sleep(0.3)
    demo.send_signal(number)
    told, _ = demo.communicate(timeout=GUARD)
    # A signal that comes while Python itself shuts down ends it in its own way.
    assert demo.returncode in (1, -number)
    assert "interrupted" in told
    assert left_behind(root) == []


def test_a_dag_that_fails_ends_the_demo_with_its_log(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "particle_table.py"
    broken.write_text("import nosuchmodule  # for a dag of airflow\n")
    command = [sys.executable, "-m", "panda_airflow.cli", "demo", "--root", str(root), "--dags", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=GUARD, check=False)
    assert ended.returncode == 1
    assert "No module named 'nosuchmodule'" in ended.stderr
    assert "waited" not in ended.stderr
    assert left_behind(root) == []
