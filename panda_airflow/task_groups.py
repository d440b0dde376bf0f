"""The usual production chain as a task group: submit, wait, retry, recover, publish."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import TaskGroup

from panda_airflow.client import UsageError
from panda_airflow.client.status import RETRYABLE_STATUSES, check_statuses
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.operators.file import PandaFileRecoveryOperator
from panda_airflow.operators.retry import PandaRetryTaskOperator
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.sensors.task import PandaWaitTaskStatusSensor
from panda_airflow.waiting.task_retry import TaskRetryPolicy

YEARS = timedelta(days=3650)
"""A sensor that is given no timeout gives up after a week; a production may take longer."""


def panda_task_group(
    group_id: str,
    *,
    task_parameters: Any,
    retry: TaskRetryPolicy | None = None,
    recover: bool = True,
    statuses: Sequence[str] = ("done",),
    outlets: Sequence[Any] = (),
    deferrable: bool = True,
    poll_interval: float = 60.0,
    timeout: timedelta | float | None = None,
    panda_conn_id: str = PandaHook.default_conn_name,
    **defaults: Any,
) -> TaskGroup:
    """Build the steps that bring one PanDA task to a good end.

    ``submit`` submits the task once. ``wait`` waits until it has ended, well or in a way that a retry may mend.
    ``retry`` retries what failed, and leaves a task that satisfies alone. ``recover`` lets PanDA make lost files
    again. ``publish`` waits for what a recovery runs again, retries it where it failed, and succeeds only if the task
    satisfies. A step that fails says why and holds up the rest: ``wait`` where the task is aborted or broken,
    ``retry`` where retries do not help.

    Whichever step waits, the PanDA task is killed when a person ends or clears that step or its timeout passes;
    ``wait`` does so only where it is deferred. A clear of the group goes on with the PanDA task, even if it failed,
    and submits anew where it is aborted or broken or its parameters have changed. To start over while it runs, clear
    the group, which kills it, and once more if ``wait`` then finds it aborted.

    ``group["publish"].output`` is what a step for a task returns: ``jedi_task_id``, ``status``, ``output_datasets`` ...
    For a chain per element of a list, call this in a function with ``@task_group`` and expand that.

    :param group_id: name of the group, and prefix of its steps.
    :param task_parameters: as :class:`~panda_airflow.operators.task.PandaSubmitTaskOperator` takes them, or the
        output of a step.
    :param retry: when and how often ``retry`` and ``publish`` retry the PanDA task; by default once in each try.
    :param recover: have lost files recovered. To PanDA every output is lost that Rucio does not know, so turn this
        off where outputs are kept elsewhere.
    :param statuses: statuses of the PanDA task that satisfy.
    :param outlets: assets that are updated when ``publish`` succeeds.
    :param deferrable: wait in the triggerer, where no worker is held.
    :param poll_interval: seconds between looks at first; long waits look less often.
    :param timeout: longest wait of ``wait``, ``retry`` and ``publish`` each, as a timedelta or in seconds; by default
        no limit.
    :param panda_conn_id: Airflow connection of type ``panda``.
    :param defaults: what steps take, for all that take it, such as ``retries``, ``outage`` or ``cancel_on_kill``.
    :raises UsageError: the task may be that of somebody else (``on_existing="adopt"``), or a status is none.
    """
    repairable = tuple(sorted({"done", *check_statuses(statuses, f"statuses of {group_id}")} | RETRYABLE_STATUSES))
    common = {"panda_conn_id": panda_conn_id, "deferrable": deferrable}
    common |= {"poll_interval": poll_interval, "poke_interval": poll_interval}
    common |= {"cancel_on_kill": True, "cancel_on_timeout": True}
    repair: dict[str, Any] = {"statuses": statuses, "task_retry": retry, "timeout": timeout}
    with TaskGroup(group_id, default_args=common | defaults) as group:  # type: ignore[arg-type]
        submit = PandaSubmitTaskOperator(
            task_id="submit",
            task_parameters=task_parameters,
            wait_for_completion=False,
            statuses=repairable,
            on_clear="continue",
        )
        if submit.on_existing == "adopt":
            raise UsageError(
                f"{group_id}: a group cannot have on_existing='adopt', as its steps retry and kill the task.",
                advice="Give a PandaSubmitTaskOperator on_existing='adopt' and let it wait.",
            )
        submitted: Any = submit.output
        wait = PandaWaitTaskStatusSensor(
            task_id="wait",
            jedi_task_id=submitted,
            statuses=repairable,
            timeout=YEARS if timeout is None else timeout,
        )
        last = wait >> PandaRetryTaskOperator(task_id="retry", jedi_task_id=submitted, **repair)
        if recover:
            last = last >> PandaFileRecoveryOperator(task_id="recover", jedi_task_id=submitted)
        last >> PandaRetryTaskOperator(task_id="publish", jedi_task_id=submitted, outlets=list(outlets), **repair)
    return group
