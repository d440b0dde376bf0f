"""Scenarios side by side, what they come to, the table, and the command ``panda-airflow check``."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from panda_airflow.check.scenario import NotHere, Patience, Play, Result, Scenario, Stage, Wait, ask, perform
from panda_airflow.check.table import table
from panda_airflow.cli import main
from panda_airflow.client import NotFound, PandaClient
from panda_airflow.client.config import ClientConfig
from panda_airflow.devserver.server import DevServer
from tests.support.recorder import Recorder


class World:
    """Time that passes only while the runner sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def patience(self, seconds: float) -> Patience:
        return Patience(seconds, 1.0, lambda: self.now, self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds

    def reaches(self, second: float) -> Wait:
        return Wait(f"second {second:g}", lambda: self.now >= second and f"second {self.now:g}")


NO_CLIENT = cast("PandaClient", None)


def played(world: World, *scenarios: Scenario[Stage], seconds: float = 10.0) -> list[Result]:
    return perform([(item, Stage(NO_CLIENT)) for item in scenarios], world.patience(seconds))


def waits_for(world: World, *seconds: float) -> Scenario[Stage]:
    def play(stage: Stage) -> Play:
        for second in seconds:
            stage.tell((yield world.reaches(second)))

    return Scenario("waits", play, tuple(f"second {second:g}" for second in seconds))


def test_scenarios_wait_side_by_side() -> None:
    world = World()
    results = played(world, waits_for(world, 2, 5), waits_for(world, 4))
    assert [result.verdict for result in results] == ["same", "same"]
    assert world.now == 5


def test_what_does_not_come_in_time_is_no_difference_and_stops_no_other() -> None:
    world = World()
    late, well = played(world, waits_for(world, 2, 99), waits_for(world, 9))
    assert (late.verdict, late.missing, late.facts) == ("not seen in time", "second 99", ("second 2",))
    assert str(late) == "second 2; (not seen in time: second 99)"
    assert well.verdict == "same"
    assert world.now == 10


def test_a_wrong_fact_before_the_time_is_over_is_a_difference() -> None:
    world = World()

    def play(stage: Stage) -> Play:
        stage.tell("blue")
        yield world.reaches(99)

    [result] = played(world, Scenario("colour", play, ("red", "round")))
    assert result.verdict == "different"


def test_an_error_of_the_server_is_the_last_fact() -> None:
    def play(stage: Stage) -> None:
        stage.tell("asked")
        raise NotFound("no such task.")

    [result] = played(World(), Scenario("ask", play, ("asked", "answered")))
    assert (result.verdict, result.facts[0]) == ("different", "asked")
    assert result.facts[1].startswith("NotFound: no such task.")


def test_a_scenario_says_why_it_cannot_be_played() -> None:
    def play(stage: Stage) -> None:
        raise NotHere("needs a second identity")

    [result] = played(World(), Scenario("ask", play, ("asked",)))
    assert (result.verdict, str(result)) == ("not played", "(needs a second identity)")


def test_each_round_looks_once_at_what_is_waited_for() -> None:
    world, looks = World(), []

    def play(stage: Stage) -> Play:
        yield Wait("the end", lambda: world.now >= 2, 42)

    perform(
        [(Scenario("task", play, ()), Stage(NO_CLIENT))] * 2,
        world.patience(10),
        lambda waits: looks.append([wait.task_id for wait in waits]),
    )
    assert looks == [[42, 42]] * 2


def test_a_refusal_is_asked_for_once_and_told_as_the_client_would() -> None:
    pauses: list[float] = []
    with Recorder.running() as server:
        config = ClientConfig(url=server.url, auth="oidc", vo="wlcg", token="t")
        client = PandaClient(config, sleep=pauses.append)
        server.answer = 200, '{"success": true, "message": "Command rejected: no", "data": 4}'
        assert ask(client, "task/retry", task_id=1).word == "WrongState"
        server.answer = 500, "broken"
        assert ask(client, "task/get_status", task_id="x").word == "ServerError"
        assert pauses == []
        server.answer = 200, '{"success": true, "message": "", "data": "done"}'
        assert ask(client, "task/get_status", task_id=1).word == "accepted"


def test_a_table_breaks_long_cells() -> None:
    assert table(("name", "fact"), [("a", "one two three"), ("bcd", "")], width=8).splitlines() == [
        "name  fact",
        "----  -------",
        "a     one two",
        "      three",
        "bcd",
    ]


@pytest.fixture
def environment(devserver: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    values = devserver.environment() | {"PANDA_AUTH": "oidc", "PANDA_AUTH_VO": "wlcg"}
    for name, value in (values | {"PANDA_AUTH_ID_TOKEN": devserver.token()}).items():
        monkeypatch.setenv(name, value)


def run(*arguments: str) -> int:
    try:
        return main(["check", *arguments])
    except SystemExit as end:
        return int(str(end.code))


@pytest.mark.usefixtures("environment")
def test_check_says_who_we_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "knows you as Bob Tester." in capsys.readouterr().out


@pytest.mark.usefixtures("environment")
def test_a_live_check_changes_nothing_and_tells_every_answer(
    devserver: DevServer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(devserver)
    assert run("--live") == 0
    out = capsys.readouterr().out
    assert "an unknown job         status: unknown, tobekilled" in out
    assert contents(devserver) == before


def contents(server: DevServer) -> tuple[list[object], list[Path]]:
    tables = ("submissions", "tasks", "jobs", "secrets")
    rows: list[object] = [server.backend.store.rows(f"SELECT * FROM {name}") for name in tables]  # noqa: S608
    return rows, sorted(server.backend.cache.rglob("*"))


def test_a_connection_that_cannot_be_used_and_a_server_out_of_reach_have_codes_of_their_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("PANDA_URL_SSL", "PANDA_URL"):
        monkeypatch.delenv(name, raising=False)
    assert run() == 2
    assert "no server is named" in capsys.readouterr().err
    monkeypatch.setenv("PANDA_AUTH", "oidc")
    monkeypatch.setenv("PANDA_AUTH_VO", "wlcg")
    monkeypatch.setenv("PANDA_AUTH_ID_TOKEN", "t")
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    monkeypatch.setenv("PANDA_URL", "http://127.0.0.1:9")
    assert run() == 3
