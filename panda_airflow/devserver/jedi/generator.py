"""JEDI's job generator: from inputs that are ready to jobs, and from templates to command lines."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from panda_airflow.client.models import Json
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi.feeder import files_per_job
from panda_airflow.devserver.jedi.refiner import DEFAULT_SITE, execution_parameters, master, scope, sequence
from panda_airflow.devserver.jedi.registration import parameters_of
from panda_airflow.devserver.storage.store import Row
from panda_airflow.devserver.storage.tasks import USABLE

_RANDOM = re.compile(r"%RNDM[:=](\d+)|%25RNDM(?::|=|%3A|%3D)(\d+)")


def output_names(template: str, task_id: int, serial: int) -> str:
    """Name a file after an output or log template; serial numbers have six digits.

    :param template: such as ``user.bob.$JEDITASKID._${SN/P}.out.txt``.
    """
    name = template.rsplit("=", 1)[-1].replace("'", "").replace("$JEDITASKID", str(task_id))
    return re.sub(r"\$\{SN(/P)?\}", f"{serial:06d}", name)


@dataclass(frozen=True)
class Filling:
    """What goes into the placeholders of one job's parameters.

    :param task_id: JediTaskID.
    :param serial: the job's number within the task, from 1.
    :param position: number of its first input within the task, from 0; the same in every attempt.
    :param attempt: attempt number, from 1.
    :param inputs: logical names of its input files.
    :param outputs: logical name by template, logs included.
    :param numbers: other placeholders by name.
    """

    task_id: int
    serial: int
    position: int
    attempt: int
    inputs: list[str]
    outputs: dict[str, str]
    numbers: Mapping[str, Any]


def fill_in(template: str, filling: Filling) -> str:
    """Make the command line of a job; ``$PANDAID`` stays until the job has its ID."""
    text = template
    for pattern in sorted(filling.outputs, key=len, reverse=True):
        text = text.replace(pattern, filling.outputs[pattern])
    lfns = ",".join(filling.inputs)
    for placeholder, value in (("IN/T", str(filling.inputs)), ("IN/E", lfns), ("IN", lfns)):
        if filling.inputs:
            text = text.replace(f"${{{placeholder}}}", value)
    for index, lfn in enumerate(filling.outputs.values()):
        text = text.replace(f"${{OUTPUT{index}}}", lfn)
    numbers: dict[str, Any] = {
        "SN": filling.serial,
        "SN/P": f"{filling.serial:06d}",
        "ATTEMPTNR": filling.attempt,
    } | dict(filling.numbers)
    for name, value in numbers.items():
        text = text.replace(f"${{{name}}}", str(value))
    text = _RANDOM.sub(lambda found: str(int(found.group(1) or found.group(2)) + filling.position), text)
    return re.sub(r"\$(?:JEDITASKID\b|\{JEDITASKID\})", str(filling.task_id), text)


def generate(backend: Backend, task: Row, first: int | None = None) -> int:
    """Make jobs of the inputs that are ready and return how many.

    :param first: take only the first so many inputs of the task, for scouts.
    :raises DatabaseDown: the database is down.
    """
    task_id = task["jediTaskID"]
    dataset, parameters = master(backend, task_id), parameters_of(backend, task_id)
    if dataset is None:
        return 0
    ready = backend.store.rows(
        f"SELECT * FROM contents WHERE datasetID = ? AND {USABLE} AND position < ? ORDER BY position",  # noqa: S608
        dataset["datasetID"],
        sys.maxsize if first is None else first,
    )
    size = files_per_job(parameters, dataset["type"])
    chunks = [ready[start : start + size] for start in range(0, len(ready), size)]
    outputs = backend.store.rows(
        "SELECT * FROM datasets WHERE jediTaskID = ? AND type IN ('output', 'log') ORDER BY type DESC, datasetID",
        task_id,
    )
    with backend.store.transaction():
        for chunk in chunks:
            _make_job(backend, task, parameters, dataset, outputs, chunk)
    return len(chunks)


def _make_job(
    backend: Backend, task: Row, parameters: dict[str, Json], dataset: Row, outputs: list[Row], chunk: list[Row]
) -> None:
    """Make one job with its files, and mark its inputs as taken."""
    task_id, serial = task["jediTaskID"], dataset["nextSN"]
    dataset["nextSN"] += 1
    backend.store.update("datasets", "datasetID", dataset["datasetID"], nextSN=dataset["nextSN"])
    names = {output["datasetID"]: output_names(output["template"], task_id, serial) for output in outputs}
    number = _next_number(backend, dataset)
    filling = Filling(
        task_id,
        serial,
        chunk[0]["position"],
        max(file["attemptNr"] for file in chunk) + 1,
        [file["lfn"] for file in chunk] if dataset["type"] == "input" else [],
        {_bare(output["template"]): names[output["datasetID"]] for output in outputs},
        _numbers(parameters, chunk[0]["position"], number),
    )
    job_id = backend.store.insert("jobs", **_job_row(backend, task, parameters, filling, dataset, outputs, chunk))
    text = fill_in(execution_parameters(parameters), filling)
    text = re.sub(r"\$(?:PANDAID\b|\{PANDAID\})", str(job_id), text)
    backend.store.update("jobs", "PandaID", job_id, jobParameters=text, jobName=f"{task['taskName']}.{job_id}")
    for file in [*chunk, *([number] if number else [])]:
        backend.store.update("contents", "fileID", file["fileID"], status="running", PandaID=job_id)
        _add_input(backend, job_id, file)
    for output in outputs:
        _add_output(backend, job_id, output, names[output["datasetID"]])


def _next_number(backend: Backend, master_dataset: Row) -> Row | None:
    """Take the sequence number of the next job: the first that no job has and none has used."""
    numbers = sequence(backend, master_dataset["jediTaskID"])
    if numbers is None or numbers["datasetID"] == master_dataset["datasetID"]:
        return None
    return backend.store.row(
        f"SELECT * FROM contents WHERE datasetID = ? AND {USABLE} ORDER BY fileID LIMIT 1",  # noqa: S608 - constant
        numbers["datasetID"],
    )


def _bare(template: str) -> str:
    return template.rsplit("=", 1)[-1].replace("'", "")


def _numbers(parameters: dict[str, Json], position: int, number: Row | None) -> dict[str, Any]:
    per_job = int(parameters.get("nEventsPerJob") or 1)
    numbers: dict[str, Any] = {
        "LIB": _library(parameters.get("buildSpec") or {}),
        "MAXEVENTS": per_job,
        "SKIPEVENTS": position * per_job,
    }
    offsets = {"SEQNUMBER": 1 + position, "RNDMSEED": position, "FIRSTEVENT": position * per_job}
    for name, value in offsets.items():
        items = [item for item in parameters["jobParameters"] if f"${{{name}}}" in str(item.get("value"))]
        numbers[name] = value + int((items[0].get("offset") or 0) if items else 0)
    return numbers | ({"SEQNUMBER": number["lfn"]} if number else {})


def _library(build: dict[str, Json]) -> str:
    """Name the library: the sources take its place, and every job builds them anew; a real task has a build job."""
    command = re.search(r'--bexec "[^"]*"', str(build.get("jobParameters", "")))
    return f"{build.get('archiveName', '')} {command[0] if command else ''}".strip()


def _job_row(
    backend: Backend,
    task: Row,
    parameters: dict[str, Json],
    filling: Filling,
    dataset: Row,
    outputs: list[Row],
    chunk: list[Row],
) -> Row:
    now = backend.clock()
    is_input = dataset["type"] == "input"
    owner = backend.store.value("SELECT prodUserID FROM submissions WHERE jediTaskID = ?", task["jediTaskID"])
    return {
        "jobDefinitionID": task["jediTaskID"],
        "jobsetID": task["jediTaskID"],
        "taskID": task["reqID"],
        "jediTaskID": task["jediTaskID"],
        "reqID": task["reqID"],
        "creationTime": now,
        "modificationTime": now,
        "stateChangeTime": now,
        "prodDBUpdateTime": now,
        "transformation": task["transPath"],
        "prodSourceLabel": task["prodSourceLabel"],
        "job_label": task["prodSourceLabel"],
        "prodUserID": owner,
        "prodUserName": task["userName"],
        "assignedPriority": task["currentPriority"],
        "currentPriority": task["currentPriority"] - (filling.serial - 1),
        "attemptNr": filling.attempt,
        "jobStatus": "defined",
        "computingSite": _site(task["site"]),
        "cloud": task["cloud"],
        "destinationDBlock": ",".join(output["datasetName"] for output in outputs) or None,
        "prodDBlock": dataset["datasetName"] if is_input else None,
        "nEvents": int(parameters.get("nEventsPerJob") or 0) or None,
        "VO": task["vo"],
        "processingType": task["processingType"],
        "workingGroup": task["workingGroup"],
        "coreCount": task["coreCount"] or 1,
        "nInputDataFiles": len(chunk) if is_input else None,
        "inputFileBytes": sum(file["fsize"] for file in chunk) if is_input else None,
        "nOutputDataFiles": sum(output["type"] == "output" for output in outputs),
        "specialHandling": f"NULL,pc,tq={now.timestamp():.6f}",
        "maxWalltime": int(float(parameters.get("maxWalltime") or 96) * 3600),
    }


def _site(requested: str | None) -> str:
    return requested if requested not in (None, "", "AUTO") else DEFAULT_SITE


def _add_input(backend: Backend, job_id: int, file: Row) -> None:
    dataset = backend.store.row("SELECT * FROM datasets WHERE datasetID = ?", file["datasetID"]) or {}
    backend.store.insert(
        "files",
        PandaID=job_id,
        GUID=str(uuid4()),
        lfn=file["lfn"],
        type=dataset["type"],
        dataset=dataset["datasetName"],
        status="unknown" if dataset["type"] == "pseudo_input" else "ready",
        prodDBlock=dataset["datasetName"],
        fsize=file["fsize"],
        checksum=file["checksum"],
        scope=None if dataset["type"] == "pseudo_input" else scope(dataset["datasetName"]),
        jediTaskID=dataset["jediTaskID"],
        datasetID=dataset["datasetID"],
        fileID=file["fileID"],
        attemptNr=file["attemptNr"],
    )


def _add_output(backend: Backend, job_id: int, dataset: Row, lfn: str) -> None:
    content = backend.store.insert(
        "contents",
        jediTaskID=dataset["jediTaskID"],
        datasetID=dataset["datasetID"],
        lfn=lfn,
        status="defined",
        PandaID=job_id,
    )
    backend.store.insert(
        "files",
        PandaID=job_id,
        GUID=str(uuid4()),
        lfn=lfn,
        type=dataset["type"],
        dataset=dataset["datasetName"],
        destinationDBlock=dataset["datasetName"],
        destinationDBlockToken=dataset["token"],
        destinationSE=dataset["destination"],
        scope=scope(dataset["datasetName"]),
        jediTaskID=dataset["jediTaskID"],
        datasetID=dataset["datasetID"],
        fileID=content,
    )
