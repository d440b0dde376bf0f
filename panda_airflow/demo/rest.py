"""The few questions that the demo asks Airflow's REST API."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from panda_airflow.client import PandaError

_AGAIN = Retry(
    None,
    connect=0,
    read=0,
    status=5,
    status_forcelist=[500],
    allowed_methods=None,
    backoff_factor=0.5,
    raise_on_status=False,
)
"""With SQLite, the API server answers 500 and has done nothing where two of its requests lock each other out."""


class AirflowApi:
    """Airflow's REST API, as an administrator.

    :param url: of the API server.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http://", HTTPAdapter(max_retries=_AGAIN))

    def is_ready(self) -> bool:
        """Whether the API server answers, after which this client is logged in."""
        try:
            answer = self._session.get(f"{self.url}/auth/token", timeout=10)
        except requests.RequestException:
            return False
        if answer.ok:
            self._session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return answer.ok

    def unhealthy(self) -> list[str]:
        """List the parts of Airflow that have not reported yet."""
        parts = self._get("monitor/health")
        return [name for name, part in parts.items() if part["status"] != "healthy"]

    def was_parsed(self, dag_id: str, since: datetime) -> bool:
        """Whether the DAG processor has read a DAG since a time.

        :raises PandaError: the DAG file cannot be imported.
        """
        for error in self._get("importErrors")["import_errors"]:
            raise PandaError(f"Airflow cannot import {error['filename']}:\n{error['stack_trace']}")
        found = [dag for dag in self._get("dags")["dags"] if dag["dag_id"] == dag_id]
        return bool(found) and datetime.fromisoformat(found[0]["last_parsed_time"]) > since

    def trigger(self, dag_id: str, **more: Any) -> str:
        """Start a DAG run and return its ID.

        :param more: of the request, such as ``dag_run_id`` and ``conf``.
        """
        run = self._call("POST", f"dags/{dag_id}/dagRuns", json={"logical_date": None} | more)
        return str(run["dag_run_id"])

    def state(self, dag_id: str, run_id: str) -> str:
        """Read the state of a DAG run."""
        return str(self._get(f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def steps(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Read the task instances of a DAG run."""
        found: list[dict[str, Any]] = self._get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return found

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Read what a task instance returned, None if nothing yet."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        return (self._get(path, params={"stringify": "false"}, missing={"value": None}))["value"]

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request that does something."""
        return self._call("POST", path, json=body)

    def patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Send a request that changes something."""
        return self._call("PATCH", path, json=body)

    def _get(self, path: str, missing: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        return self._call("GET", path, missing, **more)

    def _call(self, method: str, path: str, missing: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        answer = self._session.request(method, f"{self.url}/api/v2/{path}", timeout=30, **more)
        if answer.status_code == requests.codes.not_found and missing is not None:
            return missing
        if not answer.ok:
            raise PandaError(f"Airflow refused {method} {path}: {answer.status_code} {answer.text:.500}")
        body: dict[str, Any] = answer.json()
        return body
