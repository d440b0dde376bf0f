"""Files, secrets, what jobs tell, the feed, and a DAG. Expected is what recorded histories of real servers show."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import signal
import subprocess
import sys
import tarfile
from contextlib import suppress

from panda_airflow.check.scenario import Play, Scenario, Wait, scenario_of
from panda_airflow.client.errors import Refused
from tests.live.stage import Live, airflow_connection
from tests.live.submissions import FAILS

FILES: list[Scenario[Live]] = []
scenario = scenario_of(FILES)


@scenario(
    "a file in the cache",
    "uploaded",
    "found by its checksum",
    "downloads as it was",
    "again: taken for the same",
    "other content: Refused",
    "delete: accepted",
    "still there",
)
def _cache_file(stage: Live) -> None:
    client, name = stage.client, f"sources.{secrets.token_hex(16)}.tar.gz"
    file = stage.file(name, gzip.compress(secrets.token_bytes(200)))
    stage.tell("uploaded" if client.put_file(file) == name else "under another name")
    stage.tell("found by its checksum" if client.find_file(file).name == name else "not found")
    copy = client.download(name, file.with_suffix(".copy"))
    stage.tell("downloads as it was" if copy.read_bytes() == file.read_bytes() else "downloads as something else")
    stage.tell("again: taken for the same" if client.put_file(file) == name else "again: another name")
    file.write_bytes(gzip.compress(secrets.token_bytes(200)))
    try:
        client.put_file(file)
        stage.tell("other content: taken")
    except Refused:
        stage.tell("other content: Refused")
    stage.tell(f"delete: {stage.ask('file_server/delete_cache_file', file_name=name).word}")
    stage.tell("still there" if client.download(name, copy) == copy else "gone")


@scenario("a secret", "kept", "deleted")
def _secret(stage: Live) -> None:
    creds, key, value = stage.client.creds, f"live_{secrets.token_hex(8)}", secrets.token_hex(8)
    stage.site.endings.append(lambda: creds.set_user_secrets(key, None))
    creds.set_user_secrets(key, value)
    stage.tell("kept" if creds.get_user_secrets([key]).get(key) == value else "not kept")
    creds.set_user_secrets(key, None)
    stage.tell("deleted" if key not in creds.get_user_secrets([key]) else "not deleted")


@scenario("sandbox and output", "done", "containers of outputs and logs", "finished", "output of the job", jobs=1)
def _sandbox(stage: Live) -> Play:
    packed = stage.file(f"sources.{secrets.token_hex(16)}.tar.gz", b"")
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(stage.file("in.txt", b"1\n"), "in.txt")
    sandbox = stage.client.put_file(packed)
    described = stage.parameters("cp in.txt o.txt", ["o.txt"], sandbox, sourceURL=stage.client.cache_url)
    task_id = stage.submit(described)
    seen = yield stage.end(task_id)
    stage.tell(seen.status)
    found = stage.client.task.get_details(task_id).output_datasets
    wanted = [f"{stage.task_name}_o.txt/", f"{stage.task_name}.log/"]
    stage.tell("containers of outputs and logs" if found == wanted else ", ".join(found))
    [job] = stage.client.task.get_job_descriptions(task_id)
    stage.tell(job.status)
    kinds = {file["type"] for file in job.files}
    stage.tell("output of the job" if "output" in kinds else f"files of the job: {', '.join(sorted(kinds))}")


@scenario("a job that succeeded", "finished", "status: finished", "unsuccessful jobs: none", "finished*1", jobs=1)
def _good_job(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters())
    yield stage.end(task_id)
    [job] = stage.client.task.get_job_descriptions(task_id)
    [state] = stage.client.job.get_status([job.panda_id])
    bad = stage.client.task.get_job_descriptions(task_id, unsuccessful_only=True)
    stage.tell(job.status, f"status: {state.status}", f"unsuccessful jobs: {len(bad) or 'none'}")
    stage.tell(stage.client.task.get_details(task_id).statistics)


@scenario("a job that failed", "failed", "says why", "attempt 1", "failed*1", jobs=1)
def _bad_job(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters(FAILS))
    yield stage.end(task_id)
    [job] = stage.client.task.get_job_descriptions(task_id, unsuccessful_only=True)
    stage.tell(job.status, "says why" if job.errors else "does not say why", f"attempt {job.attempt_nr}")
    stage.tell(stage.client.task.get_details(task_id).statistics)


@scenario("the feed of a task", "in the feed under its ID", "done", "changed after it was submitted", jobs=1)
def _feed(stage: Live) -> Play:
    task_id = stage.submit(stage.parameters())
    yield stage.end(task_id)
    rows = stage.client.task.get_tasks_modified_since(stage.site.since)
    row = rows.get(str(task_id))
    stage.tell("in the feed under its ID" if row and row.task_id == task_id else "not in the feed")
    if row and row.modification_time and row.creation_time:
        stage.tell(row.status)
        later = row.modification_time >= row.creation_time
        stage.tell("changed after it was submitted" if later else "changed before it was submitted")


@scenario("a DAG that defers", "success", "done", "1 task", jobs=1)
def _dag(stage: Live) -> Play:
    output = stage.file("dag.json", b"")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PANDA", "OIDC_", "X509"))}
    environment |= {
        "AIRFLOW_CONN_PANDA_DEFAULT": airflow_connection(stage.client.config),
        "PANDA_LIVE_TASK": json.dumps(stage.parameters()),
        "PANDA_LIVE_INTERVAL": str(stage.site.interval),
        "TMPDIR": stage.site.folder.name,
    }
    with stage.file("dag.log", b"").open("wb") as log:
        command = [sys.executable, "-m", "tests.live.dag", str(output)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    stage.site.endings.append(end)
    yield Wait("the end of the DAG run", lambda: process.poll() is not None)
    told = json.loads(output.read_text() or "{}")
    stage.tell(told.get("state", "no DAG run"), told.get("status", ""))
    stage.tell(f"{len(stage.named())} task")
