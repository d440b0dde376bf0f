"""Reading files that somebody else renews, perhaps just now and in place."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from panda_airflow.client.errors import AuthError, PandaError

R = TypeVar("R")

PAUSES = (0.1, 0.2, 0.4, 0.8, 1.5)
"""Seconds between two looks at such a file, three in all: it is empty, torn or absent for a moment only."""

JUST_NOW = 10.0
"""Seconds after a change within which a file may still be being written."""


def reread(read: Callable[[], R]) -> R:
    """Read a file, again for a moment where it makes no sense.

    :param read: raises ``PandaError`` where it makes none; one that is hopeless is believed at once.
    """
    for pause in PAUSES:
        try:
            return read()
        except PandaError as error:
            if error.hopeless:
                raise
        time.sleep(pause)
    return read()


def stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Tell one state of a file from the next; None where there is no file."""
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def is_renewed(error: PandaError | None) -> bool:
    """Whether the file of a credential has changed since that was refused."""
    return isinstance(error, AuthError) and error.file is not None and stamp(Path(error.file[0])) != error.file[1]
