"""The production chain: what it does with a PanDA task that goes well, needs repair, or is beyond repair."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from airflow.models.asset import AssetEvent, AssetModel
from airflow.models.dagrun import DagRun
from airflow.sdk import DAG, Asset, task_group
from airflow.sdk import task as taskflow
from airflow.sdk.exceptions import TaskDeferred
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select

from panda_airflow.client import TaskFailed, UsageError
from panda_airflow.task_groups import panda_task_group
from panda_airflow.waiting.task_retry import TaskRetryPolicy
from tests.airflow.conftest import PACE, Memory, Panda, Run, fails_once, serve, task, unnamed

Play = Callable[[DAG], Run]
STEPS = ("submit", "wait", "retry", "recover", "publish")


def chain(parameters: Any, name: str = "fit", **options: Any) -> Any:
    return panda_task_group(name, task_parameters=parameters, **({"poll_interval": 0.2, "timeout": 60} | options))


def states(*of: str, name: str = "fit") -> dict[str, str]:
    return {f"{name}.{step}": state for step, state in zip(STEPS, of, strict=True)}


def all_well(name: str = "fit") -> dict[str, str]:
    return states(*["success"] * 5, name=name)


@pytest.fixture
def slow_panda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panda]:
    """A server that executes a command so late that the old status of a task is seen meanwhile."""
    with serve(tmp_path / "panda", monkeypatch, pace=replace(PACE, command=2.0)) as running:
        yield running


def updates(asset: str) -> int:
    """How often an asset was updated."""
    with create_session() as session:
        events = (
            select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.name == asset)
        )
        return len(session.scalars(events).all())


@pytest.fixture
def play_again(play: Play, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Clear the only run of a DAG, all of it, and let Airflow run it again."""

    def cleared(*, dag: Any, session: Any, **_: Any) -> DagRun:
        run: DagRun = session.scalars(select(DagRun).where(DagRun.dag_id == dag.dag_id)).one()
        dag.clear(run_id=run.run_id, session=session)
        run.dag = dag
        run.set_state(DagRunState.RUNNING)
        session.commit()
        return run

    def again(dag: DAG) -> Run:
        with monkeypatch.context() as patch:
            patch.setattr("airflow.models.dagrun.get_or_create_dagrun", cleared)
            return play(dag)

    return again


def log_of_recovery(run: Run) -> str:
    return "\n".join(run.results["fit.recover"]["log"])


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_a_task_that_goes_well_is_published_and_left_alone(panda: Panda, play: Play, deferrable: bool) -> None:
    with DAG(f"chain_{deferrable}") as dag:
        chain(unnamed(task("echo 125 > mass.txt", outputs=["mass.txt"])), deferrable=deferrable)
    run = play(dag)
    [task_id] = panda.submitted()
    assert run.states == all_well()
    assert "No lost files" in log_of_recovery(run)
    published = run.results["fit.publish"]
    assert (published["jedi_task_id"], published["status"]) == (task_id, "done")
    assert any("mass.txt" in dataset for dataset in published["output_datasets"])
    assert panda.task(task_id).attempt_nr == 0


def test_what_failed_partly_is_retried_in_place(panda: Panda, play: Play, tmp_path: Path) -> None:
    with DAG("chain_repairs") as dag:
        chain(unnamed(task(fails_once(tmp_path))))
    run = play(dag)
    [task_id] = panda.submitted()
    assert run.states == all_well()
    assert (run.results["fit.wait"]["status"], run.results["fit.retry"]["status"]) == ("finished", "done")
    assert panda.task(task_id).attempt_nr == 1


def test_a_policy_retries_several_times_in_one_step(panda: Panda, play: Play, tmp_path: Path) -> None:
    tried = f"{tmp_path}/tried"
    fails_twice = f"echo again >> {tried}; [ $(wc -l < {tried}) -gt 6 ]"  # a retry grants five attempts
    with DAG("chain_insists") as dag:
        chain(unnamed(task(fails_twice, jobs=1)), retry=TaskRetryPolicy(attempts=2, delay=0))
    run = play(dag)
    assert run.states == all_well()
    assert run.tries["fit.retry"] == 1
    assert panda.task(panda.submitted()[0]).attempt_nr == 2


def test_a_hopeless_task_fails_with_its_report_and_is_not_published(panda: Panda, play: Play) -> None:
    with DAG("chain_hopeless") as dag:
        chain(unnamed(task("exit 7")))
    run = play(dag)
    assert run.states == states("success", "success", "failed", "upstream_failed", "upstream_failed")
    error = run.errors["fit.retry"]
    assert type(error) is TaskFailed
    assert "payload exit 7" in str(error)
    assert panda.task(panda.submitted()[0]).attempt_nr == 1


def test_a_task_that_cannot_be_retried_fails_where_it_is_waited_for(panda: Panda, play: Play) -> None:
    with DAG("chain_broken") as dag:
        chain(unnamed(task()) | {"vo": "nobody"})
    run = play(dag)
    assert run.states == states("success", "failed", *["upstream_failed"] * 3)
    assert "ended as broken" in str(run.errors["fit.wait"])


def test_what_the_author_accepts_is_not_retried(panda: Panda, play: Play, tmp_path: Path) -> None:
    with DAG("chain_content") as dag:
        chain(unnamed(task(fails_once(tmp_path))), statuses=["done", "finished"], recover=False)
    run = play(dag)
    assert run.states == {name: state for name, state in all_well().items() if name != "fit.recover"}
    assert run.results["fit.publish"]["status"] == "finished"
    assert panda.task(panda.submitted()[0]).attempt_nr == 0


