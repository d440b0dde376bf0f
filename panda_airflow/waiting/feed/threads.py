"""What a status feed does in threads: one client, whoever uses it, and the listener at its message broker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from threading import Lock
from typing import TypeVar

from panda_airflow.client.auth.credentials import account_of
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import AuthError, NotOurs, PandaError
from panda_airflow.client.models import TaskRow
from panda_airflow.client.session import PandaClient
from panda_airflow.client.stored import Account
from panda_airflow.waiting.feed.planner import BulkPoll
from panda_airflow.waiting.feed.push import BrokerListener
from panda_airflow.waiting.ownership import RESTORE, elsewhere

R = TypeVar("R")

LOOKS_AT_ONCE = 8


def send_bulk_poll(client: PandaClient, question: BulkPoll) -> tuple[list[TaskRow], datetime | None]:
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


class ClientThreads:
    """One client, the threads that use it, and the listener at its message broker.

    :param account: whom the client is to be at which server.
    :param listen: makes the listener, for a client that names a broker.
    :ivar ways: what makes the client, in a thread, by the name of a connection; the first that means the account still
        is used, and the others after the server refused its credential.
    """

    def __init__(self, account: Account, listen: Callable[[ClientConfig], BrokerListener]) -> None:
        self.listener: BrokerListener | None = None
        self.ways: dict[str, Callable[[], PandaClient]] = {}
        self._account = account
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

    def _connect(self) -> PandaClient:
        """Make the client by the first way that means the account still.

        :raises NotOurs: all connections have come to mean another server or user.
        :raises PandaError: a connection cannot be read, or cannot work.
        """
        trouble: PandaError = NotOurs("nobody waits any more.")
        for name, connect in list(self.ways.items()):
            try:
                client = connect()
            except PandaError as error:
                trouble = error
                continue
            if not (found := account_of(client.config)).differs_from(self._account):
                return client
            client.close()
            trouble = NotOurs(elsewhere("this wait", self._account, name, found), advice=RESTORE)
        raise trouble

    def _drop(self, client: PandaClient) -> None:
        """Close a client; the connection is looked up again for the next request, with a new token perhaps."""
        with self._lock:
            if client is self._client:
                self._client = None
                first = next(iter(self.ways), None)
                if first is not None:
                    self.ways[first] = self.ways.pop(first)
        client.close()

    def _close(self) -> None:
        with self._lock:
            self._closed = True  # a call may still be under way
            if self._client:
                self._client.close()
            if self.listener:
                self.listener.close()
