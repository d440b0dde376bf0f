"""Asks for the status of a task in one of several ways and tells how long each call took; run as a program.

Argument: one of :data:`WAYS`. Which server and as whom is in the environment, as PanDA users set it. Each line of
standard input is a number of calls to make; the answer is one line, a JSON list of seconds.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import ssl
import sys
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

import requests

from panda_airflow.client import PandaClient

Ask = Callable[[], str]

TASK_ID = 42
STATUS = "running"
PATH = "/api/v1/task/get_status"
TIMEOUT = 60.0


def typed() -> Ask:
    """The typed client of this project."""
    client = PandaClient()
    return lambda: client.task.get_status(TASK_ID)


def reference(package: str) -> Ask:
    """A function of the reference API, from one of two packages."""
    client = importlib.import_module(f"{package}.Client")
    return lambda: str(client.getTaskStatus(TASK_ID)[1])


def bare_session() -> Ask:
    """What anybody would write with ``requests``."""
    session = requests.Session()
    session.headers.update(headers())
    session.verify = os.environ["X509_CERT_DIR"]
    url = os.environ["PANDA_URL_SSL"] + PATH
    return lambda: str(session.get(url, params={"task_id": TASK_ID}, timeout=TIMEOUT).json()["data"])


def kept_connection() -> Ask:
    """One kept connection of the standard library: about the least that Python can do."""
    context = ssl.create_default_context(capath=os.environ["X509_CERT_DIR"])
    connection = http.client.HTTPSConnection(
        urlsplit(os.environ["PANDA_URL_SSL"]).netloc, timeout=TIMEOUT, context=context
    )

    def ask() -> str:
        connection.request("GET", f"{PATH}?task_id={TASK_ID}", headers=headers())
        return str(json.loads(connection.getresponse().read())["data"])

    return ask


def headers() -> dict[str, str]:
    """Those that the typed client sends."""
    return {
        "Accept": "application/json",
        "User-Agent": "panda-airflow",
        "Authorization": f"Bearer {os.environ['PANDA_AUTH_ID_TOKEN']}",
        "Origin": os.environ["PANDA_AUTH_VO"],
    }


WAYS: dict[str, Callable[[], Ask]] = {
    "panda-client": partial(reference, "pandaclient"),
    "drop-in": partial(reference, "panda_airflow.pandaclient"),
    "typed": typed,
    "session": bare_session,
    "stdlib": kept_connection,
}


def seconds(ask: Ask) -> float:
    """Time one call.

    :raises RuntimeError: the answer is wrong, so its time means nothing.
    """
    start = time.perf_counter()
    status = ask()
    taken = time.perf_counter() - start
    if status != STATUS:
        raise RuntimeError(f"the status is {status!r}, not {STATUS!r}")
    return taken


def main(way: str) -> None:
    """Time as many calls as each line asks for."""
    ask = WAYS[way]()
    for line in sys.stdin:
        sys.stdout.write(json.dumps([seconds(ask) for _ in range(int(line))]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
