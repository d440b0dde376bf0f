"""The embedded PanDA server as one object: start it, use it, stop it, start it again."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TextIO

from starlette.types import ASGIApp

from panda_airflow.client.errors import ConfigError
from panda_airflow.devserver.auth.certificates import Authority, private_directory
from panda_airflow.devserver.auth.identity import AccessPolicy, Gate
from panda_airflow.devserver.auth.tokens import TokenIssuer
from panda_airflow.devserver.backend import Backend, Pace, utc_now
from panda_airflow.devserver.control import Control, control_secret
from panda_airflow.devserver.faults import Faults
from panda_airflow.devserver.http.app import Frontend, build_app
from panda_airflow.devserver.http.listening import HOST, Listener, bind, server_tls, start_listening, stop_listening
from panda_airflow.devserver.http.monitor import Monitor
from panda_airflow.devserver.http.routes import Routes
from panda_airflow.devserver.jedi.cycle import Jedi
from panda_airflow.devserver.storage.store import Store


class DevServer:
    """A PanDA server on this machine; a context manager.

    Tasks, files, keys and certificates live in one directory, so a server that was stopped goes on where it was
    when another one is started there. The ports may differ::

        with DevServer(Path("state")) as server:
            config = ClientConfig(url=server.url, auth="oidc", vo="wlcg", token=server.token())

    :param root: directory of all state, closed to other users; made if missing.
    :param pace: how fast tasks move.
    :param http_port: 0 takes a free one.
    :param https_port: 0 takes a free one.
    :param clock: the time as the database keeps it, naive UTC.
    :param policy: whom the server lets in.
    :param by_hand: JEDI does nothing by itself, only what :meth:`step` makes it do.
    """

    def __init__(
        self,
        root: Path,
        *,
        pace: Pace = Pace(),  # noqa: B008 - frozen
        http_port: int = 0,
        https_port: int = 0,
        clock: Callable[[], datetime] = utc_now,
        policy: AccessPolicy = AccessPolicy(),  # noqa: B008 - frozen
        by_hand: bool = False,
    ) -> None:
        self.root = root.resolve()
        self._ports = http_port, https_port
        self._pace, self._clock, self._policy = pace, clock, policy
        self._by_hand = by_hand
        self.listeners: tuple[Listener, ...] = ()
        self._started = ExitStack()

    def start(self, timeout: float = 10.0) -> Self:
        """Start to listen and to run tasks.

        :param timeout: seconds until the server must answer.
        :raises ConfigError: a port is taken, the directory cannot be made or another server uses it, or this one
            does not come up.
        """
        with ExitStack() as started:
            self._start(started, timeout)
            self._started = started.pop_all()
        return self

    def _start(self, started: ExitStack, timeout: float) -> None:
        """Start part after part, each with its end registered, so that a failure half-way leaves nothing behind."""
        started.enter_context(_claim(private_directory(self.root)))
        (self.root / "cache" / "jedilog").mkdir(parents=True, exist_ok=True)
        self.authority, self.issuer = Authority(self.root), TokenIssuer(self.root)
        http, https = (started.enter_context(bind(port)) for port in self._ports)
        self.backend = self._open_backend(http, https)
        started.callback(self.backend.store.close)
        app = self._app()
        self._jedi = Jedi(self.backend)
        started.callback(self._jedi.stop)
        self._jedi.start(by_hand=self._by_hand)
        self.listeners = Listener(app, http), Listener(app, https, server_tls(self.authority))
        started.callback(stop_listening, self.listeners)
        start_listening(self.listeners, timeout)

    def _open_backend(self, http: socket.socket, https: socket.socket) -> Backend:
        store = Store(self.root / "panda.sqlite")
        return Backend(
            self.root,
            store,
            Faults(store, self.issuer.expire_all),
            self._pace,
            self._clock,
            f"http://{HOST}:{http.getsockname()[1]}",
            f"https://localhost:{https.getsockname()[1]}",
            self._policy.banned,
        )

    def _app(self) -> ASGIApp:
        frontend = Frontend(self.backend, Gate(self.issuer, self._policy), Routes.load())
        control = Control(self.backend, self.issuer, self.authority, self.control_secret)
        return build_app(frontend, [*Monitor(self.backend).routes(), *control.routes()])

    def step(self) -> None:
        """Let JEDI look at its tasks once, which takes each of them one step further.

        :raises DatabaseDown: the database is down.
        """
        self._jedi.cycle()

    def stop(self) -> None:
        """Stop listening and end all jobs; no thread or process is left."""
        self._started.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Base URL over plain HTTP."""
        return self.backend.base_url

    @property
    def url_ssl(self) -> str:
        """Base URL over HTTPS; its certificate verifies with :attr:`ca_file`."""
        return self.backend.secure_url

    @property
    def ca_file(self) -> Path:
        """Certificate of the server's own CA."""
        return self.authority.ca_file

    @property
    def ca_directory(self) -> Path:
        """What ``X509_CERT_DIR`` should name."""
        return self.authority.ca_directory

    @property
    def control_secret(self) -> str:
        """What requests to ``/devserver/`` have to show; see :mod:`panda_airflow.devserver.control`."""
        return control_secret(self.root)

    @property
    def faults(self) -> Faults:
        """Trouble on demand."""
        return self.backend.faults

    def token(self, name: str = "Bob Tester", **details: Any) -> str:
        """Issue a token; see :meth:`TokenIssuer.token` for ``vo``, ``production``, ``lifetime`` and claims."""
        return self.issuer.token(name, **details)

    def proxy(self, name: str = "Bob Tester", *, production: bool = False, lifetime: float = 12 * 3600) -> Path:
        """Issue a grid proxy; see :meth:`Authority.proxy`."""
        return self.authority.proxy(name, production=production, lifetime=lifetime)

    def environment(self) -> dict[str, str]:
        """Name the variables by which PanDA clients find this server and trust it; no credential among them."""
        return {
            "PANDA_URL": f"{self.url}/server/panda",
            "PANDA_URL_SSL": f"{self.url_ssl}/server/panda",
            "PANDACACHE_URL": f"{self.url_ssl}/server/panda",
            "PANDAMON_URL": self.url,
            "PANDA_BEHIND_REAL_LB": "1",
            "X509_CERT_DIR": str(self.ca_directory),
        }

    def airflow_connection(self, token: str) -> str:
        """Describe this server as an Airflow connection of type ``panda``, in JSON.

        :param token: from :meth:`token`, of VO ``wlcg``.
        """
        extra = {"vo": "wlcg", "ca": str(self.ca_file), "real_load_balancer": True, "monitor_url": self.url}
        return json.dumps({"conn_type": "panda", "host": self.url_ssl, "password": token, "extra": extra})


def _claim(root: Path) -> TextIO:
    """Keep a second server out of a directory, for as long as the file is open."""
    lock = (root / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        with lock:
            lock.seek(0)
            pid = lock.read()
        advice = f"Stop it with Ctrl-C or `kill {pid}`, or use another directory."
        raise ConfigError(f"another embedded server, process {pid}, runs in {root}.", advice=advice) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
