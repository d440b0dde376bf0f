"""Analyse the Particle Data Group's table of particles in six PanDA jobs, some of which fail at first.

The table, ``particle2026.csv``, ships in the PyPI package ``particle`` (Scikit-HEP), which made it from the data
file of the Particle Data Group, https://pdg.lbl.gov. Two of the slices fail on purpose, one of them twice, so
that the task ends as ``finished`` and has to be retried; JEDI then tries each of them up to five times more.

The outputs are read from the cache of the embedded server; jobs of a real PanDA leave theirs in Rucio.
"""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from datetime import timedelta
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from airflow.sdk import dag, task

from panda_airflow.client.task_parameters import command_task
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor

TABLE = "particle2026.csv"
SCRIPT = Path(__file__).parent / "analysis" / "particle_slice.py"
SLICES = 6
JEDI_TASK_ID = "{{ ti.xcom_pull(task_ids='submit')['jedi_task_id'] }}"


@task(multiple_outputs=True)
def upload() -> dict[str, str]:
    """Pack the script and the table and upload them to PanDA's cache."""
    client = PandaHook().client
    with TemporaryDirectory() as directory, as_file(files("particle.data") / TABLE) as table:
        archive = Path(directory) / f"sources.{uuid4()}.tar.gz"
        with tarfile.open(archive, "w:gz") as sandbox:
            sandbox.add(SCRIPT, SCRIPT.name)
            sandbox.add(table, TABLE)
        return {"sandbox": client.put_file(archive), "source_url": client.cache_url}


@task
def merge(jedi_task_id: str) -> dict[str, Any]:
    """Download what the jobs wrote and make one summary of it."""
    client = PandaHook().client
    datasets = client.task.get_datasets_and_files(int(jedi_task_id), ["output"])
    outputs = [file.lfn for dataset in datasets for file in dataset.files if file.status == "finished"]
    with TemporaryDirectory() as directory:
        slices = [json.loads(client.download(lfn, Path(directory)).read_text()) for lfn in outputs]
    summary = {
        "particles": sum(part["particles"] for part in slices),
        "kinds": dict(sum((Counter(part["kinds"]) for part in slices), Counter())),
        "heaviest": max(part["heaviest"] for part in slices),
        "longest_lived": max(part["longest_lived"] for part in slices),
        "shortest_lived": min(part["shortest_lived"] for part in slices),
        "jobs": {str(part["slice"]): part["job"] for part in slices},
    }
    print(json.dumps(summary, indent=2))
    return summary


@dag(schedule=None, doc_md=__doc__)
def particle_table() -> None:
    """Upload, submit, wait, retry until done, merge."""
    submit = PandaSubmitTaskOperator(
        task_id="submit",
        task_parameters=command_task(
            "user.demo.particles.{{ dag_run.run_after | ts_nodash }}",
            f"python3 {SCRIPT.name} {TABLE} %RNDM:0 {SLICES}",
            vo="wlcg",
            jobs=SLICES,
            outputs=["slice.json"],
            sandbox="{{ ti.xcom_pull(task_ids='upload', key='sandbox') }}",
            sourceURL="{{ ti.xcom_pull(task_ids='upload', key='source_url') }}",
            max_attempt=1,
        ),
        wait_for_completion=False,
    )
    wait = PandaWaitTaskStatusSensor(
        task_id="wait",
        jedi_task_id=JEDI_TASK_ID,
        statuses=["done", "finished"],
        deferrable=True,
        poke_interval=0.5,
    )
    retry = PandaRetryTaskOperator(
        task_id="retry",
        jedi_task_id=JEDI_TASK_ID,
        deferrable=True,
        poll_interval=0.5,
        retries=3,
        retry_delay=timedelta(seconds=1),
    )
    upload() >> submit >> wait >> retry >> merge(JEDI_TASK_ID)


particle_table()
