"""Run a DAG of one step that submits a task and defers, in this process, and write what came of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.airflow import conftest


def main(output: Path) -> None:
    """Run it.

    :param output: for state and result of the step.
    """
    from airflow.sdk import DAG  # noqa: PLC0415 - not before Airflow's home is known, as conftest makes it
    from airflow.utils import db  # noqa: PLC0415

    from panda_airflow.operators.task import PandaSubmitTaskOperator  # noqa: PLC0415
    from tests.support.running import play  # noqa: PLC0415

    db.initdb()
    with DAG("live") as dag:
        PandaSubmitTaskOperator(
            task_id="live",
            task_parameters=json.loads(os.environ["PANDA_LIVE_TASK"]),
            deferrable=True,
            poll_interval=float(os.environ["PANDA_LIVE_INTERVAL"]),
        )
    run: conftest.Run = play(dag)
    result = run.results["live"] or {}
    output.write_text(json.dumps({"state": run.states["live"], "status": result.get("status", "")}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
