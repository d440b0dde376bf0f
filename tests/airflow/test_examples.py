"""The example DAGs; the one with the particle table is run by the demo's test."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from airflow.sdk import DAG

from tests.airflow.conftest import Panda, task
from tests.support.running import play

pytestmark = pytest.mark.usefixtures("database")

EXAMPLES = Path(__file__).parents[2] / "dags_examples"


def example(name: str) -> DAG:
    """Make the DAG of an example that looks at its task more often than an author would."""
    dag: DAG = runpy.run_path(str(EXAMPLES / f"{name}.py"))[name]()
    for step in dag.tasks:
        for interval in {"poll_interval", "poke_interval"} & vars(step).keys():
            setattr(step, interval, 0.2)
    return dag


def test_every_example_is_a_dag_that_says_what_it_does() -> None:
    for path in EXAMPLES.glob("*.py"):
        dag = example(path.stem)
        assert dag.tasks
        assert dag.doc_md or dag.description, path


def test_hello_panda(panda: Panda) -> None:
    run = play(example("hello_panda"))
    [task_id] = panda.submitted()
    assert run.states == {"hello": "success"}
    files = panda.client.task.get_datasets_and_files(task_id, ["output"])[0].files
    said = {panda.server.backend.cache.joinpath(file.lfn).read_text() for file in files}
    assert said == {f"hello from job {number}\n" for number in (1, 2, 3, 4)}


def test_wait_for_task(panda: Panda) -> None:
    submitted = panda.client.task.submit(task(jobs=3))
    dag = example("wait_for_task")
    for params in (dag.params, *(step.params for step in dag.tasks)):
        params["jedi_task_id"] = submitted.task_id
    run = play(dag)
    assert run.states == {"wait": "success", "count_jobs": "success"}
    assert run.results["wait"]["status"] == "done"
    assert run.results["count_jobs"] == {"finished": 3}


def test_production_chain(panda: Panda) -> None:
    dag = example("production_chain")
    run = play(dag)
    assert set(run.states.values()) == {"success"}
    assert run.results["simulation.publish"]["status"] == "done"
    assert run.results["simulation.publish"]["files"]["finished"] == 10
    assert (dag.catchup, len(panda.submitted())) == (False, 1)


def test_after_production_has_nothing_to_do_where_no_task_has_ended(panda: Panda) -> None:
    run = play(example("after_production"))
    assert run.results["ended"] == []
    assert run.states["validate"] == "skipped"
