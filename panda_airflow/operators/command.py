"""Steps that command a PanDA task: JEDI executes a command minutes after the server has registered it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from panda_airflow.client import UsageError, WrongState
from panda_airflow.client.models import TaskInfo
from panda_airflow.client.status import ACTIVE_STATUSES, FINAL_STATUSES
from panda_airflow.operators.commanding import PandaCommandOperator
from panda_airflow.steps.base import Context
from panda_airflow.steps.once import at_most_once, same_as_sent
from panda_airflow.steps.result import TaskResult
from panda_airflow.steps.state_store import Memory
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.task import JEDI_PATIENCE, WaitPlan

ENDING = frozenset({"aborting", "toabort", "tobroken", "prepared", "passed"})
"""Active statuses in which a task is about to end, and is not to be told so again."""

HELD = frozenset({"paused", "throttled", "staging"})
"""Active statuses out of which ``task/resume`` leads."""


class PandaKillTaskOperator(PandaCommandOperator):
    """Kill a PanDA task and wait until it has ended; one that has ended already is success.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param broadcast: also tell the pilots directly.

    The other parameters are those of :class:`PandaCommandOperator`.
    """

    what = "Kill of"
    repeatable = True

    def __init__(
        self, *, broadcast: bool = False, statuses: Sequence[str] = tuple(sorted(FINAL_STATUSES)), **kwargs: Any
    ) -> None:
        super().__init__(statuses=statuses, **kwargs)
        self.broadcast = broadcast

    def is_needless(self, info: TaskInfo) -> bool:
        """Whether the task has ended or is about to."""
        return info.status in FINAL_STATUSES | ENDING

    def command(self, task_id: int) -> object:
        """Send ``task/kill``."""
        return self.client.task.kill(task_id, self.broadcast)


class PandaFinishTaskOperator(PandaCommandOperator):
    """End a PanDA task with what it has, and wait until it has ended.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param soft: let running jobs end first; otherwise they are killed.
    :param broadcast: also tell the pilots directly.
    :param statuses: statuses that show success; ``finished`` is the usual one where jobs were cut off.

    The other parameters are those of :class:`PandaCommandOperator`.
    """

    repeatable = True

    def __init__(
        self,
        *,
        soft: bool = False,
        broadcast: bool = False,
        statuses: Sequence[str] = ("done", "finished"),
        **kwargs: Any,
    ) -> None:
        super().__init__(statuses=statuses, **kwargs)
        self.soft = soft
        self.what = "Soft finish of" if soft else "Finish of"
        self.broadcast = broadcast

    def is_needless(self, info: TaskInfo) -> bool:
        """Whether the task has ended or is about to."""
        return info.status in FINAL_STATUSES | ENDING

    def command(self, task_id: int) -> object:
        """Send ``task/finish``."""
        return self.client.task.finish(task_id, self.soft, self.broadcast)


class PandaPauseTaskOperator(PandaCommandOperator):
    """Pause a PanDA task and wait until it is paused; needs the production role.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param timeout: longest wait; JEDI may drop the command silently.

    The other parameters are those of :class:`PandaCommandOperator`.
    """

    what = "Pause of"
    repeatable = True

    def __init__(
        self,
        *,
        statuses: Sequence[str] = ("paused",),
        timeout: timedelta | float | None = JEDI_PATIENCE,
        **kwargs: Any,
    ) -> None:
        super().__init__(statuses=statuses, timeout=timeout, **kwargs)

    def command(self, task_id: int) -> object:
        """Send ``task/pause``, but not to a task that is ending: it would stay paused for ever."""
        status = self.look(task_id).status
        if status in ENDING:
            raise WrongState(f"PanDA task {task_id} is {status}: it ends, and is not paused.", endpoint="task/pause")
        return self.client.task.pause(task_id)


class PandaResumeTaskOperator(PandaCommandOperator):
    """Resume a paused PanDA task and wait until it goes on; needs the production role.

    A task that is not paused is left alone. This step does not wait for the end of the task.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param timeout: longest wait; JEDI may drop the command silently.

    The other parameters are those of :class:`PandaCommandOperator`.
    """

    what = "Resumption of"

    def __init__(
        self,
        *,
        statuses: Sequence[str] = tuple(sorted((ACTIVE_STATUSES - HELD - ENDING) | {"done", "finished"})),
        timeout: timedelta | float | None = JEDI_PATIENCE,
        **kwargs: Any,
    ) -> None:
        super().__init__(statuses=statuses, timeout=timeout, **kwargs)

    def command(self, task_id: int) -> object:
        """Send ``task/resume``."""
        return self.client.task.resume(task_id)


class PandaReactivateTaskOperator(PandaCommandOperator):
    """Run a PanDA task again from the start and wait for it; needs the production role.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param keep_attempt_nr: do not count the attempts at each input from 0 again.
    :param trigger_job_generation: do not wait for JEDI's next cycle.

    The other parameters are those of :class:`PandaCommandOperator`.
    """

    what = "Reactivation of"
    runs_jobs = True
    is_hollow_without = True

    def __init__(self, *, keep_attempt_nr: bool = False, trigger_job_generation: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keep_attempt_nr = keep_attempt_nr
        self.trigger_job_generation = trigger_job_generation

    def is_needless(self, info: TaskInfo) -> bool:  # noqa: ARG002 - whatever it is
        """Whether the task is as wanted already: never, as it is to run again."""
        return False

    def command(self, task_id: int) -> object:
        """Send ``task/reactivate``."""
        return self.client.task.reactivate(task_id, self.keep_attempt_nr, self.trigger_job_generation)


class PandaReloadInputOperator(PandaCommandOperator):
    """Let an ended PanDA task look for new input and wait until it has run on it.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param ignore_hard_exhausted: even where the failure limits were exceeded (production role).

    The other parameters are those of :class:`PandaCommandOperator`.
    """

    what = "Reload of the input of"
    runs_jobs = True

    def __init__(self, *, ignore_hard_exhausted: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ignore_hard_exhausted = ignore_hard_exhausted

    def is_needless(self, info: TaskInfo) -> bool:  # noqa: ARG002 - whatever it is
        """Whether the task is as wanted already: never, as only JEDI knows of new input."""
        return False

    def command(self, task_id: int) -> object:
        """Send ``task/reload_input``."""
        return self.client.task.reload_input(task_id, self.ignore_hard_exhausted)


class PandaIncreaseAttemptsOperator(PandaCommandOperator):
    """Allow more attempts at the inputs of an active PanDA task; needs the production role.

    Each repeat would add as many again, so the command is given at most once.

    :param jedi_task_id: JediTaskID, or a template that yields it.
    :param increase: how many more, or a template that yields it.
    :param wait_for_completion: wait until the task ends.

    The other parameters are those of :class:`PandaCommandOperator`.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "jedi_task_id", "increase")

    def __init__(self, *, increase: int | str, wait_for_completion: bool = False, **kwargs: Any) -> None:
        super().__init__(wait_for_completion=wait_for_completion, **kwargs)
        self.increase = increase

    def obtain(self, context: Context) -> WaitPlan:
        """Give the command, at most once."""
        increase = self._read_increase()
        same_as_sent(self, context, "the increase of attempts")
        info = self.registered(self.task_id_of(self.jedi_task_id))
        since = time.time()
        at_most_once(self, context, "the increase of attempts", lambda: self._increase(info.task_id, increase))
        return self.plan(context, info.task_id, since)

    def _finish(self, context: Context, event: WaitEvent) -> TaskResult:
        """Tell in the result what the server said, too."""
        answered = Memory(context, "panda_once").recall() or {}
        result = super()._finish(context, event)
        result["message"] = answered.get("answer", "")
        return result

    def _increase(self, task_id: int, increase: int) -> str:
        reply = self.client.task.increase_attempts(task_id, increase)
        if re.search(r"\b0 inputs \(0 ", reply.message):
            raise WrongState(
                f"no attempt was added: no input of PanDA task {task_id} waits for a job or has failed.",
                endpoint="task/increase_attempts",
                server_says=reply.message,
                advice="Give the command before the attempts are used up, or retry the task.",
            )
        self.log.info("PanDA task %s: %s", task_id, reply.message)
        return reply.message

    def command(self, task_id: int) -> object:
        """Send ``task/increase_attempts``."""
        return self._increase(task_id, self._read_increase())

    def _read_increase(self) -> int:
        """Read the number as a DAG author or a template gives it.

        :raises UsageError: it is none.
        """
        if isinstance(self.increase, bool) or not str(self.increase).strip().isdecimal():
            raise UsageError(f"increase must be a number of attempts, not {self.increase!r:.80}.")
        return int(self.increase)
