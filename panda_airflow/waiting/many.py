"""Waiting for many tasks at once, as pure decisions: a :class:`~.task.Watch` for each, one event for all.

A wait for one task and a wait for a list therefore cannot disagree about a task.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypedDict, cast

from panda_airflow.client import errors
from panda_airflow.waiting.driver import Answer, Request
from panda_airflow.waiting.event import WaitEvent, with_products
from panda_airflow.waiting.task import WaitPlan, Watch, read_event

DETAILED = 100
"""Longest list whose tasks are told with names and output datasets: these cost space in the database and requests."""

_WORDS = frozenset({"note", "error_dialog"})


@dataclass(frozen=True)
class ManyPlan:
    """What a wait for many tasks needs to know, in JSON primitives so that a trigger can carry it.

    :param task_ids: JediTaskIDs, each once.
    :param each: how to wait for any of them; the task ID in it does not matter.
    :param fail_fast: give up as soon as one task ends badly; otherwise once all waits are over.
    """

    task_ids: tuple[int, ...]
    each: WaitPlan
    fail_fast: bool = True

    @property
    def tells_details(self) -> bool:
        """Whether the list is short enough for names and output datasets."""
        return len(self.task_ids) <= DETAILED

    def to_json(self) -> dict[str, Any]:
        """Write the plan as JSON primitives."""
        return {"task_ids": list(self.task_ids), "each": self.each.to_json(), "fail_fast": self.fail_fast}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ManyPlan:
        """Read what :meth:`to_json` wrote."""
        return cls(tuple(value["task_ids"]), WaitPlan.from_json(value["each"]), value.get("fail_fast", True))

    def flow(self) -> Generator[Request, Answer, ManyEvent]:
        """Begin the wait, for one of the drivers."""
        return many_flow(self)


class ManyEvent(TypedDict):
    """How a wait for many tasks ended.

    ``total`` counts the tasks of the plan, ``tasks`` tells in its order how the wait for each ended that is over, and
    ``first_bad`` is the task whose wait was the first to end badly, or 0; only that one is told with its error dialog.
    ``fate`` says what became of the tasks that were late.
    """

    total: int
    tasks: list[WaitEvent]
    first_bad: int
    fate: str


class ManyWatch:
    """Judges looks at many tasks, each with the time it was made.

    :param plan: what to wait for.
    :param first_bad: the task whose wait was the first to end badly, or 0.
    :param over: task IDs by how the wait for each ended, as JSON.
    :param waiting: task IDs by what the :class:`~.task.Watch` of each remembers, as JSON.
    """

    def __init__(
        self,
        plan: ManyPlan,
        *,
        first_bad: int = 0,
        over: Mapping[str, list[int]] | None = None,
        waiting: Mapping[str, list[int]] | None = None,
        **_: object,  # what another version remembers
    ) -> None:
        self.plan = plan
        self.first_bad = first_bad
        self._over = {
            task_id: cast("WaitEvent", told | {"task_id": task_id}) for task_id, told in _ungrouped(over or {})
        }
        self._waiting = {task_id: None for task_id in plan.task_ids if task_id not in self._over}
        self._watches = {task_id: self._new_watch(task_id, memory) for task_id, memory in _ungrouped(waiting or {})}
        self.note = ""
        self.warn = False

    @property
    def waiting(self) -> tuple[int, ...]:
        """The tasks that are still waited for."""
        return tuple(self._waiting)

    def memory(self) -> dict[str, Any]:
        """Tell in JSON primitives what a successor needs as its keyword arguments."""
        waiting = {task_id: watch.memory() for task_id, watch in self._watches.items()}
        over = {task_id: {**event, "task_id": 0} for task_id, event in self._over.items()}
        return {"first_bad": self.first_bad, "over": _grouped(over), "waiting": _grouped(waiting)}

    def judge(self, seen: object, now: float) -> ManyEvent | None:
        """Say how the wait ended, or None if it goes on; ``note`` and ``warn`` then hold what to log.

        :param seen: a task or an error by task ID, for those of which there is news, or one error for all that wait.
        """
        looks = dict.fromkeys(self._waiting, seen) if isinstance(seen, errors.PandaError) else seen
        if not isinstance(looks, Mapping):
            raise TypeError(f"a look at many tasks gave neither tasks nor an error: {seen!r:.200}")
        judged = [(self._watch(task_id), look) for task_id, look in looks.items() if task_id in self._waiting]
        ended = [event for watch, look in judged if (event := watch.judge(look, now))]
        for event in ended:
            self._end(event)
        self._tell(ended)
        return self.event() if not self._waiting or (self.plan.fail_fast and self.first_bad) else None

    def delay(self, now: float) -> float:
        """Seconds until the next look; see :func:`~panda_airflow.waiting.driver.pause`."""
        return self._watch(next(iter(self._waiting))).delay(now)

    def event(self, fate: str = "") -> ManyEvent:
        """Tell how the waits ended that are over; see :class:`ManyEvent`."""
        over = [self._over[task_id] for task_id in self.plan.task_ids if task_id in self._over]
        return {"total": len(self.plan.task_ids), "tasks": over, "first_bad": self.first_bad, "fate": fate}

    def _watch(self, task_id: int) -> Watch:
        """Return the watch of a task that is waited for, made once there is something to judge."""
        if task_id not in self._watches:
            self._watches[task_id] = self._new_watch(task_id, {})
        return self._watches[task_id]

    def _new_watch(self, task_id: int, memory: dict[str, Any]) -> Watch:
        return Watch(replace(self.plan.each, task_id=task_id), **memory)

    def _end(self, event: WaitEvent) -> None:
        """Stop waiting for a task; leave out of its event what would make that of thousands of tasks large."""
        task_id = event["task_id"]
        del self._waiting[task_id], self._watches[task_id]
        if event["kind"] != "ended" and not self.first_bad:
            self.first_bad = task_id
        words = set() if task_id == self.first_bad else _WORDS
        useless = words | ({"name", "files"} if len(self.plan.task_ids) > DETAILED else set())
        self._over[task_id] = cast("WaitEvent", {key: value for key, value in event.items() if key not in useless})

    def _tell(self, ended: list[WaitEvent]) -> None:
        lines = [_line(event) for event in ended if event["kind"] in ("ended", "failed")]
        alone = len(self.plan.task_ids) == 1
        lines += [watch.note for watch in self._watches.values()] if alone else [self._progress()]
        self.note = "\n".join(lines)
        self.warn = any(event["kind"] != "ended" for event in ended) or any(w.warn for w in self._watches.values())

    def _progress(self) -> str:
        total, over, troubled = len(self.plan.task_ids), self._over, [w for w in self._watches.values() if w.warn]
        told = f"{len(over)} of {total} PanDA tasks have ended{_counted(event['status'] for event in over.values())}"
        waits = _counted(watch.status for watch in self._watches.values())
        trouble = f" Trouble with {len(troubled)} of them, such as: {troubled[0].note}" if troubled else ""
        return f"{told}; waiting for {len(self._waiting)}{waits}.{trouble}"


def many_flow(plan: ManyPlan) -> Generator[Request, Answer, ManyEvent]:
    """Wait for many tasks: yield what to do, receive its answer, return how the wait ended.

    The answer to a look is what :meth:`ManyWatch.judge` takes, that to a kill an error or anything else by task ID.
    """
    watch = ManyWatch(plan)
    seen, now = yield Request(task_ids=watch.waiting)
    while (event := watch.judge(seen, now)) is None:
        seen, now = yield Request(watch.delay(now), note=watch.note, warn=watch.warn, task_ids=watch.waiting)
    late = tuple(over["task_id"] for over in event["tasks"] if over["kind"] == "timeout")
    if late and plan.each.cancel_on_timeout:
        note = f"{watch.note}\nKilling {_number(late)}: the deadline passed.".strip()
        answer, _ = yield Request(act="kill", note=note, warn=True, task_ids=late)
        return watch.event(_fate(late, answer))
    yield Request(act="state", note=watch.note, warn=watch.warn)  # of no task: its note counts, as nobody logs an event
    if plan.each.details and not event["first_bad"] and plan.tells_details:
        ended = {one["task_id"]: one for one in event["tasks"]}
        told = yield from with_products(ended, **replace(plan.each, task_id=plan.task_ids[0]).limits)
        bad = [task_id for task_id, one in told.items() if one["kind"] != "ended"]
        return {**event, "tasks": list(told.values()), "first_bad": bad[0] if bad else 0}
    return watch.event(f"What was late was left running: {_number(late)}." if late else "")


def read_many(event: object) -> ManyEvent:
    """Check that this is an event of a wait for many tasks, or for one, wherever it has been meanwhile.

    :raises UsageError: it is not, so that nothing strange is ever taken for success.
    """
    if not isinstance(event, dict) or not isinstance(event.get("tasks"), list):
        alone = read_event(event)
        first_bad = 0 if alone["kind"] == "ended" else alone["task_id"]
        return {"total": 1, "tasks": [alone], "first_bad": first_bad, "fate": ""}
    tasks = [read_event(task) for task in event["tasks"]]
    bad = {task["task_id"] for task in tasks if task["kind"] != "ended"}
    if event.get("first_bad") in (bad or {0}) and (bad or event.get("total") == len(tasks)):
        return cast("ManyEvent", event)
    raise errors.UsageError(f"this is not an event of a wait for PanDA tasks: {event!r:.200}")


def _grouped(facts: Mapping[int, object]) -> dict[str, list[int]]:
    """Write facts about tasks as JSON, each only once, as thousands of tasks have few different ones."""
    alike: dict[str, list[int]] = defaultdict(list)
    for task_id, fact in facts.items():
        alike[json.dumps(fact)].append(task_id)
    return dict(alike)


def _ungrouped(alike: Mapping[str, list[int]]) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((task_id, json.loads(text)) for text, task_ids in alike.items() for task_id in task_ids)


def _line(event: WaitEvent) -> str:
    files = event.get("files") or {"total": 0}
    finished = f", {files['finished']} of {files['total']} files finished" if files["total"] else ""
    verdict = "is" if event["kind"] == "ended" else "ended as"
    return f"PanDA task {event['task_id']} {verdict} {event['status']}{finished}."


def _counted(statuses: Iterable[str]) -> str:
    told = [f"{number} {status}" for status, number in Counter(filter(None, statuses)).most_common()]
    return f" ({', '.join(told)})" if told else ""


def _fate(late: tuple[int, ...], answer: object) -> str:
    answers = answer if isinstance(answer, Mapping) else dict.fromkeys(late, answer)
    refusals = [refusal for refusal in answers.values() if isinstance(refusal, errors.PandaError)]
    if refusals:
        return f"Killing {_number(refusals)} of {len(late)} failed, the first with: {refusals[0]}"
    return f"What was late was told to stop: {_number(late)}."


def _number(tasks: tuple[int, ...] | list[errors.PandaError]) -> str:
    return f"{len(tasks)} PanDA task{'' if len(tasks) == 1 else 's'}"
