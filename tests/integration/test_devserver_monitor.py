"""The page of a task: where the links of Airflow's steps lead."""

from __future__ import annotations

import re
import time

import requests

from panda_airflow.client import ClientConfig, PandaClient
from panda_airflow.client.status import classify
from panda_airflow.client.task_parameters import command_task
from panda_airflow.devserver.server import DevServer


def test_the_page_of_a_task_shows_its_jobs_errors_and_logs(devserver: DevServer) -> None:
    config = ClientConfig.from_env({}, url=devserver.url, auth="oidc", vo="wlcg", token=devserver.token())
    with PandaClient(config) as client:
        name = "user.bob.<b>page"
        parameters = command_task(name, "echo '<i>no disk</i>' >&2; exit 7", vo="wlcg", max_attempt=1)
        task_id = client.task.submit(parameters).task_id
        page = f"{devserver.url}/task/{task_id}/"
        deadline = time.monotonic() + 30
        while (
            requests.get(page, timeout=5).status_code == 404 or not classify(client.task.get_status(task_id)).is_final
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    shown = requests.get(page, timeout=5).text
    assert "failed" in shown
    assert "&lt;i&gt;no disk&lt;/i&gt;" in shown
    assert "<b>page" not in shown
    found = re.search(r'href="(/cache/[^"]+)"', shown)
    assert found
    assert requests.get(devserver.url + found.group(1), timeout=5).headers["Content-Type"] == "application/gzip"
