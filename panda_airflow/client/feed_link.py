"""What a status feed does in threads: one client, whoever uses it, and the listener at its message broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Lock
from typing import TypeVar

from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import AuthError
from panda_airflow.client.feed_ledger import Question
from panda_airflow.client.models import TaskRow
from panda_airflow.client.push import Listener
from panda_airflow.client.session import PandaClient

R = TypeVar("R")

LOOKS_AT_ONCE = 8


def ask(client: PandaClient, question: Question) -> tuple[list[TaskRow], datetime | None]:
    """Put a question to the server.

    :return: the rows, and the latest of their times.
    :raises PandaError: it was not answered.
    """
    scope = question.scope
    found = client.task.get_tasks_modified_since(
        question.since, dn=scope.user or None, min_task_id=question.min_task_id, prod_source_label=scope.label
    )
    rows = list(found.values())
    return rows, max((row.modification_time for row in rows if row.modification_time), default=None)


class Link:
    """One client, the threads that use it, and the listener at its message broker.

    :param connect: makes the client, in a thread; called once, and again after the server refused the credential.
    :param listen: makes the listener, for a client that names a broker.
    """

    def __init__(self, connect: Callable[[], PandaClient], listen: Callable[[ClientConfig], Listener]) -> None:
        self.listener: Listener | None = None
        self._connect = connect
        self._listen = listen
        self._pool = ThreadPoolExecutor(LOOKS_AT_ONCE + 2, "panda-status-feed")  # a list and a question beside them
        self._lock = Lock()
        self._client: PandaClient | None = None
        self._closed = False

    async def run(self, call: Callable[[PandaClient], R]) -> R:
        """Let a thread use the client."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, call)

    def close(self) -> None:
        """Close the client in its thread, once nobody uses it."""
        self._pool.submit(self._close)
        self._pool.shutdown(wait=False)

    def _run(self, call: Callable[[PandaClient], R]) -> R:
        client = self._connected()
        try:
            answer = call(client)
        except AuthError:
            self._drop(client)
            raise
        if isinstance(answer, dict) and any(isinstance(one, AuthError) for one in answer.values()):
            self._drop(client)
        return answer

    def _connected(self) -> PandaClient:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
                if self._client.config.push_url and not self.listener and not self._closed:
                    self.listener = self._listen(self._client.config)
            return self._client

    def _drop(self, client: PandaClient) -> None:
        """Close a client; the connection is looked up again for the next request, with a new token perhaps."""
        with self._lock:
            if client is self._client:
                self._client = None
        client.close()

    def _close(self) -> None:
        with self._lock:
            self._closed = True  # a call may still be under way
            if self._client:
                self._client.close()
            if self.listener:
                self.listener.close()
