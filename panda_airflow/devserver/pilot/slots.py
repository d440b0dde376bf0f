"""The one site of the embedded server: job slots, each a thread with a pilot."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.pilot.pilot import KILLED_BY_SERVER, JobOutcome, Pilot, adler32, end_orphans
from panda_airflow.devserver.storage import jobs
from panda_airflow.devserver.storage.store import DatabaseDown, Row

_NODE = "localhost"
_PATIENCE = 0.1


class Slots:
    """Runs jobs that are activated, as many at a time as the pace allows.

    :param backend: state, pace and directories.
    :param ended: called after a job has ended.
    """

    def __init__(self, backend: Backend, ended: Callable[[], None]) -> None:
        self._backend = backend
        self._ended = ended
        self._closing = Event()
        self._lock = Lock()
        self._pilots: dict[int, tuple[Pilot, Thread]] = {}

    def recover(self) -> None:
        """Fail the jobs that ran when the server died: their pilots fell silent.

        :raises DatabaseDown: the database is down.
        """
        end_orphans(self._backend.root / "scratch")
        sql = "SELECT PandaID FROM jobs WHERE jobStatus IN ('starting', 'running', 'transferring')"
        for row in self._backend.store.rows(sql):
            jobs.end(
                self._backend,
                row["PandaID"],
                "failed",
                jobDispatcherErrorCode=jobs.LOST_HEARTBEAT,
                jobDispatcherErrorDiag=f"lost heartbeat : {self._backend.clock():%Y-%m-%d %H:%M:%S}",
            )

    def fill(self) -> None:
        """Start as many activated jobs as there are free slots, the most urgent first.

        :raises DatabaseDown: the database is down.
        """
        store = self._backend.store
        free = self._backend.pace.slots - len(self._pilots)
        waiting = store.rows(
            "SELECT j.* FROM jobs j LEFT JOIN tasks t USING (jediTaskID) WHERE j.jobStatus = 'activated' "
            "AND (t.status IS NULL OR t.status NOT IN ('paused', 'aborting')) "
            "ORDER BY j.currentPriority DESC, j.PandaID LIMIT ?",
            max(free, 0),
        )
        for job in waiting:
            self._start(job)
        store.run("UPDATE jobs SET jobStatus = 'activated' WHERE jobStatus = 'defined'")

    def obey(self) -> None:
        """Stop the jobs that somebody wants dead.

        :raises DatabaseDown: the database is down.
        """
        sql = "SELECT PandaID FROM jobs WHERE jobStatus IN ('starting', 'running') AND commandToPilot = 'tobekilled'"
        doomed = {row["PandaID"] for row in self._backend.store.rows(sql)} if self._pilots else set()
        with self._lock:
            for job_id in doomed & self._pilots.keys():
                self._pilots[job_id][0].stop.set()

    def close(self, timeout: float) -> None:
        """Stop all jobs, with every process they started.

        :param timeout: longest wait for each, in seconds.
        """
        self._closing.set()
        with self._lock:
            running = list(self._pilots.values())
        for pilot, _ in running:
            pilot.stop.set()
        for _, thread in running:
            thread.join(timeout)

    def _start(self, job: Row) -> None:
        outputs = self._names(job, "output")
        scratch = self._backend.root / "scratch" / str(job["PandaID"])
        pilot = Pilot(job, outputs, self._backend.cache, scratch)
        thread = Thread(target=self._run, args=(pilot,), name=f"pilot-{job['PandaID']}", daemon=True)
        jobs.move(self._backend, job["PandaID"], "starting", pilotID="devserver", modificationHost=_NODE)
        with self._lock:
            self._pilots[job["PandaID"]] = (pilot, thread)
        thread.start()

    def _names(self, job: Row, kind: str) -> list[str]:
        rows = self._backend.store.rows("SELECT lfn FROM files WHERE PandaID = ? AND type = ?", job["PandaID"], kind)
        return [row["lfn"] for row in rows]

    def _run(self, pilot: Pilot) -> None:
        job_id = pilot.job["PandaID"]
        try:
            self._insist(lambda: jobs.move(self._backend, job_id, "running", startTime=self._backend.clock()))
            outcome = pilot.run()
            if not self._closing.is_set():
                self._insist(lambda: self._settle(pilot, outcome))
        finally:
            pilot.clean()
            with self._lock:
                del self._pilots[job_id]
            self._ended()

    def _insist(self, report: Callable[[], Any]) -> None:
        """Repeat a report until the database takes it, as a pilot repeats its heartbeat."""
        while not self._closing.is_set():
            try:
                report()
            except DatabaseDown:
                self._closing.wait(_PATIENCE)
            else:
                return

    def _settle(self, pilot: Pilot, outcome: JobOutcome) -> None:
        job_id = pilot.job["PandaID"]
        logs = self._names(pilot.job, "log")
        jobs.move(self._backend, job_id, "transferring")
        for lfn in logs:
            pilot.pack_log(lfn)
        for lfn in [*logs, *(pilot.outputs if not outcome.code else [])]:
            made = self._backend.cache / Path(lfn).name
            jobs.record_file(self._backend, job_id, lfn, fsize=made.stat().st_size, checksum=adler32(made))
        jobs.end(self._backend, job_id, _state(outcome), **_diagnostics(outcome, self._used(job_id)))

    def _used(self, job_id: int) -> int:
        started: datetime | None = (jobs.get(self._backend, job_id) or {}).get("startTime")
        return int((self._backend.clock() - started).total_seconds()) if started else 0


def _state(outcome: JobOutcome) -> str:
    if outcome.code == KILLED_BY_SERVER:
        return "cancelled"
    return "failed" if outcome.code else "finished"


def _diagnostics(outcome: JobOutcome, seconds: int) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "pilotErrorCode": outcome.code,
        "pilotErrorDiag": outcome.text or None,
        "cpuConsumptionTime": seconds,
    }
    if outcome.code == KILLED_BY_SERVER:
        return columns | {"taskBufferErrorCode": jobs.KILLED}
    if outcome.exit_code is not None:
        columns["transExitCode"] = str(outcome.exit_code)
        columns["jobMetrics"] = "nEvents=1"
    if outcome.exit_code:
        said = f"payload exit {outcome.exit_code}"
        columns["exeErrorCode"] = outcome.exit_code
        columns["exeErrorDiag"] = f"{said}: {outcome.tail}" if outcome.tail else said
    return columns
