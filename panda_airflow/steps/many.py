"""From the event of a wait for many tasks to what a sensor returns, or to the exception that says why it cannot."""

from __future__ import annotations

from panda_airflow.client import TaskOutcome
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.steps.result import LOOK_AGAIN, TaskResult, settle
from panda_airflow.waiting.event import WaitEvent
from panda_airflow.waiting.many import DETAILED, ManyEvent

TOLD = 10
"""How many tasks that ended badly an exception names."""


def settle_many(hook: PandaHook, event: ManyEvent) -> list[TaskResult]:
    """Return the results of tasks that all ended well, raise the exception of the first that did not.

    :param event: what the wait returned, as :func:`~panda_airflow.waiting.many.read_many` gives it.
    :return: in the order of the plan; of more than ``DETAILED`` tasks without names and output datasets.
    :raises TaskOutcome: that of the first task that ended badly; it names the others.
    """
    if event["first_bad"]:
        _fail(hook, event)
    few = event["total"] <= DETAILED
    return [settle(hook, task, datasets=few) for task in event["tasks"]]


def _fail(hook: PandaHook, event: ManyEvent) -> None:
    bad = {task["task_id"]: task for task in event["tasks"] if task["kind"] != "ended"}
    try:
        settle(hook, bad[event["first_bad"]], LOOK_AGAIN)
    except TaskOutcome as error:
        lines = [*(_others(hook, list(bad.values()), event["total"]) if event["total"] > 1 else []), error.args[0]]
        error.args = ("\n".join(line for line in [*lines, event["fate"]] if line),)
        raise


def _others(hook: PandaHook, bad: list[WaitEvent], total: int) -> list[str]:
    named = [
        f"- {task['task_id']}: {task['kind']}, status {task['status'] or 'unknown'}, "
        f"{hook.config.task_page(task['task_id'])}"
        for task in bad[:TOLD]
    ]
    more = [f"- and {len(bad) - TOLD} more"] if len(bad) > TOLD else []
    return [f"{len(bad)} of {total} PanDA tasks did not end as wanted:", *named, *more, "The first of them:"]
