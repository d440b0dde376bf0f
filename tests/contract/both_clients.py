"""Makes the calls of a list with one of two client packages and prints what each returned; run as a program.

Arguments: the package, the address of the recording server, and a file with ``[function, arguments, keywords]`` each.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from panda_airflow.client.jobs import FILE_ATTRIBUTES, JOB_ATTRIBUTES


def main(package: str, server: str, cases: str) -> None:
    client = importlib.import_module(f"{package}.Client")
    told = []
    for number, (function, args, kwargs) in enumerate(json.loads(Path(cases).read_text())):
        urlopen(f"{server}/begin/{number}").read()  # noqa: S310 - it is http
        told.append(outcome(client, function, [arguments(package, item) for item in args], kwargs))
    sys.stdout.write("TOLD" + json.dumps(told))


def arguments(package: str, value: Any) -> Any:
    """Make job specifications of what stands for them."""
    if not (isinstance(value, dict) and "jobs" in value):
        return value
    jobs = [make(package, "JobSpec", item) for item in value["jobs"]]
    for job, item in zip(jobs, value["jobs"], strict=True):
        for file in item["Files"]:
            job.addFile(make(package, "FileSpec", file))
    return jobs


def make(package: str, name: str, values: dict[str, Any]) -> Any:
    spec = getattr(importlib.import_module(f"{package}.{name}"), name)()
    for attribute, value in values.items():
        if attribute != "Files":
            setattr(spec, attribute, value)
    return spec


def outcome(client: Any, function: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    try:
        return repr(plain(getattr(client, function)(*args, **kwargs)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a client raises is its answer
        return f"raises {type(error).__name__}"


def plain(value: Any) -> Any:
    """Replace specifications by their values."""
    if isinstance(value, tuple | list):
        return type(value)(plain(item) for item in value)
    if type(value).__name__ == "JobSpec":
        files = [{name: getattr(file, name) for name in FILE_ATTRIBUTES} for file in value.Files]
        return {name: getattr(value, name) for name in JOB_ATTRIBUTES} | {"Files": files}
    return value


if __name__ == "__main__":
    main(*sys.argv[1:])
