"""Runs a module for the demo and ends it, with all that it has started, when the demo ends, even by SIGKILL.

Standard input is the leash: the demo holds the other end, and the system closes that whatever happens to the demo.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

FAREWELL = 3.0
"""Seconds that a service has to end in order."""


def main(command: Sequence[str]) -> int:
    """Run a module in a session that is this process's own.

    :param command: name and arguments of the module.
    :return: its exit code, as a shell tells it.
    """
    child = subprocess.Popen([sys.executable, "-m", *command], stdin=subprocess.DEVNULL)  # noqa: S603 - our own modules
    while child.poll() is None:
        if select.select([sys.stdin], [], [], 0.25)[0]:
            _end(child)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the module in order, then by force the whole process group, this process with it."""
    child.terminate()
    with suppress(subprocess.TimeoutExpired):
        child.wait(FAREWELL)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
