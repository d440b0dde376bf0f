"""The client: every module of the PanDA server as an attribute, over one transport."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NoReturn, Self

from panda_airflow.client.api.async_process import AsyncProcessApi
from panda_airflow.client.api.creds import CredsApi
from panda_airflow.client.api.data_carousel import DataCarouselApi
from panda_airflow.client.api.event import EventApi
from panda_airflow.client.api.file_server import FileServerApi
from panda_airflow.client.api.job import JobApi
from panda_airflow.client.api.metaconfig import MetaconfigApi
from panda_airflow.client.api.statistics import StatisticsApi
from panda_airflow.client.api.system import SystemApi
from panda_airflow.client.api.task import TaskApi
from panda_airflow.client.api.workflow import WorkflowApi
from panda_airflow.client.config import ClientConfig
from panda_airflow.client.endpoint import Arguments, Endpoint
from panda_airflow.client.errors import Refused, UsageError
from panda_airflow.client.idds import Idds
from panda_airflow.client.models import Envelope
from panda_airflow.client.transport import Transport

MEGABYTE = 1 << 20
SOURCES_LIMIT = 768 * MEGABYTE
"""Largest sandbox, a file called ``sources.*``, in bytes."""
LOG_LIMIT = 100 * MEGABYTE
"""Largest log, a file called ``*.out``, in bytes."""
FILE_LIMIT = 10 * MEGABYTE
"""Largest other file, in bytes."""


def _size_limit(name: str) -> int:
    if name.startswith("sources."):
        return SOURCES_LIMIT
    return LOG_LIMIT if name.endswith(".out") else FILE_LIMIT


class PandaClient:
    """A client of one PanDA server as one user; may be used by several threads.

    It cannot be pickled, since it holds connections and credentials: send the settings and make another.

    :param config: where the server is and who is calling; without it the environment is read, now.
    :param sleep: waits between two attempts of a request, in seconds.
    :raises ConfigError: the configuration cannot work.
    """

    def __init__(self, config: ClientConfig | None = None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.config = config or ClientConfig.from_env()
        self._transport = Transport(self.config, sleep)
        self.task = TaskApi(self)
        self.job = JobApi(self)
        self.file_server = FileServerApi(self)
        self.idds = Idds(self)
        self.creds = CredsApi(self)
        self.event = EventApi(self)
        self.system = SystemApi(self)
        self.workflow = WorkflowApi(self)
        self.statistics = StatisticsApi(self)
        self.metaconfig = MetaconfigApi(self)
        self.data_carousel = DataCarouselApi(self)
        self.async_process = AsyncProcessApi(self)

    def send(self, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        """Send one call and return the accepted envelope; the typed methods are made of it."""
        return self._transport.send(endpoint, arguments)

    @property
    def cache_url(self) -> str:
        """The machine that files are uploaded to; a task names it as its ``sourceURL``."""
        return self._transport.cache_url

    def put_file(self, file: Path) -> str:
        """Upload a file to the cache, where jobs find it by its name.

        A name that is taken counts as uploaded: give every content a name of its own, such as
        ``sources.<uuid>.tar.gz``.

        :param file: at most 768 MB if it is called ``sources.*``, 100 MB if ``*.out``, else 10 MB.
        :return: its name in the cache.
        :raises UsageError: the file cannot be read or is too large; nothing was sent.
        """
        limit = _size_limit(file.name)
        if file.is_file() and file.stat().st_size > limit:
            size = file.stat().st_size / MEGABYTE
            raise UsageError(
                f"{file} has {size:.1f} MB; the cache takes {limit // MEGABYTE} MB of such a file. Nothing was sent."
            )
        try:
            self.file_server.upload_cache_file(file)
        except Refused as refused:
            if "cannot overwrite file" not in refused.server_says:
                raise
        return file.name

    def download(self, name: str, path: Path) -> Path:
        """Copy ``/cache/<name>`` to a file, which appears only when it is complete.

        :param name: as a server or a user gave it, such as a sandbox, an output or a log.
        :param path: the file to write, or a directory, which the file cannot leave whatever its name.
        :return: the file.
        :raises UsageError: the name is not one of a file below ``/cache/``, or there is no such directory.
        :raises NotFound: the cache does not keep it.
        """
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
            raise UsageError(f"{name!r} is not the name of a file in the cache.")
        file = path / parts[-1] if path.is_dir() else path
        if not file.parent.is_dir():
            raise UsageError(f"there is no directory {file.parent} to put {file.name} into.")
        self._transport.download(name, file)
        return file

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a PandaClient holds connections and credentials and cannot be pickled; make another one.")
