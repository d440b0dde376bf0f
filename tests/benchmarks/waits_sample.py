"""Asks for the status of one task after another by panda-client, as a script would that waits for many; a program.

Which server and as whom is in the environment. Each line of standard input is a number of calls; the answer is one
JSON line, the seconds that a call took, on the clock and of CPU.
"""

from __future__ import annotations

import json
import sys
import time

from pandaclient import Client

from tests.benchmarks.waits_script import FIRST


def measure(calls: int) -> dict[str, float]:
    """Make calls.

    :raises RuntimeError: an answer is wrong, so its time means nothing.
    """
    began, cpu = time.perf_counter(), time.process_time()
    for number in range(calls):
        answer = Client.getTaskStatus(FIRST + number)
        if answer[0] != 0 or answer[1] not in ("running", "done", "failed"):
            raise RuntimeError(f"the server answered {answer!r}")
    return {"clock": (time.perf_counter() - began) / calls, "cpu": (time.process_time() - cpu) / calls}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(measure(int(line))) + "\n")
        sys.stdout.flush()
