"""A page per task, in the place of the PanDA monitor: what the links of Airflow's steps lead to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.storage import tasks
from panda_airflow.devserver.storage.store import Row

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>PanDA task {task_id}</title>
<style>body {{ font-family: sans-serif; margin: 2em }} td, th {{ padding: .2em 1em; text-align: left }}</style>
</head><body><h1>PanDA task {task_id}</h1>{body}</body></html>
"""

_JOBS = (
    "SELECT PandaID, attemptNr, jobStatus, computingSite, pilotErrorCode, pilotErrorDiag, "
    "(SELECT lfn FROM files f WHERE f.PandaID = j.PandaID AND f.type = 'log') AS log "
    "FROM jobs j WHERE jediTaskID = ? ORDER BY PandaID"
)

_LOG = "SELECT lfn FROM files WHERE PandaID = CAST(? AS INTEGER) AND type = 'log'"


@dataclass(frozen=True)
class Monitor:
    """Serves the pages.

    :param backend: where the tasks are.
    """

    backend: Backend

    def routes(self) -> list[Route]:
        """List what this serves."""
        return [Route("/task/{task_id:int}/", self.task), Route("/filebrowser/", self.log)]

    def log(self, request: Request) -> Response:
        """Lead to the log of the job whose ``pandaid`` is asked for."""
        log = self.backend.store.row(_LOG, request.query_params.get("pandaid"))
        return (
            RedirectResponse(_cached(log["lfn"]))
            if log
            else HTMLResponse("There is no such job, or it has no log.", 404)
        )

    def task(self, request: Request) -> HTMLResponse:
        """Show a task and its jobs; like the monitor, to anybody."""
        task_id = request.path_params["task_id"]
        task = tasks.get(self.backend, task_id)
        if task is None:
            body, status = "<p>There is no such task, or it is not registered yet.</p>", 404
        else:
            body, status = _details(task) + _table(self.backend.store.rows(_JOBS, task_id)), 200
        return HTMLResponse(_PAGE.format(task_id=task_id, body=body), status)


def _cached(name: str) -> str:
    return f"/cache/{quote(name)}"


def _details(task: Row) -> str:
    shown = ("taskName", "status", "userName", "attemptNr", "creationDate", "stateChangeTime", "errorDialog")
    return f"<table>{''.join(_line([name, task[name]]) for name in shown)}</table>"


def _table(jobs: list[Row]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("PandaID", "attempt", "status", "site", "error", "log"))
    return f"<h2>Jobs</h2><table><tr>{head}</tr>{''.join(_job(job) for job in jobs)}</table>"


def _job(job: Row) -> str:
    error = f"{job['pilotErrorCode']}: {job['pilotErrorDiag']}" if job["pilotErrorCode"] else None
    log = f'<td><a href="{_cached(job["log"])}">log</a></td>' if job["log"] else ""
    return _line([job["PandaID"], job["attemptNr"], job["jobStatus"], job["computingSite"], error], log)


def _line(cells: Iterable[Any], more: str = "") -> str:
    shown = "".join(f"<td>{escape(str(cell or ''))}</td>" for cell in cells)
    return f"<tr>{shown}{more}</tr>"
