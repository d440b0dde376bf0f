"""Push of status changes: a listener at the message broker to which the PanDA server tells them.

The server tells of every task that was submitted with ``pushStatusChanges``, in plain messages that anybody with access
to the broker can send, and before it has committed the change. So a message only ever gives a wait a reason to look,
and what no message tells is found by asking as without one.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from threading import Event, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from panda_airflow.client.config import ClientConfig
from panda_airflow.client.records import is_id

log = logging.getLogger(__name__)

SETTLE = 1.0
"""Seconds after which the server has committed what it told; a change that is told again in that time counts once."""

HEARTBEAT = 10_000
"""Milliseconds between two signs of life, in both directions."""

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 120.0

Change = tuple[int, str]
"""JediTaskID and the status that the server told."""


def read(body: str) -> Change | None:
    """Read a message of the server.

    :return: None if it is about something else, such as a job.
    :raises ValueError: it is none of the server's.
    """
    try:
        message = json.loads(body)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    match message:
        case {"msg_type": "task_status", "taskid": int(task_id), "status": str(status)} if is_id(task_id):
            return task_id, status
        case {"msg_type": str(kind)} if kind != "task_status":
            return None
    raise ValueError("it does not name a task and its status")


class BrokerListener:
    """Hears of changes in a thread of its own until it is closed, and comes back to the broker whenever it is lost.

    :param config: names the broker.
    :param loop: where ``tell`` is called.
    :param tell: receives JediTaskID and status.
    :ivar listening: whether the broker has accepted the subscription.
    :ivar heard: messages about tasks.
    :ivar malformed: messages that the server cannot have sent.
    """

    def __init__(self, config: ClientConfig, loop: asyncio.AbstractEventLoop, tell: Callable[[int, str], None]) -> None:
        self.listening = False
        self.heard = self.malformed = 0
        self._config = config
        self._loop = loop
        self._tell = tell
        self._settling: set[Change] = set()
        self._closed = Event()
        self._session: _Session | None = None
        Thread(target=self._run, name="panda-status-push", daemon=True).start()

    def close(self) -> None:
        """Tell nothing more, and leave the broker soon."""
        self._closed.set()
        if self._session:
            self._session.end("the feed has ended")

    def hear(self, body: str) -> None:
        """Take a message; called in a thread of the connection."""
        try:
            change = read(body)
        except ValueError as error:
            self.malformed += 1
            log.debug("A message of the broker is not the PanDA server's: %s.", error)
            return
        if change and not self._closed.is_set():
            self.heard += 1
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._settle, change)

    def _settle(self, change: Change) -> None:
        if change not in self._settling:
            self._settling.add(change)
            self._loop.call_later(SETTLE, self._settled, change)

    def _settled(self, change: Change) -> None:
        self._settling.discard(change)
        if not self._closed.is_set():
            self._tell(*change)

    def _run(self) -> None:
        try:
            stomp = import_module("stomp")  # which resolves the name of this machine
        except ModuleNotFoundError as error:
            log.warning("No changes are pushed: %s. Install panda-airflow[stomp], or unset push_url.", error)
            return
        stomp.log.setLevel(logging.WARNING)  # below that it tells the password
        failures = 0
        while not self._closed.is_set():
            self._session = session = _Session(stomp, self._config, self.hear)
            failures = 0 if self._listen(session) else failures + 1
            pause = min(FIRST_PAUSE * 2.0 ** min(failures, 10), LONGEST_PAUSE)
            level = logging.DEBUG if failures > 1 or self._closed.is_set() else logging.WARNING
            log.log(level, "No changes are pushed, since %s; the next try is in %.0f s.", session.why, pause)
            self._closed.wait(pause)

    def _listen(self, session: _Session) -> bool:
        """Listen until the connection is lost or this is closed; say whether the broker let us."""
        if not self._closed.is_set() and session.open():
            self.listening = True
            log.info("The broker at %s pushes changes of status.", urlsplit(self._config.push_url).hostname)
            session.ended.wait()
        accepted, self.listening = self.listening, False
        session.leave()
        return accepted


class _Session:
    """One connection to the broker, of which the library's thread calls what begins with ``on_``.

    :ivar ended: set when the connection is of no more use.
    :ivar why: it is not.
    """

    def __init__(self, stomp: Any, config: ClientConfig, hear: Callable[[str], None]) -> None:
        self.ended = Event()
        self.why = "the broker does not answer"
        self._config = config
        self._hear = hear
        self._answered = Event()
        self._connection = _connection(stomp, config)
        # It may forget its socket in another thread at any moment, hence the last; a name may be none, hence the third.
        self._troubles = (stomp.exception.StompException, OSError, UnicodeError, AttributeError)

    def open(self) -> bool:
        """Connect and subscribe; say whether the broker has accepted that."""
        self._connection.set_listener("panda", self)
        try:
            self._connection.connect(self._config.push_user or None, self._config.push_password or None)
        except self._troubles as error:
            self.end(f"the broker cannot be reached ({type(error).__name__})")
        return self._answered.wait(self._config.connect_timeout) and not self.ended.is_set()

    def end(self, why: str) -> None:
        """Have whoever uses the connection leave it."""
        if not self.ended.is_set():
            self.why = why
        self.ended.set()
        self._answered.set()

    def leave(self) -> None:
        """Say good-bye, and hear nothing more."""
        with suppress(*self._troubles, KeyError):
            self._connection.remove_listener("panda")
            if self._connection.is_connected():
                self._connection.disconnect()
            else:
                self._connection.transport.disconnect_socket()

    def on_connected(self, _frame: Any) -> None:
        self._connection.subscribe(self._config.push_destination, "status", headers={"receipt": "status"})

    def on_receipt(self, _frame: Any) -> None:
        self._answered.set()

    def on_message(self, frame: Any) -> None:
        self._hear(frame.body)

    def on_error(self, frame: Any) -> None:
        self.end(f"the broker says {frame.headers.get('message', '')!r}")

    def on_disconnected(self) -> None:
        self.end("the connection was lost")

    def on_heartbeat_timeout(self) -> None:
        self.end("the broker is silent")


def _connection(stomp: Any, config: ClientConfig) -> Any:
    """Make a connection that is not yet open."""
    parts = urlsplit(config.push_url)
    secure = parts.scheme == "stomp+ssl"
    places = [(str(parts.hostname), parts.port or (61614 if secure else 61613))]
    connection = stomp.Connection12(
        places,
        try_loopback_connect=False,  # it would go around TLS
        timeout=config.connect_timeout,
        reconnect_attempts_max=1,
        heartbeats=(HEARTBEAT, HEARTBEAT),
        vhost=unquote(parts.path[1:]) or None,
    )
    if secure:
        ca = str(config.ca) if config.ca and config.ca.is_file() else None
        connection.set_ssl(places, ca_certs=ca, verify=config.verify_host)
    return connection
