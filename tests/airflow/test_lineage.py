from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.openlineage.plugins.listener import OpenLineageListener
from airflow.providers.openlineage.utils.utils import translate_airflow_asset
from airflow.providers_manager import ProvidersManager
from airflow.sdk import DAG, Asset
from airflow.sdk.listener import get_listener_manager

from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.steps.lineage import INPUTS, OUTPUTS, dataset, declared_datasets
from tests.airflow.conftest import Panda, Run, task, unnamed

Play = Callable[[DAG], Run]
Emitted = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def emitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emitted]:
    """Let OpenLineage listen to steps, and read the events that it has written."""
    manager = get_listener_manager()
    file = tmp_path / "events.jsonl"
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__TRANSPORT", json.dumps(transport))
    monkeypatch.setenv("AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD", "True")
    listener = OpenLineageListener()
    manager.add_listener(listener)
    yield lambda: [json.loads(line) for line in file.read_text().splitlines()]
    manager.pm.unregister(listener)


def names(event: dict[str, Any], side: str) -> set[str]:
    return {f"{item['namespace']}/{item['name']}" for item in event[side]}


@pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])
def test_events_hold_the_datasets_and_the_task(panda: Panda, play: Play, emitted: Emitted, deferrable: bool) -> None:
    parameters = unnamed(
        task("echo 125 > mass.txt", outputs=["mass.txt"], dsForIN="user.bob.raw/, user.bob:user.bob.more")
    )
    with DAG(f"lineage_{deferrable}") as dag:
        PandaSubmitTaskOperator(task_id="fit", task_parameters=parameters, poll_interval=0.2, deferrable=deferrable)
    result = play(dag).results["fit"]
    started, *_, completed = emitted()
    inputs = {"panda://wlcg/user.bob.raw", "panda://wlcg/user.bob:user.bob.more"}
    assert (started["eventType"], completed["eventType"]) == ("START", "COMPLETE")
    assert names(started, "inputs") == names(completed, "inputs") == inputs
    assert names(started, "outputs") == {"panda://wlcg/user.bob.fit_mass.txt", "panda://wlcg/user.bob.fit.log"}
    assert names(completed, "outputs") == {f"panda://wlcg/{name.rstrip('/')}" for name in result["output_datasets"]}
    facet = completed["run"]["facets"]["externalQuery"]
    assert (facet["externalQueryId"], facet["source"]) == (str(result["jedi_task_id"]), panda.server.url_ssl)


def test_events_of_a_failure_name_the_task_and_the_error(panda: Panda, play: Play, emitted: Emitted) -> None:
    with DAG("lineage_failed") as dag:
        PandaSubmitTaskOperator(task_id="fit", task_parameters=unnamed(task("exit 7")), poll_interval=0.2)
    play(dag)
    [task_id] = panda.submitted()
    failed = emitted()[-1]
    assert failed["eventType"] == "FAIL"
    assert failed["run"]["facets"]["externalQuery"]["externalQueryId"] == str(task_id)
    assert f"PanDA task {task_id} ended as failed" in failed["run"]["facets"]["errorMessage"]["message"]
    assert names(failed, "outputs") == {"panda://wlcg/user.bob.fit.log"}


def test_a_step_that_submitted_nothing_still_tells_what_its_task_made(
    panda: Panda, play: Play, emitted: Emitted
) -> None:
    task_id = panda.client.task.submit(task("echo 125 > mass.txt", outputs=["mass.txt"])).task_id
    panda.wait(task_id)
    with DAG("lineage_retry") as dag:
        PandaRetryTaskOperator(task_id="repair", jedi_task_id=task_id, poll_interval=0.2)
    play(dag)
    assert "panda://wlcg/user.bob.fit_mass.txt" in names(emitted()[-1], "outputs")


def test_airflow_checks_assets_of_panda_and_gives_them_the_names_of_their_datasets() -> None:
    if "panda-airflow" not in ProvidersManager().providers:
        pytest.skip("the package is not installed here, so Airflow cannot discover it")
    assert translate_airflow_asset(Asset("panda://wlcg/user.bob.mass/"), None) == dataset("wlcg", "user.bob.mass/")
    with pytest.raises(ValueError, match="panda://<vo>/<dataset>"):
        Asset("panda://wlcg")


def test_datasets_are_found_wherever_parameters_declare_them() -> None:
    parameters = {
        "dsForIN": "user.bob.raw/,user.bob.more/",
        "log": {"type": "template", "param_type": "log", "dataset": "user.bob.log/"},
        "jobParameters": [
            {"type": "constant", "value": "-r ."},
            {"type": "template", "param_type": "input", "dataset": "user.bob.raw/"},
            {"type": "template", "param_type": "input", "dataset": "%%INDS%%"},
            {"type": "template", "param_type": "pseudo_input", "dataset": "seq_number"},
            {"type": "template", "param_type": "output", "dataset": "user.bob.mass/"},
            {"type": "template", "param_type": "output", "dataset": "user.bob.tid${TASKID}"},
        ],
    }
    assert declared_datasets(parameters, INPUTS) == ["user.bob.raw/", "user.bob.more/"]
    assert declared_datasets(parameters, OUTPUTS) == ["user.bob.mass/", "user.bob.log/"]
    assert declared_datasets("fit.json", INPUTS) == []


def test_openlineage_is_not_imported_unless_it_asks() -> None:
    check = (
        "import sys, panda_airflow.operators.task\n"
        "assert not [name for name in sys.modules if name.partition('.')[0] == 'openlineage']"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
