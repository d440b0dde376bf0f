"""The process that outlives a step: what it runs, whom it tells, and that it leaves the table of processes."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from panda_airflow.client import ClientConfig
from panda_airflow.steps.kill.reaper import Target, send_reaper
from tests.support.rude_server import CLOSE, HANG, Answer, reply, serve
from tests.support.tokens import jwt

KILLED = reply('{"success": true, "message": "", "data": 0}')
GONE = Target((7,), outage=0)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a careless worker, where files of that process are kept."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f":{tmp_path}")
    for name in ("secrets", "json", "requests", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    yield tmp_path
    assert not (tmp_path / "ran").exists()


def config(url: str) -> ClientConfig:
    return ClientConfig(url=url, auth="oidc", vo="wlcg", token=jwt(), attempts=1, read_timeout=1)


def send(answer: Answer, patience: float) -> str:
    with serve(answer) as rude:
        return send_reaper(config(rude.url), GONE, patience)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it does not happen")


def test_modules_of_the_working_directory_do_not_run(folder: Path) -> None:
    assert send(KILLED, 60) == "PanDA task 7 was told to stop."
    assert not list(folder.glob("panda-reaper-*"))


def test_a_process_that_breaks_is_told_with_its_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("panda_airflow.steps.kill.reaper.__name__", "panda_airflow.no_such_module")
    fate = send(KILLED, 60)
    found = re.fullmatch(r"PanDA task 7 may still be running: process \d+ broke, see (.*)\.", fate)
    assert found
    errors = Path(found[1])
    assert "No module named 'panda_airflow.no_such_module'" in errors.read_text()
    assert errors.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("answer", [HANG, CLOSE])
def test_a_process_that_nobody_waits_for_ends_tells_and_is_no_zombie(folder: Path, answer: bytes) -> None:
    with serve(answer) as rude:
        fate = send_reaper(config(rude.url), GONE, 0)
        found = re.fullmatch(
            r"PanDA task 7 cannot be stopped yet; process (\d+) goes on trying and tells in (.*)\.", fate
        )
        assert found
        until(lambda: not psutil.pid_exists(int(found[1])))
    assert "PanDA task 7 may still be running; kill it on the PanDA monitor." in Path(found[2]).read_text()
