"""Every piece of Python in the documentation runs; what defines a DAG or a test is a whole file."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from tests.airflow.conftest import Panda, Run
from tests.unit.test_docs import PAGES, ROOT

PIECES = [
    pytest.param(piece, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, piece in enumerate(re.findall(r"(?ms)^```python\n(.*?)^```", page.read_text()))
]


@pytest.fixture
def as_a_user(panda: Panda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be somebody whose environment names the embedded server."""
    before, threshold = dict(os.environ), gc.get_threshold()
    credential = {"PANDA_AUTH": "oidc", "PANDA_AUTH_VO": "wlcg", "PANDA_AUTH_ID_TOKEN": panda.server.token()}
    os.environ.update(panda.server.environment() | credential)
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)
    gc.set_threshold(*threshold)


def test_there_is_code_in_the_documentation() -> None:
    assert len(PIECES) > 10


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.usefixtures("as_a_user")
def test_code_in_the_documentation_runs(piece: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(piece, "documentation.py", "exec", dont_inherit=True), names)  # noqa: S102 - the documentation's own
    for name, made in names.items():
        if name.startswith("test_"):
            run: Callable[[Path, pytest.MonkeyPatch], None] = made
            run(tmp_path / "of_its_own", monkeypatch)


def test_the_example_of_the_client_waits_for_its_task(as_a_user: None, capsys: pytest.CaptureFixture[str]) -> None:
    [example] = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / "docs/howto/client.md").read_text())
    exec(compile(example, "documentation.py", "exec", dont_inherit=True), {})  # noqa: S102
    assert capsys.readouterr().out.startswith("done ['user.alice.hello_hello.txt/'")


def test_the_tutorial_ends_as_it_says(panda: Panda, play: Callable[[DAG], Run], tmp_path: Path) -> None:
    hello, repair = re.findall(r"(?ms)^```python\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text())
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(hello + repair.replace("/tmp/", f"{tmp_path}/"), "tutorial.py", "exec", dont_inherit=True), names)  # noqa: S102, S108
    for step in ("hello", "repair"):
        run = play(names[step]())
        assert run.states == {step: "success"}
        assert run.results[step]["status"] == "done"
    assert {job.status for job in panda.client.task.get_job_descriptions(2)} == {"finished", "failed"}
