"""JEDI: a thread that wakes every cycle, takes each task one step further and fills the job slots."""

from __future__ import annotations

import logging
import sqlite3
from datetime import timedelta
from threading import Event, Thread

from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi.execution import execute_commands
from panda_airflow.devserver.jedi.lifecycle import STEPS, break_task
from panda_airflow.devserver.jedi.recovery import recover_lost_files
from panda_airflow.devserver.jedi.refinement import register
from panda_airflow.devserver.pilot.slots import Slots
from panda_airflow.devserver.storage.store import DatabaseDown, Row

_log = logging.getLogger(__name__)

_BAD_PARAMETERS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, sqlite3.Error)
"""What parameters of the wrong type or size end in, wherever they are used first."""

_MOVING = (
    "SELECT t.* FROM tasks t WHERE t.status IN ('registered', 'defined', 'ready', 'scouted', 'prepared', 'passed', "
    "'toabort', 'tobroken', 'toretry', 'toincexec', 'rerefine', 'toreassign', 'aborting') "
    "OR (t.status = 'pending' AND t.oldStatus = 'registered') "
    "OR (t.status = 'scouting' AND t.walltimeUnit IS NOT NULL) "
    "OR (t.status IN ('running', 'scouting', 'finishing') AND ("
    "NOT EXISTS (SELECT 1 FROM jobs j WHERE j.jediTaskID = t.jediTaskID AND j.jobStatus IN "
    "('defined', 'activated', 'starting', 'running', 'transferring')) "
    "OR EXISTS (SELECT 1 FROM contents c WHERE c.jediTaskID = t.jediTaskID AND c.position IS NOT NULL "
    "AND c.status = 'ready' AND c.attemptNr < c.maxAttempt))) "
    "ORDER BY t.jediTaskID"
)
"""Tasks that can take a step; those that only wait for their jobs stay out of it, however many they are."""


class Jedi:
    """Drives tasks and jobs until it is stopped.

    :param backend: state, pace and directories.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._stopping = Event()
        self._wake = Event()
        self._slots = Slots(backend, self._wake.set)
        self._thread = Thread(target=self._live, name="jedi", daemon=True)

    def start(self, *, by_hand: bool = False) -> None:
        """Fail the jobs that a server which died left behind, and begin to work.

        :param by_hand: leave it to the caller to drive the tasks, by :meth:`cycle`.
        :raises DatabaseDown: the database is down.
        """
        self._backend.cache.mkdir(parents=True, exist_ok=True)
        self._slots.recover()
        if not by_hand:
            self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """Stop working and end every process of every job.

        :param timeout: longest wait for the thread, and for each job, in seconds.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._slots.close(timeout)

    def cycle(self) -> None:
        """Take every task one step further.

        :raises DatabaseDown: the database is down.
        """
        backend = self._backend
        moving = backend.store.rows(_MOVING)
        register(backend, backend.clock() - timedelta(seconds=backend.pace.registration))
        execute_commands(backend, backend.clock() - timedelta(seconds=backend.pace.command))
        recover_lost_files(backend, backend.clock() - timedelta(seconds=backend.pace.command))
        for task in moving:
            self._step(task)
        self._slots.obey()
        self._slots.fill()

    def _step(self, task: Row) -> None:
        """Take one task a step further, unless a command has moved it since it was read."""
        store, task_id = self._backend.store, task["jediTaskID"]
        try:
            with store.transaction():
                now = store.value("SELECT status FROM tasks WHERE jediTaskID = ?", task_id)
                if now == task["status"]:
                    STEPS[now](self._backend, task)
        except _BAD_PARAMETERS as error:
            _log.warning("task %s has parameters that JEDI cannot use: %r", task_id, error)
            break_task(self._backend, task_id, f"failed to refine task with {type(error).__name__}:{error}")

    def _live(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.cycle()
            except DatabaseDown:
                _log.debug("the database is down, JEDI waits")
            self._wake.wait(self._backend.pace.cycle)
