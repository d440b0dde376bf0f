"""The trigger of asset watchers: an asset gets an event whenever a PanDA task ends.

Airflow confirms each event that it has stored, and only then a watcher's position is: with the asset, in the asset
state store. A triggerer that is killed between the two, a second or so, tells the end again, under the same ``end``,
and so do two that both take themselves for the owner of a trigger; no end is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError
from airflow.triggers.base import BaseEventTrigger, TriggerEvent
from airflow.triggers.shared_stream import AdvanceItem, SharedStreamProducer

from panda_airflow.client import PandaClient, PandaError, Refused, ServerError
from panda_airflow.client.models import TaskInfo
from panda_airflow.client.task_parameters import definition_digest
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.waiting.driver import check_interval
from panda_airflow.waiting.end_watcher import (
    TIME_FORMAT,
    EndQuery,
    EndWatcher,
    Position,
    TaskFilter,
    backoff,
    end_of,
    ended_at,
    read_time,
)
from panda_airflow.waiting.report import dialog

log = logging.getLogger(__name__)

MOST_ENDS = 10_000
"""Ends that an answer may hold at first; of more the server leaves out any, and is asked for twice as many."""

GATHERING = 1.0
"""Seconds before the first question, in which all watchers may join that start together."""

_watches: dict[Hashable, set[EndWatcher]] = {}
"""The watchers of each stream in this process."""


class PandaTaskEventTrigger(BaseEventTrigger):
    """Fires for each PanDA task that ends as wanted, once for each end, as long as an asset is watched.

    The event's payload holds ``end`` (a name of this end, for who must be sure not to handle it twice),
    ``jedi_task_id``, ``name``, ``status``, ``user``, ``attempt`` (retries that JEDI has executed), ``created``,
    ``started`` and ``ended`` (ISO 8601, UTC), ``files`` (inputs by ``total``, ``finished``, ``failed`` and
    ``missing``), ``error``, ``output_datasets`` and ``monitor_url``.

    It begins with the first end after its asset is first watched, and goes on where it was after any pause. All such
    triggers of a triggerer with the same connection, user, label and interval share one request per interval and
    status. An end that is over before the next request, because the task was retried at once, is not seen.

    :param panda_conn_id: Airflow connection.
    :param name: pattern of the task name, such as ``user.alice.simulation.*``.
    :param statuses: final statuses that count.
    :param user: owner of the tasks, as the server writes the name; the identity of the connection if empty.
    :param prod_source_label: such as ``user`` or ``managed``.
    :param working_group: any if empty.
    :param processing_type: any if empty.
    :param since: tell also the ends since this time (ISO 8601, UTC where it names no zone; the server reaches back 90
        days) when the asset is first watched.
    :param poll_interval: seconds between requests.
    :raises UsageError: this could never fire.
    """

    def __init__(
        self,
        panda_conn_id: str = PandaHook.default_conn_name,
        *,
        name: str = "*",
        statuses: Sequence[str] = ("done",),
        user: str = "",
        prod_source_label: str = "user",
        working_group: str = "",
        processing_type: str = "",
        since: str = "",
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.panda_conn_id = panda_conn_id
        self.filter = TaskFilter(name, statuses, user, prod_source_label, working_group, processing_type)
        self.since = since
        check_interval(poll_interval)
        self.poll_interval = poll_interval
        self._watch = EndWatcher(self.filter, Position.at(read_time(since)) if since else None)
        self._saved: dict[str, Any] | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Tell what makes an equal trigger elsewhere."""
        return f"{type(self).__module__}.{type(self).__qualname__}", {
            "panda_conn_id": self.panda_conn_id,
            **asdict(self.filter),
            "statuses": list(self.filter.statuses),
            "since": self.since,
            "poll_interval": self.poll_interval,
        }

    def shared_stream_key(self) -> Hashable:
        """Name the stream: what is asked for, of whom, and how often."""
        scope = (self.panda_conn_id, self.filter.user, self.filter.prod_source_label)
        return ("ends of PanDA tasks", *scope, self.poll_interval)

    @classmethod
    def create_shared_stream_producer(cls, kwargs: dict[str, Any]) -> TaskEnds:
        """Open the stream for all triggers with the same key.

        :param kwargs: of any of them.
        """
        trigger = cls(**kwargs)
        watches = _watches.setdefault(trigger.shared_stream_key(), set())
        return TaskEnds(trigger.panda_conn_id, trigger.poll_interval, watches)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Fire alone, where Airflow shares no streams."""
        producer = self.create_shared_stream_producer(self.serialize()[1])
        async for event in self.filter_shared_stream(producer.alone()):
            yield event

    async def filter_shared_stream(self, shared_stream: AsyncIterator[Ends]) -> AsyncIterator[TriggerEvent]:
        """Fire for those ends of the stream that this trigger is for."""
        self._watch.position = await self._load() or self._watch.position
        watches = _watches.setdefault(self.shared_stream_key(), set())
        watches.add(self._watch)
        try:
            async for ends in shared_stream:
                if self._watch in ends.question.watches:
                    for info in self._watch.take(ends.question, ends.tasks):
                        yield TriggerEvent(ends.payloads[end_of(info)])
                    if position := self._watch.position:
                        ends.saves.append(partial(self._save, position))
        finally:
            watches.discard(self._watch)

    async def _load(self) -> Position | None:
        """Read the position that was stored last; equal watchers of several assets are one trigger to Airflow."""
        stored = [await store.aget(self._key()) for store in self._stores()]
        return max(map(Position.from_json, filter(None, stored)), key=lambda position: position.since, default=None)

    async def _save(self, position: Position) -> None:
        """Store a position with each asset; if that fails, the next one will do."""
        value = position.to_json()
        if value == self._saved:
            return
        try:
            for store in self._stores():
                await store.aset(self._key(), value)
        except AirflowRuntimeError as error:
            log.warning("Airflow has not stored how far the watch for PanDA tasks %s has come: %s", self.filter, error)
        else:
            self._saved = value

    def _key(self) -> str:
        """Name the position, which belongs to an asset and to this filter, for an asset may have several watchers."""
        return f"panda_task_ends_{definition_digest({'panda_conn_id': self.panda_conn_id, **asdict(self.filter)})}"

    def _stores(self) -> Collection[Any]:
        """List the state stores of the watched assets, which Airflow's public methods reach only if there is one."""
        return list(self.asset_state_store._by_name.values()) if self.asset_state_store else []


