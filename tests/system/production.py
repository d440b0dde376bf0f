"""PostgreSQL and Redis as Debian installs them, for one Airflow: sockets and data in a directory that goes away."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from panda_airflow.demo.services import Service, Services, own_environment

ROOT = Path(__file__).parents[2]
LIMIT = 120.0
"""Seconds that a store may take to start on a busy machine."""

OPTIONS = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=500",
    "listen_addresses=",
    "dynamic_shared_memory_type=mmap",
)


@dataclass(frozen=True)
class Stores:
    """Where they are.

    :param database: SQLAlchemy URL.
    :param broker: URL for Celery.
    """

    database: str
    broker: str


@contextmanager
def running_stores() -> Iterator[Stores]:
    """Start both; end them and remove their data afterwards.

    :raises FileNotFoundError: one is not installed.
    :raises PandaError: one does not start, with the end of its log.
    """
    with TemporaryDirectory(prefix="stores-") as name, Services(Path(name) / "logs", signals=()) as services:
        shutil.chown(name, owner())
        initdb = start(services, name, "initdb", "-D", "data", "-U", "airflow", "-A", "trust", "-E", "UTF8", "-N")
        services.finish(initdb, LIMIT)
        start(services, name, "postgres", "-D", "data", "-k", name, *(f"--{option}" for option in OPTIONS))
        start(services, name, "redis-server", "--port", "0", "--unixsocket", f"{name}/redis", "--save", "")
        asked = [program("pg_isready"), "-q", "-h", name]
        services.wait(lambda: subprocess.run(asked, check=False).returncode == 0, "PostgreSQL", LIMIT)
        services.wait(Path(name, "redis").exists, "Redis", LIMIT)
        yield Stores(f"postgresql+psycopg2://airflow@/postgres?host={name}", f"redis+socket://{name}/redis")


def start(services: Services, directory: str, name: str, *arguments: str) -> Service:
    """Start a program in a directory, as its owner."""
    environment = own_environment() | {"PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    return services.start(name, "tests.system.production", [directory, program(name), *arguments], environment)


def program(name: str) -> str:
    """Find a program, where Debian hides those of PostgreSQL, too.

    :raises FileNotFoundError: it is not installed.
    """
    hidden = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, hidden)]))
    if not found:
        raise FileNotFoundError(f"{name} is not installed: apt-get install postgresql redis-server")
    return found


def owner() -> str:
    """Name the user of the stores, who is not root: PostgreSQL refuses to be run by root."""
    return pwd.getpwuid(os.getuid()).pw_name if os.getuid() else "postgres"


def become(directory: str, *command: str) -> None:
    """Replace this process by a program that works in a directory and is not root's."""
    if not os.getuid():
        user = pwd.getpwnam(owner())
        os.initgroups(user.pw_name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    os.chdir(directory)
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    become(*sys.argv[1:])
