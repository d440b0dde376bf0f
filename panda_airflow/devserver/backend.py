"""What every part of the embedded server shares: identities, pace, faults and state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from panda_airflow.devserver.faults import Faults
    from panda_airflow.devserver.storage.store import Store


@dataclass(frozen=True)
class Identity:
    """Who is calling.

    :param dn: as the server sees it, ``Bob Tester/CN=nickname:bob``.
    :param name: the cleaned name, ``Bob Tester``; owners of tasks are compared by it.
    :param production: whether the production role was granted.
    :param role: the role that was asked for with a token, ``/wlcg/Role=production``.
    """

    dn: str
    name: str
    production: bool = False
    role: str = ""


@dataclass(frozen=True)
class Pace:
    """How fast the embedded server lives, in seconds; a real one takes minutes where this takes moments.

    :param registration: how long a submitted task stays invisible.
    :param cycle: time between two looks of JEDI at its tasks.
    :param command: how long a registered command waits before JEDI executes it.
    :param slots: jobs that run at the same time.
    """

    registration: float = 2.0
    cycle: float = 0.5
    command: float = 1.0
    slots: int = 2


def utc_now() -> datetime:
    """Read the time as the server's database keeps it: naive UTC."""
    return datetime.now(UTC).replace(tzinfo=None)


@dataclass
class Backend:
    """Passed to every handler.

    :param root: directory of all state: ``panda.sqlite``, ``cache/``, ``scratch/``, ``tls/``.
    :param base_url: where jobs and clients reach this server over plain HTTP, known once it listens.
    :param secure_url: the same over HTTPS.
    :param banned: names of the users who are refused.
    """

    root: Path
    store: Store
    faults: Faults
    pace: Pace
    clock: Callable[[], datetime] = utc_now
    base_url: str = ""
    secure_url: str = ""
    banned: frozenset[str] = frozenset()

    @property
    def cache(self) -> Path:
        """Files served below ``/cache/``: sandboxes, job outputs and logs."""
        return self.root / "cache"


@dataclass(frozen=True)
class FileStorage:
    """A file that came with a multipart request; the server's messages use the class name.

    :param filename: as the client gave it, directories included.
    :param file: the content, from its beginning.
    :param content_length: bytes of the whole request.
    """

    filename: str
    file: BinaryIO
    content_length: int
