"""Runs a module for the demo and ends it, with all that it has started, when the demo ends, even by SIGKILL.

Standard input is the leash: the demo holds the other end, and the system closes that whatever happens to the demo.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

import psutil

FAREWELL = 3.0
"""Seconds that a service has to end in order."""

_PR_SET_CHILD_SUBREAPER = 36


def main(command: Sequence[str]) -> int:
    """Run a module in a session that is this process's own.

    :param command: name and arguments of the module.
    :return: its exit code, as a shell tells it.
    """
    if sys.platform == "linux":
        # What descendants leave behind becomes a child of this process, wherever it has moved its session to.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen([sys.executable, "-m", *command], stdin=subprocess.DEVNULL)  # noqa: S603 - our own modules
    while child.poll() is None:
        if select.select([sys.stdin], [], [], 0.25)[0]:
            _end(child)
    kill_descendants(os.getpid())
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the module in order, then by force all that it has started and this process."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(FAREWELL)
    kill_descendants(os.getpid())
    os.killpg(0, signal.SIGKILL)


def kill_descendants(pid: int) -> None:
    """SIGKILL all that a process has started, directly or not."""
    with suppress(psutil.NoSuchProcess):
        for descendant in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                descendant.kill()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
