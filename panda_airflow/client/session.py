"""The client: every module of the PanDA server as an attribute, over one transport."""

from __future__ import annotations

import filecmp
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
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
from panda_airflow.client.endpoint import REGISTRY, Arguments, Endpoint
from panda_airflow.client.errors import NotFound, Refused, UsageError
from panda_airflow.client.files import Progress, gzip_checksum, refuse_large
from panda_airflow.client.http.transport import Transport
from panda_airflow.client.idds import Idds
from panda_airflow.client.models import CacheFile, Envelope


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

    def put_file(self, file: Path, *, reuse: bool = False, progress: Progress | None = None) -> str:
        """Upload a file to the cache, where jobs find it by its name.

        A name that is taken counts as uploaded if it holds the same content: give every content a name of its
        own, such as ``sources.<uuid>.tar.gz``.

        :param file: at most 768 MB if it is called ``sources.*``, 100 MB if ``*.out``, else 10 MB.
        :param reuse: send nothing if the same gzip file was uploaded before by the same user.
        :param progress: hears how many bytes are on their way, and how many there are.
        :return: its name in the cache, which is another one if an earlier upload is used; :meth:`find_file` tells
            which machine holds that.
        :raises UsageError: the file cannot be read or is too large; nothing was sent.
        :raises Refused: the cache holds another file of this name.
        """
        refuse_large(file)
        found = self.find_file(file) if reuse else CacheFile()
        if found:
            return found.name
        try:
            self._transport.send(REGISTRY["file_server/upload_cache_file"], {"file": file}, progress)
        except Refused as refused:
            if "cannot overwrite file" not in refused.server_says:
                raise
            if not self.holds(file):
                refused.advice = f"The cache holds another file called {file.name}; give this one a name of its own."
                raise
        return file.name

    def find_file(self, file: Path) -> CacheFile:
        """Look for a gzip file among what the same user has uploaded in the last days, by size and checksum.

        :return: where it is; empty, and false, if it is not there.
        :raises UsageError: the file cannot be read.
        """
        checksum = gzip_checksum(file)
        return self.file_server.validate_cache_file(file.stat().st_size, checksum)

    def holds(self, file: Path) -> bool:
        """Tell whether the cache holds this content under this name, by downloading what it holds."""
        with TemporaryDirectory() as folder, suppress(NotFound):
            return filecmp.cmp(self.download(file.name, Path(folder)), file, shallow=False)
        return False

    def download(self, name: str, path: Path, *, progress: Progress | None = None) -> Path:
        """Copy ``/cache/<name>`` to a file, which appears only when it is complete.

        Where the connection breaks, it goes on at that byte if the server can.

        :param name: as a server or a user gave it, such as a sandbox, an output or a log.
        :param path: the file to write, or a directory, which the file cannot leave whatever its name.
        :param progress: hears how many bytes are there, and how many there will be.
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
        self._transport.download(name, file, progress)
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
