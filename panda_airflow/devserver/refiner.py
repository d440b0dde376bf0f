"""From the parameters of a task to what JEDI works on: the task, its datasets and its inputs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from panda_airflow.client.models import Json
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.store import Row

VOS = frozenset({"wlcg", "atlas", "rubin", "sphenix", "darkside", "eic"})
"""Virtual organisations for which this JEDI has a plug-in."""

DEFAULT_SITE = "LOCAL_TEST"
SITES = frozenset({DEFAULT_SITE, "LOCAL", "AUTO"})
"""Sites that brokerage knows."""

DEFAULT_MAX_ATTEMPT = 3
MAX_FILES_PER_JOB = 200

_NEEDED = ("architecture", "transUses", "transHome", "processingType", "taskType", "jobParameters")
_COPIED = (
    "taskName", "userName", "vo", "prodSourceLabel", "taskPriority", "transUses", "transHome", "transPath",
    "processingType", "taskType", "workingGroup", "countryGroup", "campaign", "coreCount", "ramCount", "ramUnit",
    "cloud", "site", "framework", "container_name", "goal", "cpuTime", "cpuTimeUnit", "walltime",
)  # fmt: skip
_ADDED = {"pushStatusChanges": True, "messageDriven": True, "cloudAsVO": True}
_SPLIT_RULES = ("nEventsPerJob", "nFilesPerJob", "nGBPerJob", "nMaxFilesPerJob", "disableAutoRetry")
_RULES_ADDED = "pushStatusChanges=1,cloudAsVO=1,messageDriven=1,instantiateTmpl=1,instantiateTmplSite=1"


class CannotRefine(Exception):
    """The parameters do not make a task: it is broken."""


class InputMissing(CannotRefine):
    """An input dataset is unknown."""


@dataclass(frozen=True)
class Refined:
    """A task as its parameters describe it.

    :param parameters: those it was submitted with.
    :param attributes: columns of its row.
    :param templates: job parameters of type ``template``, the log's among them.
    """

    parameters: dict[str, Json]
    attributes: Row
    templates: list[dict[str, Json]]


def refine(parameters: dict[str, Json]) -> Refined:
    """Check the parameters and derive the task.

    :raises CannotRefine: a parameter is missing or the virtual organisation has no plug-in.
    """
    if parameters["vo"] not in VOS:
        raise CannotRefine(f"no refiner for vo={parameters['vo']} sourceLabel={parameters['prodSourceLabel']}")
    for name in _NEEDED:
        if name not in parameters:
            raise CannotRefine(f"failed to extract common parameters with KeyError:'{name}'")
    attributes = {name: parameters[name] for name in _COPIED if name in parameters}
    attributes |= {
        "architecture": parameters["architecture"] or "{}",
        "currentPriority": parameters.get("currentPriority", parameters.get("taskPriority", 1000)),
        "splitRule": _split_rule(parameters),
        "requestType": hashlib.md5(json.dumps(parameters["jobParameters"]).encode()).hexdigest(),  # noqa: S324
    }
    if parameters.get("reqID") is not None:
        attributes["reqID"] = parameters["reqID"]
    items = [*parameters["jobParameters"], *([parameters["log"]] if parameters.get("log") else [])]
    return Refined(parameters, attributes, [item for item in items if item.get("type") == "template"])


def _split_rule(parameters: dict[str, Json]) -> str:
    given = [f"{name}={parameters[name]}" for name in _SPLIT_RULES if parameters.get(name)]
    return ",".join([*given, _RULES_ADDED])


def stored_parameters(parameters: dict[str, Json]) -> dict[str, Json]:
    """Show the parameters as JEDI keeps them after refinement."""
    kept = parameters | _ADDED
    if parameters.get("log"):
        kept["log"] = parameters["log"] | {"value": "${LOG0}"}
    return kept


def execution_parameters(parameters: dict[str, Json]) -> str:
    """Join the job parameters into the template that every job fills in."""
    text = ""
    for item in parameters.get("jobParameters", []):
        if item.get("value") != "__delimiter__" and not _is_silent(item):
            text += str(item.get("value", "")) + ("" if item.get("padding") is False else " ")
    return text.rstrip(" ")


def _is_silent(item: dict[str, Json]) -> bool:
    return bool(item.get("hidden"))


def feed(backend: Backend, task_id: int, refined: Refined) -> None:
    """Make the datasets of a new task and fill its input.

    :raises InputMissing: an input dataset is unknown.
    :raises CannotRefine: an input dataset is empty.
    """
    inputs = [item for item in refined.templates if item.get("param_type") == "input" and item.get("dataset")]
    if inputs:
        _add_dataset(backend, task_id, "input", {"dataset": inputs[0]["dataset"]})
    else:
        _add_dataset(backend, task_id, "pseudo_input", {"dataset": "pseudo_dataset"})
    for item in refined.templates:
        if item.get("param_type") in ("output", "log"):
            _add_output(backend, task_id, item)
    add_inputs(backend, task_id, refined.parameters)


def _add_dataset(backend: Backend, task_id: int, kind: str, item: dict[str, Json], name: str = "") -> int:
    return backend.store.insert(
        "datasets",
        jediTaskID=task_id,
        datasetName=name or item["dataset"],
        containerName=item.get("container"),
        type=kind,
        status="defined",
        template=item.get("value"),
        token=item.get("token"),
        destination=item.get("destination"),
    )


def _add_output(backend: Backend, task_id: int, item: dict[str, Json]) -> None:
    """Make the container that the author named and the dataset in it that jobs write to."""
    kind, template = item["param_type"], item["value"]
    if not template or "/" in template.replace("${SN/P}", "") or template.startswith("."):
        raise CannotRefine(f"{template!r} cannot name {kind} files")
    _add_dataset(backend, task_id, f"tmpl_{kind}", item)
    dataset = _add_dataset(backend, task_id, kind, {"container": item["dataset"]} | item)
    name = f"{item['dataset'].rstrip('/')}.{dataset}.{dataset}"
    backend.store.update("datasets", "datasetID", dataset, datasetName=name)


def master(backend: Backend, task_id: int) -> Row | None:
    """Read the dataset whose files are the task's inputs."""
    sql = "SELECT * FROM datasets WHERE jediTaskID = ? AND type IN ('input', 'pseudo_input') ORDER BY datasetID"
    return backend.store.row(sql, task_id)