@dataclass(frozen=True)
class Ends:
    """An answer of the server.

    :param tasks: tasks that had ended lately.
    :param payloads: of the events that watchers wait for, by :func:`~panda_airflow.waiting.end_watcher.end_of`.
    :param saves: what to do once all of these events are stored.
    """

    question: EndQuery
    tasks: list[TaskInfo]
    payloads: dict[str, dict[str, Any]]
    saves: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def settle(self) -> None:
        """Let each watcher store its position."""
        for save in self.saves:
            await save()


class TaskEnds(SharedStreamProducer):
    """Asks the server, on behalf of all watchers of a stream, which tasks have ended; whatever fails is asked again.

    :param panda_conn_id: Airflow connection.
    :param poll_interval: seconds between questions.
    :param watches: the watchers, who come and go.
    """

    def __init__(self, panda_conn_id: str, poll_interval: float, watches: set[EndWatcher]) -> None:
        self._panda_conn_id = panda_conn_id
        self._interval = poll_interval
        self._watches = watches

    async def open_stream(self) -> AsyncIterator[tuple[Ends, Ends]]:
        """Yield answers, for ever."""
        pause, failures = min(GATHERING, self._interval), 0
        while True:
            await asyncio.sleep(pause)
            if not self._watches:
                continue
            try:
                ends = await asyncio.to_thread(self._ask, EndQuery.of(self._watches, _utc()))
            except PandaError as error:
                failures += 1
                pause = backoff(self._interval, failures, error)
                log.warning(
                    "%s is asked again in %.0f s which PanDA tasks have ended: %s", self._panda_conn_id, pause, error
                )
            else:
                pause, failures = self._interval, 0
                yield ends, ends

    async def advance(self, batch: Sequence[AdvanceItem]) -> None:
        """Let the watchers store their positions, for Airflow has stored their events."""
        for item in batch:
            if item.outcome.is_clean:
                await item.broker_payload.settle()

    async def alone(self) -> AsyncIterator[Ends]:
        """Yield answers where Airflow confirms nothing; within an interval it will have stored the events."""
        last: Ends | None = None
        async for ends, _ in self.open_stream():
            if last:
                await last.settle()
            yield ends
            last = ends

    def _ask(self, question: EndQuery) -> Ends:
        """Ask with a new client, so that a connection that was changed is used as it is now."""
        with PandaHook(self._panda_conn_id).client as client:
            tasks = [info for text in question.filters() for info in read_ends(client, question, text)]
            new = {end_of(info): info for watch in question.watches for info in watch.new(tasks)}
            return Ends(question, tasks, {end: describe(client, info) for end, info in new.items()})


def read_ends(client: PandaClient, question: EndQuery, filters: str) -> list[TaskInfo]:
    """Read the tasks that one filter finds, all of them.

    :raises PandaError: the server did not answer.
    """
    since, number = question.since.strftime(TIME_FORMAT), MOST_ENDS
    while len(found := client.task.get_tasks_detailed_info_since(since, filters, number)) >= number:
        number *= 2
    return found


def describe(client: PandaClient, info: TaskInfo) -> dict[str, Any]:
    """Describe an end, in JSON primitives.

    :raises PandaError: the server did not answer.
    """
    return {
        "end": end_of(info),
        "jedi_task_id": info.task_id,
        "name": info.name,
        "status": info.status,
        "user": info.user_name,
        "attempt": info.attempt_nr,
        "created": _write(info.creation_time),
        "started": _write(info.start_time),
        "ended": _write(ended_at(info)),
        "files": {
            "total": info.n_files,
            "finished": info.n_files_finished,
            "failed": info.n_files_failed,
            "missing": info.n_files_missing,
        },
        "error": dialog(info.error_dialog),
        "output_datasets": _output_datasets(client, info.task_id),
        "monitor_url": client.config.task_page(info.task_id),
    }


def _output_datasets(client: PandaClient, task_id: int) -> list[str]:
    """Read the names of the outputs; they may be missing from an event, the event itself may not."""
    try:
        return client.task.get_details(task_id).output_datasets
    except (Refused, ServerError) as error:
        log.warning("The outputs of PanDA task %s cannot be read: %s", task_id, error)
        return []


def _write(time: datetime | None) -> str | None:
    return time.replace(tzinfo=UTC).isoformat() if time else None


def _utc() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)