@pytest.mark.parametrize("statuses", [["done"], ["done", "finished"]], ids=["done", "or finished"])
def test_lost_files_are_made_again_before_the_task_is_published(
    slow_panda: Panda, play: Play, statuses: list[str]
) -> None:
    panda, cache = slow_panda, slow_panda.server.backend.cache

    @taskflow
    def lose(result: dict[str, Any]) -> str:
        [output] = panda.client.task.get_datasets_and_files(result["jedi_task_id"], ["output"])
        lost = cache / output.files[0].lfn
        lost.unlink()
        return lost.name

    with DAG("chain_loses") as dag:
        group = chain(unnamed(task("echo 125 > mass.txt", outputs=["mass.txt"])), statuses=statuses)
        lose(group["retry"].output) >> group["recover"]
    run = play(dag)
    [task_id] = panda.submitted()
    assert run.states == {**all_well(), "lose": "success"}
    assert f"1 lost files -> {run.results['lose']}" in log_of_recovery(run)
    assert run.results["fit.publish"]["status"] == "done"
    assert panda.task(task_id).attempt_nr == 1
    [output] = panda.client.task.get_datasets_and_files(task_id, ["output"])
    assert all((cache / file.lfn).exists() for file in output.files if file.status == "finished")


def test_publishing_updates_the_assets(panda: Panda, play: Play) -> None:
    with DAG("chain_assets") as dag:
        chain(unnamed(task()), outlets=[Asset("higgs_mass")])
        chain(unnamed(task("exit 1")), "bad", outlets=[Asset("top_mass")])
    play(dag)
    assert (updates("higgs_mass"), updates("top_mass")) == (1, 0)


def test_a_cleared_run_goes_on_with_the_same_task(panda: Panda, play: Play, play_again: Play, tmp_path: Path) -> None:
    with DAG("chain_again") as dag:
        chain(unnamed(task(f"[ -e {tmp_path}/mended ]")))
    assert play(dag).states["fit.retry"] == "failed"
    (tmp_path / "mended").touch()
    run = play_again(dag)
    assert run.states == all_well()
    assert panda.submitted() == [run.results["fit.publish"]["jedi_task_id"]]
    assert panda.task(panda.submitted()[0]).attempt_nr == 2


def test_a_cleared_run_replaces_a_task_that_was_killed(
    panda: Panda, play: Play, play_again: Play, tmp_path: Path
) -> None:
    @taskflow
    def kill_the_first(submission: dict[str, Any]) -> None:
        if panda.submitted() == [submission["jedi_task_id"]]:
            panda.wait(submission["jedi_task_id"], ("running",))
            panda.client.task.kill(submission["jedi_task_id"])

    with DAG("chain_over") as dag:
        group = chain(unnamed(task(f"[ -e {tmp_path}/now ] || sleep 60")))
        kill_the_first(group["submit"].output) >> group["wait"]
    assert play(dag).states["fit.wait"] == "failed"
    (tmp_path / "now").touch()
    run = play_again(dag)
    assert run.states == {**all_well(), "kill_the_first": "success"}
    assert [panda.task(task_id).status for task_id in panda.submitted()] == ["aborted", "done"]


def test_a_chain_that_takes_too_long_ends_its_task(panda: Panda, play: Play) -> None:
    with DAG("chain_late") as dag:
        chain(unnamed(task("sleep 60")), timeout=1)
    run = play(dag)
    assert run.states == states("success", "failed", *["upstream_failed"] * 3)
    assert panda.wait(panda.submitted()[0]).status == "aborted"


@pytest.mark.parametrize("name", ["wait", "retry", "publish"])
def test_a_person_who_ends_a_waiting_step_ends_the_task(panda: Panda, memory: Memory, name: str) -> None:
    task_id = panda.client.task.submit(task("sleep 60")).task_id
    panda.wait(task_id, ("running",))
    with DAG("chain_ended"):
        step: Any = chain(unnamed(task()))[name]
    step.jedi_task_id = task_id
    with pytest.raises(TaskDeferred) as deferral:
        step.execute(memory())
    asyncio.run(deferral.value.trigger.on_kill())
    assert panda.wait(task_id).status == "aborted"


def test_defaults_reach_every_step_that_takes_them() -> None:
    with DAG("chain_defaults", default_args={"retries": 9}):
        steps = list(chain(unnamed(task()), retries=3, outage=60.0, cancel_on_kill=False))
    assert {step.retries for step in steps} == {3}
    assert {step.outage for step in steps} == {60.0}
    assert {getattr(step, "cancel_on_kill", False) for step in steps} == {False}


@pytest.mark.parametrize("by", ["group", "dag"])
def test_a_group_takes_nobodys_task_as_it_would_retry_and_kill_it(by: str) -> None:
    wish = {"on_existing": "adopt"}
    with (
        DAG("chain_adopts", default_args=wish if by == "dag" else {}),
        pytest.raises(UsageError, match="fit: a group cannot have on_existing='adopt'"),
    ):
        chain(task(), **(wish if by == "group" else {}))


def test_a_dag_has_many_chains_and_each_has_its_task(panda: Panda, play: Play) -> None:
    @taskflow
    def parameters(mass: int) -> dict[str, Any]:
        return unnamed(task(f"echo {mass}", jobs=1))

    @task_group
    def fit_at(mass: int) -> None:
        chain(parameters(mass))

    @taskflow
    def statuses(results: Any) -> list[str]:
        return [result["status"] for result in results]

    with DAG("chain_many") as dag:
        fits = fit_at.expand(mass=[124, 126])
        fits >> statuses(dag.get_task("fit_at.fit.publish").output)
        chain(parameters(125), "alone")
    run = play(dag)
    assert set(run.states.values()) == {"success"}
    assert run.results["statuses"] == ["done", "done"]
    assert len(panda.submitted()) == 3
    assert len({panda.task(task_id).name for task_id in panda.submitted()}) == 3
