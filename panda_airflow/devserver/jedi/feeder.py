"""JEDI's contents feeder: from the input dataset of a task to the inputs that its jobs process."""

from __future__ import annotations

import math
from typing import Any

from panda_airflow.client.models import Json
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.jedi.refiner import SEQUENCE, find_datasets, master, sequence
from panda_airflow.devserver.storage.store import Row

DEFAULT_MAX_ATTEMPT = 3
MAX_FILES_PER_JOB = 200
_SEQUENCE_LENGTH = 10_000
"""Sequence numbers of a task that does not say how many jobs it has."""


class NoInput(Exception):
    """The input dataset has no file to process: the task is broken."""


def add_inputs(backend: Backend, task_id: int, parameters: dict[str, Json]) -> int:
    """Add to the inputs of a task what is not among them yet, and return how many there are.

    :raises NoInput: there is none at all.
    :raises DatabaseDown: the database is down.
    """
    dataset, numbers = master(backend, task_id), sequence(backend, task_id)
    if dataset is None:
        return 0
    found = _files(backend, dataset, parameters)
    if not found:
        raise NoInput("primary input dataset is empty or all files are excluded ")
    attempts = 1 if parameters.get("disableAutoRetry") else int(parameters.get("maxAttempt") or DEFAULT_MAX_ATTEMPT)
    _insert(backend, dataset, [file | {"position": place} for place, file in enumerate(found)], attempts)
    if numbers and numbers["datasetID"] != dataset["datasetID"]:
        _insert(backend, numbers, _sequence(parameters, numbers["offset"]), attempts)
    return len(found)


def _insert(backend: Backend, dataset: Row, files: list[dict[str, Any]], attempts: int) -> None:
    known = backend.store.value("SELECT COUNT(*) FROM contents WHERE datasetID = ?", dataset["datasetID"])
    for file in files[known:]:
        backend.store.insert(
            "contents",
            jediTaskID=dataset["jediTaskID"],
            datasetID=dataset["datasetID"],
            maxAttempt=attempts,
            **file,
        )


def _files(backend: Backend, dataset: Row, parameters: dict[str, Json]) -> list[dict[str, Any]]:
    if dataset["type"] != "pseudo_input":
        found = _produced(backend, dataset["datasetName"])
        return found[: int(parameters.get("nFiles") or len(found))]
    if dataset["datasetName"] == SEQUENCE:
        return _sequence(parameters, dataset["offset"])
    if "pfnList" in parameters:
        names = parameters["pfnList"][: int(parameters.get("nFiles", 1))]
        return [{"lfn": f"{place:06d}:{name.rsplit('/', 1)[-1].split('^')[0]}"} for place, name in enumerate(names)]
    return [{"lfn": "pseudo_lfn"}] * _event_chunks(parameters)


def _event_chunks(parameters: dict[str, Json]) -> int:
    """Split a task without input: only its events do, whatever it says about files."""
    events, per_job = int(parameters.get("nEvents") or 0), int(parameters.get("nEventsPerJob") or 0)
    return math.ceil(events / per_job) if events > 0 and per_job > 0 else 1


def _sequence(parameters: dict[str, Json], offset: int) -> list[dict[str, Any]]:
    if "nFiles" in parameters:
        length = int(parameters["nFiles"])
    elif "nEvents" in parameters and "nEventsPerJob" in parameters:
        length = math.ceil(int(parameters["nEvents"]) / int(parameters["nEventsPerJob"]))
    else:
        length = _SEQUENCE_LENGTH
    return [{"lfn": str(number)} for number in range(1 + offset, 1 + offset + length)]


def _produced(backend: Backend, name: str) -> list[dict[str, Any]]:
    """List the files that an earlier task of this server left in a dataset."""
    found: list[dict[str, Any]] = []
    for dataset_id in find_datasets(backend, name):
        found += backend.store.rows(
            "SELECT lfn, fsize, checksum FROM contents WHERE datasetID = ? AND status = 'finished' ORDER BY lfn",
            dataset_id,
        )
    return found


def files_per_job(parameters: dict[str, Json], kind: str) -> int:
    """Say how many inputs one job takes.

    :param kind: type of the input dataset; a chunk of events is one job's.
    """
    if kind == "pseudo_input" and "pfnList" not in parameters:
        return 1
    return int(parameters.get("nFilesPerJob") or parameters.get("nMaxFilesPerJob") or MAX_FILES_PER_JOB)
