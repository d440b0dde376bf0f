"""RabbitMQ as Debian installs it, with STOMP on ports of this machine: a broker as PanDA servers push to."""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import stomp

from panda_airflow.client import ClientConfig
from panda_airflow.demo.services import Service, Services, own_environment
from panda_airflow.devserver.auth.certificates import Authority

ROOT = Path(__file__).parents[2]
PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
USER, PASSWORD = "panda", "a-password-of-the-broker"
TOPIC = "/topic/panda.status"
LIMIT = 120.0
"""Seconds that the broker may take to start on a busy machine."""


class Broker:
    """A broker that can be killed and started again.

    :param directory: of its data, configuration and log.
    """

    def __init__(self, directory: Path) -> None:
        assert PROGRAM.exists(), "RabbitMQ is not installed: apt-get install rabbitmq-server"
        self.port, self.tls_port = quiet_port(), quiet_port()
        self.authority = Authority(directory / "tls")
        self._directory = directory
        self._names = {"ERL_EPMD_PORT": str(quiet_port()), "RABBITMQ_DIST_PORT": str(quiet_port())}
        self._services = Services(directory / "logs", signals=())
        self._service: Service | None = None
        self._write("enabled_plugins", "[rabbitmq_stomp].")
        self._write(
            "rabbitmq.conf",
            f"listeners.tcp = none\nstomp.listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"stomp.listeners.ssl.1 = 127.0.0.1:{self.tls_port}\nssl_options.certfile = {self.authority.host_file}\n"
            f"ssl_options.keyfile = {self.authority.host_file}\ndefault_user = {USER}\ndefault_pass = {PASSWORD}\n",
        )

    def __enter__(self) -> Self:
        self._services.__enter__()
        self.start()
        return self

    def __exit__(self, *raised: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._services.__exit__(*raised)

    def start(self) -> None:
        """Start it, with the data that it had; return when it listens."""
        here = self._directory
        names = self._names | {
            "HOME": str(here),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "PYTHONPATH": str(ROOT),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(here / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_LOG_BASE": str(here / "logs"),
            "RABBITMQ_MNESIA_BASE": str(here / "data"),
            "RABBITMQ_NODENAME": "panda@localhost",
            "RUNNING_UNDER_SYSTEMD": "true",  # the script becomes the broker, instead of watching it
        }
        self._service = self._services.start("rabbitmq", __name__, [], own_environment() | names)
        self._services.wait(lambda: is_open(self.port) and is_open(self.tls_port), "RabbitMQ", LIMIT)

    def kill(self) -> None:
        """End it by SIGKILL."""
        assert self._service
        self._services.kill(self._service)

    def config(self, url: str, *, tls: bool = False, password: str = PASSWORD, **more: Any) -> ClientConfig:
        """Configure a client that listens here."""
        place = f"stomp+ssl://localhost:{self.tls_port}" if tls else f"stomp://localhost:{self.port}"
        ca = self.authority.ca_file if tls else None
        more |= {"push_url": f"{place}/%2F", "push_destination": TOPIC, "push_user": USER, "push_password": password}
        return ClientConfig(url=url, auth="oidc", vo="wlcg", ca=ca, retry_budget=0.0, **more)

    def publish(self, *bodies: str | bytes) -> None:
        """Send messages as the PanDA server does."""
        with stomp.Connection12([("localhost", self.port)], vhost="/") as connection:
            connection.connect(USER, PASSWORD, wait=True)
            for body in bodies:
                connection.send(TOPIC, body)

    def _write(self, name: str, text: str) -> None:
        (self._directory / name).write_text(text)


def task_status(task_id: int, status: str) -> str:
    """Write what the server writes in ``push_task_status_message``."""
    return json.dumps({"msg_type": "task_status", "taskid": task_id, "status": status, "timestamp": int(time.time())})


def quiet_port() -> int:
    """Find a port that nobody uses and that the system gives to no outgoing connection meanwhile."""
    for port in random.sample(range(20_000, 32_000), 100):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("all ports are taken")


def is_open(port: int) -> bool:
    """Whether somebody listens."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


if __name__ == "__main__":
    os.execv(PROGRAM, [str(PROGRAM), *sys.argv[1:]])  # noqa: S606 - no shell is wanted