def add_inputs(backend: Backend, task_id: int, parameters: dict[str, Json]) -> int:
    """Add to the task's inputs what is not among them yet and return how many there are.

    :raises InputMissing: the input dataset is unknown.
    :raises CannotRefine: there is no input at all.
    """
    dataset = master(backend, task_id)
    if dataset is None:
        raise CannotRefine("the task has no input")
    found = _pseudo_files(parameters) if dataset["type"] == "pseudo_input" else _files(backend, dataset["datasetName"])
    found = found[: int(parameters.get("nFiles") or len(found))]
    if not found:
        raise CannotRefine("primary input dataset is empty or all files are excluded ")
    known = backend.store.value("SELECT COUNT(*) FROM contents WHERE datasetID = ?", dataset["datasetID"])
    attempts = int(parameters.get("maxAttempt") or DEFAULT_MAX_ATTEMPT)
    for position, file in enumerate(found[known:], start=known):
        backend.store.insert(
            "contents",
            jediTaskID=task_id,
            datasetID=dataset["datasetID"],
            position=position,
            maxAttempt=attempts,
            **file,
        )
    return len(found)


def _pseudo_files(parameters: dict[str, Json]) -> list[dict[str, Any]]:
    events, per_job = parameters.get("nEvents"), int(parameters.get("nEventsPerJob") or 1)
    jobs = -(-int(events) // per_job) if events else int(parameters.get("nJobs") or parameters.get("nFiles") or 1)
    return [{"lfn": "pseudo_lfn"}] * jobs


def _files(backend: Backend, name: str) -> list[dict[str, Any]]:
    """Find the files of an output dataset that an earlier task of this server made."""
    bare = name.rsplit(":", 1)[-1].rstrip("/")
    datasets = backend.store.rows(
        "SELECT datasetID FROM datasets WHERE type IN ('output', 'log') "
        "AND (datasetName = ? OR containerName IN (?, ?))",
        bare, bare, f"{bare}/",
    )  # fmt: skip
    if not datasets:
        raise InputMissing(f"failed to get metadata for {name}: the dataset is unknown")
    found: list[dict[str, Any]] = []
    for dataset in datasets:
        found += backend.store.rows(
            "SELECT lfn, fsize, checksum FROM contents WHERE datasetID = ? AND status = 'finished' ORDER BY lfn",
            dataset["datasetID"],
        )
    return found


def files_per_job(parameters: dict[str, Json], kind: str) -> int:
    """Say how many inputs one job takes.

    :param kind: type of the input dataset; a pseudo-input stands for one job.
    """
    if kind == "pseudo_input":
        return 1
    return int(parameters.get("nFilesPerJob") or parameters.get("nMaxFilesPerJob") or MAX_FILES_PER_JOB)
