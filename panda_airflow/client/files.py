"""Files on their way to and from the cache: limits, checksums, progress, and downloads that go on where they broke."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Self

from panda_airflow.client.errors import ServerError, UsageError

CHUNK = 1 << 20
"""Bytes of a file that are held in memory at a time."""

MEGABYTE = 1 << 20
SOURCES_LIMIT = 768 * MEGABYTE
"""Largest sandbox, a file called ``sources.*``, in bytes."""
LOG_LIMIT = 100 * MEGABYTE
"""Largest log, a file called ``*.out``, in bytes."""
FILE_LIMIT = 10 * MEGABYTE
"""Largest other file, in bytes."""

Progress = Callable[[int, int | None], None]
"""Hears, after each piece of a file, how many bytes are done and how many there are, ``None`` if nobody knows."""


def refuse_large(file: Path) -> None:
    """Stop before sending a file that the cache does not take.

    :raises UsageError: it is too large; nothing was sent.
    """
    limit = _size_limit(file.name)
    if file.is_file() and file.stat().st_size > limit:
        size = file.stat().st_size / MEGABYTE
        raise UsageError(
            f"{file} has {size:.1f} MB; the cache takes {limit // MEGABYTE} MB of such a file. Nothing was sent."
        )


def _size_limit(name: str) -> int:
    if name.startswith("sources."):
        return SOURCES_LIMIT
    return LOG_LIMIT if name.endswith(".out") else FILE_LIMIT


def gzip_checksum(file: Path) -> int:
    """Read the CRC32 that a gzip file ends with, which the cache tells files apart by.

    :return: bytes -8 to -4 as an unsigned number, whatever the file is.
    :raises UsageError: the file cannot be read; nothing was sent.
    """
    try:
        with file.open("rb") as stream:
            stream.seek(-min(8, file.stat().st_size), 2)
            return int.from_bytes(stream.read(4), "little")
    except OSError as error:
        raise UsageError(f"the file {file} cannot be read ({error.strerror}).") from error


class Partial:
    """A download on its way, under a temporary name until it is complete; a context manager.

    :param file: where it goes in the end.
    :param progress: hears how far it is.
    """

    def __init__(self, file: Path, progress: Progress | None = None) -> None:
        self._file = file
        self._temporary = file.with_name(f".{file.name[:100]}.{secrets.token_hex(16)}")
        self._progress = progress
        self._version = ""
        self._size = 0

    def headers(self) -> dict[str, str]:
        """Ask for the rest, provided that the server still has the file of which the beginning is here."""
        if not (self._size and self._version):
            return {}
        return {"Range": f"bytes={self._size}-", "If-Range": self._version}

    def take(self, status: int, headers: Mapping[str, str], chunks: Iterable[bytes]) -> None:
        """Write what the server sends: the rest, or all of it.

        :param status: 206 for the rest, 200 for all.
        :param headers: of the reply.
        :param chunks: of its body.
        :raises ServerError: it is not the rest that was asked for.
        """
        if status != HTTPStatus.PARTIAL_CONTENT:
            self._size = 0
        elif not headers.get("Content-Range", "").startswith(f"bytes {self._size}-"):
            raise ServerError(f"the server sent another part of {self._file.name} than was asked for.")
        tag = headers.get("ETag", "")
        self._version = "" if tag.startswith("W/") else tag
        length = headers.get("Content-Length", "")
        self._write(chunks, self._size + int(length) if length.isdigit() else None)

    def _write(self, chunks: Iterable[bytes], total: int | None) -> None:
        with self._temporary.open("ab" if self._size else "wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
                self._size += len(chunk)
                if self._progress:
                    self._progress(self._size, total)

    def complete(self) -> None:
        """Move the file into place."""
        self._temporary.replace(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.unlink(missing_ok=True)
