"""Steps that move and recover files, and the step that stores secrets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from panda_airflow.client import NotFound, PermissionDenied, Refused, TaskFailed, UsageError, WaitTimeout
from panda_airflow.operators.file import PandaFileRecoveryOperator, PandaGetFileOperator, PandaPutFileOperator
from panda_airflow.operators.secret import PandaSetSecretOperator
from panda_airflow.operators.workflow import PandaSubmitWorkflowOperator
from tests.airflow.conftest import Memory, Panda, Run, WorkerDied, task
from tests.support.scenes import task_with_lost_file

Play = Callable[[DAG], Run]
both_ways = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


def test_a_file_goes_into_the_cache_and_comes_back(panda: Panda, play: Play, tmp_path: Path) -> None:
    sandbox, elsewhere = tmp_path / "sources.higgs.tar.gz", tmp_path / "new" / "folder"
    sandbox.write_bytes(bytes(range(256)) * 99)
    with DAG("files") as dag:
        put = PandaPutFileOperator(task_id="put", path=str(tmp_path / "sources.{{ params.what }}.tar.gz"))
        put.params["what"] = "higgs"
        put >> PandaGetFileOperator(
            task_id="get", names=["{{ ti.xcom_pull('put')['name'] }}"], directory=str(elsewhere)
        )
    run = play(dag)
    source = run.results["put"].pop("source_url")
    assert run.results["put"] == {"name": "sources.higgs.tar.gz", "size": 256 * 99}
    assert source == panda.server.url_ssl
    assert run.results["get"] == [str(elsewhere / "sources.higgs.tar.gz")]
    assert (elsewhere / "sources.higgs.tar.gz").read_bytes() == sandbox.read_bytes()


def test_another_content_under_a_name_that_is_taken_is_refused(panda: Panda, memory: Memory, tmp_path: Path) -> None:
    file = tmp_path / "sources.tar.gz"
    step = PandaPutFileOperator(task_id="put", path=str(file))
    file.write_text("one")
    assert step.execute(memory())["size"] == 3
    assert step.execute(memory())["name"] == "sources.tar.gz"
    file.write_text("two")
    with pytest.raises(Refused, match="another file called"):
        step.execute(memory())


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/etc/passwd", "", "."])
def test_no_name_leads_outside_the_directory(panda: Panda, memory: Memory, tmp_path: Path, name: str) -> None:
    (panda.server.root / "outside").write_text("secret")
    step = PandaGetFileOperator(task_id="get", names=name, directory=str(tmp_path / "in" / "side"))
    with pytest.raises((UsageError, NotFound)):
        step.execute(memory())
    assert list((tmp_path / "in").rglob("*.*")) == []


def test_two_files_of_one_name_do_not_overwrite_each_other(panda: Panda, memory: Memory, tmp_path: Path) -> None:
    step = PandaGetFileOperator(task_id="get", names=["a/log.txt", "b/log.txt"], directory=str(tmp_path / "new"))
    with pytest.raises(UsageError, match=r"called log\.txt"):
        step.execute(memory())
    assert not (tmp_path / "new").exists()


def recovery(task_id: int | None, **options: Any) -> PandaFileRecoveryOperator:
    return PandaFileRecoveryOperator(
        task_id="recover", **({"jedi_task_id": task_id, "poll_interval": 0.1, "timeout": 30} | options)
    )


@both_ways
def test_a_lost_file_is_made_again(
    panda: Panda, play: Play, deferrable: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    task_id, lost = task_with_lost_file(panda)
    with DAG(f"recover_{deferrable}") as dag:
        recovery(task_id, deferrable=deferrable)
    run = play(dag)
    log = run.results["recover"]["log"]
    assert f"1 lost files -> {lost.name}" in log[1]
    assert f"Retried task {task_id}: done with" in log[-1]
    shown = capsys.readouterr().out
    assert all(line in shown for line in log)
    assert panda.wait(task_id, ("done",)).attempt_nr == 1
    [output] = panda.client.task.get_datasets_and_files(task_id, ["output"])
    made = [file.lfn for file in output.files if file.status == "finished"]
    assert len(made) == 2
    assert all((panda.server.backend.cache / lfn).read_text() == "125\n" for lfn in made)


def test_a_dry_run_changes_nothing(panda: Panda, memory: Memory) -> None:
    task_id, lost = task_with_lost_file(panda)
    before = panda.task(task_id)
    assert recovery(task_id, dry_run=True).execute(memory())["log"][-1].endswith("Done in the dry-run mode with True")
    assert (panda.task(task_id), lost.exists()) == (before, False)


def test_a_dataset_without_lost_files_needs_no_recovery(panda: Panda, memory: Memory) -> None:
    task_id = panda.client.task.submit(task("true", outputs=["mass.txt"])).task_id
    panda.wait(task_id)
    dataset = panda.client.task.get_datasets_and_files(task_id, ["output"])[0].name
    log = recovery(None, dataset=dataset).execute(memory())["log"]
    assert "No lost files" in log[-1]


def test_a_recovery_that_fails_fails_the_step_with_its_log(panda: Panda, memory: Memory) -> None:
    task_id = panda.client.task.submit(task("true", outputs=["mass.txt"])).task_id
    panda.wait(task_id)
    with pytest.raises(TaskFailed, match=rf"recovery of PanDA task {task_id} failed[\s\S]*Error: Failed"):
        recovery(task_id, force=True, files=["nothing.of.this.name"]).execute(memory())


def test_files_of_a_task_that_cannot_run_again_are_not_recovered(panda: Panda, memory: Memory) -> None:
    task_id, _ = task_with_lost_file(panda)
    panda.server.backend.store.update("tasks", "jediTaskID", task_id, status="aborted")
    with pytest.raises(TaskFailed, match="not accepted if the task is in aborted status"):
        recovery(task_id).execute(memory())


def test_the_recovery_of_a_strangers_task_is_refused(panda: Panda, memory: Memory) -> None:
    task_id, _ = task_with_lost_file(panda)
    panda.server.backend.store.update("tasks", "jediTaskID", task_id, userName="Eve Stranger")
    with pytest.raises(PermissionDenied):
        recovery(task_id).execute(memory())


def test_a_recovery_is_asked_for_once(panda: Panda, memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    task_id, _ = task_with_lost_file(panda)
    with monkeypatch.context() as idle:
        idle.setattr("panda_airflow.devserver.jedi.cycle.recover_lost_files", lambda *_: None)
        with pytest.raises(WaitTimeout, match="not been carried out yet"):
            recovery(task_id, dry_run=True, timeout=0).execute(memory())
    log = recovery(task_id, dry_run=True).execute(memory())["log"]
    assert "dry-run" in log[-1]
    assert len(list(panda.server.backend.cache.glob("jedilog/lost_file_recovery*"))) == 1


def test_a_recovery_of_nothing_is_a_mistake(panda: Panda, memory: Memory) -> None:
    with pytest.raises(UsageError, match="jedi_task_id or dataset"):
        recovery(None).execute(memory())


SOURCES: dict[str, dict[str, Any]] = {
    "connection": {"from_connection": "vault"},
    "variable": {"from_variable": "vault_word"},
    "callable": {"from_callable": lambda: "marked-word-125"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_secret_reaches_the_server_and_nothing_else(
    panda: Panda, play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    word = "marked-word-125"
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", json.dumps({"conn_type": "generic", "password": word}))
    monkeypatch.setenv("AIRFLOW_VAR_VAULT_WORD", word)
    with DAG(f"secret_{source}") as dag:
        step = PandaSetSecretOperator(task_id="set", key="higgs_word", **SOURCES[source])
    run = play(dag)
    assert panda.client.creds.get_user_secrets(["higgs_word"])["higgs_word"] == word
    assert run.results["set"] == {"key": "higgs_word"}
    shown = capsys.readouterr()
    assert "higgs_word" in shown.out + shown.err
    assert word not in shown.out + shown.err
    assert word not in repr([getattr(step, name) for name in step.template_fields])


def test_a_secret_is_deleted(panda: Panda, memory: Memory) -> None:
    panda.client.creds.set_user_secrets("old", "word")
    PandaSetSecretOperator(task_id="delete", key="old", delete=True).execute(memory())
    assert panda.client.creds.get_user_secrets() == {}


@pytest.mark.parametrize(
    "options",
    [{}, {"from_variable": "x", "delete": True}, {"from_callable": lambda: ""}, {"key": "", "delete": True}],
    ids=["nothing", "two things", "empty", "no key"],
)
def test_a_secret_without_one_value_is_a_mistake(panda: Panda, memory: Memory, options: dict[str, Any]) -> None:
    panda.client.creds.set_user_secrets("kept", "word")
    with pytest.raises(UsageError):
        PandaSetSecretOperator(task_id="set", **({"key": "kept"} | options)).execute(memory())
    assert panda.client.creds.get_user_secrets() == {"kept": "word"}


def test_a_workflow_is_submitted_once(panda: Panda, memory: Memory) -> None:
    step = PandaSubmitWorkflowOperator(task_id="flow", workflow_definition={"workflow_name": "higgs", "nodes": {}})
    first = step.execute(memory())
    assert first == step.execute(memory()) == {"workflow_id": 1}
    memory.clear()
    assert step.execute(memory()) == {"workflow_id": 2}


def test_a_worker_that_dies_while_it_submits_a_workflow_leaves_the_question_to_a_person(
    panda: Panda, memory: Memory
) -> None:
    step = PandaSubmitWorkflowOperator(task_id="flow", raw_request={"language": "cwl"})
    memory.store.dies_at = (2, "before")
    with pytest.raises(WorkerDied):
        step.execute(memory())
    with pytest.raises(Exception, match="Whether the submission of the workflow took place is unknown"):
        step.execute(memory())
    assert panda.server.backend.store.value("SELECT COUNT(*) FROM workflows") == 1


def test_a_workflow_of_two_kinds_is_a_mistake(panda: Panda, memory: Memory) -> None:
    with pytest.raises(UsageError):
        PandaSubmitWorkflowOperator(task_id="flow").execute(memory())
