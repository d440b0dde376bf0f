"""From the parameters of a task to what JEDI works on: the task and its datasets."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from panda_airflow.client.models import Json
from panda_airflow.devserver.backend import Backend
from panda_airflow.devserver.storage.store import Row

VOS = frozenset({"wlcg", "atlas", "rubin", "sphenix", "darkside", "eic"})
"""Virtual organisations for which this JEDI has a plug-in."""

DEFAULT_SITE = "LOCAL_TEST"
SITES = frozenset({DEFAULT_SITE, "LOCAL", "AUTO"})
"""Sites that brokerage knows."""

SEQUENCE = "seq_number"
"""Name of the pseudo dataset whose files are the numbers of jobs."""

_RUN_GEN = "https://pandaserver-doma.cern.ch/trf/user/runGen-00-00-02"

_COMMON = (
    "taskName", "userName", "vo", "prodSourceLabel", "taskPriority", "architecture", "transUses", "transHome",
    "processingType",
)  # fmt: skip
"""Parameters that JEDI reads before the task has its name, in this order."""

_COPIED = (
    "taskName", "userName", "vo", "prodSourceLabel", "transUses", "transHome", "transPath", "processingType",
    "taskType", "workingGroup", "countryGroup", "campaign", "ramCount", "ramUnit", "cloud", "site", "framework",
    "container_name", "goal", "cpuTime", "cpuTimeUnit", "walltime",
)  # fmt: skip
_KEPT_WHEN_REFINED_AGAIN = ("ramCount", "walltime", "cpuTime", "cpuTimeUnit")
_SPLIT_RULES = ("nEventsPerJob", "nFilesPerJob", "nGBPerJob", "nMaxFilesPerJob", "disableAutoRetry")
_RULES_ADDED = "pushStatusChanges=1,cloudAsVO=1,messageDriven=1,instantiateTmpl=1,instantiateTmplSite=1"


class CannotRefine(Exception):
    """The parameters do not make a task: it is broken."""


class WithoutName(CannotRefine):
    """JEDI stopped so early that the task never gets its name and owner."""


class InputUnknown(CannotRefine):
    """An input dataset is unknown.

    :param name: of the dataset.
    """

    def __init__(self, name: str) -> None:
        said = f'doBasicRefine : unknown input dataset "{name}"'
        super().__init__(f"{said} failed to refine task with UnknownDatasetError:{said}")


@dataclass(frozen=True)
class Refined:
    """A task as its parameters describe it.

    :param parameters: those it was submitted with, and what JEDI adds.
    :param attributes: columns of its row.
    """

    parameters: dict[str, Json]
    attributes: Row


def refine(submitted: dict[str, Json]) -> Refined:
    """Derive the task, without its datasets.

    :raises WithoutName: a parameter is missing or the virtual organisation has no plug-in.
    """
    if submitted["vo"] not in VOS:
        raise WithoutName(
            f"task refiner is undefined for vo={submitted['vo']} sourceLabel={submitted['prodSourceLabel']}"
        )
    parameters = _completed(submitted)
    for name in _COMMON:
        if name not in parameters:
            said = f"failed to extract common parameters with KeyError:'{name}'"
            raise WithoutName(f"{said} Traceback (most recent call last)")
    return Refined(parameters, _attributes(parameters))


def _completed(submitted: dict[str, Json]) -> dict[str, Json]:
    """Add what JEDI adds to the parameters of every task."""
    defaults: dict[str, Json] = {"transPath": _RUN_GEN, "pushStatusChanges": True, "messageDriven": True}
    if "workingGroup" in submitted:
        defaults["cloud"] = submitted["workingGroup"]
    if "ramCount" not in submitted:
        defaults["ramCount"], defaults["ramUnit"] = 2000, "MBPerCore"
    added = {name: value for name, value in defaults.items() if name == "ramUnit" or name not in submitted}
    parameters = submitted | added | {"cloudAsVO": True}
    if "sourceURL" in parameters and isinstance(parameters.get("jobParameters"), list):
        items = parameters["jobParameters"]
        parameters["jobParameters"] = [_with_source(item, parameters["sourceURL"]) for item in items]
    return parameters


def _with_source(item: dict[str, Json], url: str) -> dict[str, Json]:
    return item | {"value": item["value"].replace("${SURL}", url)} if "value" in item else item


def _attributes(parameters: dict[str, Json]) -> Row:
    priority = parameters["taskPriority"] or 0
    attributes = {name: parameters[name] for name in _COPIED if name in parameters}
    attributes |= {
        "attemptNr": 0,
        "taskPriority": priority,
        "currentPriority": parameters.get("currentPriority", priority),
        "architecture": parameters["architecture"] or "{}",
        "coreCount": parameters.get("coreCount", 1),
        "splitRule": _split_rule(parameters),
        "requestType": hashlib.md5(json.dumps(parameters.get("jobParameters")).encode()).hexdigest(),  # noqa: S324
    }
    if parameters.get("reqID") is not None:
        attributes["reqID"] = parameters["reqID"]
    return attributes


def _split_rule(parameters: dict[str, Json]) -> str:
    given = [f"{name}={parameters[name]}" for name in _SPLIT_RULES if parameters.get(name)]
    return ",".join([*given, _RULES_ADDED])


def refined_again(refined: Refined) -> Row:
    """Name the columns that change when a task is refined once more; what its first jobs taught JEDI stays."""
    return {name: value for name, value in refined.attributes.items() if name not in _KEPT_WHEN_REFINED_AGAIN}


def stored_parameters(parameters: dict[str, Json]) -> dict[str, Json]:
    """Show the parameters as JEDI keeps them after refinement."""
    if not parameters.get("log"):
        return parameters
    return parameters | {"log": parameters["log"] | {"value": "${LOG0}"}}


def execution_parameters(parameters: dict[str, Json]) -> str:
    """Join the job parameters into the template that every job fills in."""
    text = ""
    for item in parameters.get("jobParameters", []):
        if item.get("value") != "__delimiter__" and not item.get("hidden"):
            text += str(item.get("value", "")) + ("" if item.get("padding") is False else " ")
    return text.rstrip(" ")


def make_datasets(backend: Backend, task_id: int, parameters: dict[str, Json]) -> None:
    """Make the datasets of a new task; inputs are looked up later.

    The first input dataset is the one that jobs are made of. Of further ones, only sequence numbers are served here.

    :raises CannotRefine: an output has a name that the cache cannot hold.
    :raises KeyError: there are no job parameters, or one of them lacks a part.
    :raises InputUnknown: an input dataset is unknown.
    """
    items = [*parameters["jobParameters"], *([parameters["log"]] if parameters.get("log") else [])]
    templates = [item for item in items if item.get("type") == "template" and item.get("dataset")]
    if parameters.get("noInput") is True:
        _add_dataset(backend, task_id, "pseudo_input", {"dataset": "pseudo_dataset"})
    for item in {item["dataset"]: item for item in reversed(templates)}.values():
        if item["param_type"] in ("input", "pseudo_input"):
            _add_input(backend, task_id, item)
    for item in templates:
        if item["param_type"] in ("output", "log"):
            _add_output(backend, task_id, item)


def _add_input(backend: Backend, task_id: int, item: dict[str, Json]) -> None:
    if item["param_type"] == "input" and not find_datasets(backend, item["dataset"]):
        raise InputUnknown(item["dataset"])
    _add_dataset(backend, task_id, item["param_type"], {"dataset": item["dataset"], "offset": item.get("offset")})


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
        offset=int(item.get("offset") or 0),
    )


def _add_output(backend: Backend, task_id: int, item: dict[str, Json]) -> None:
    """Make the dataset that the author named and the one that jobs write to, named after it."""
    kind, template = item["param_type"], item["value"]
    if not template or "/" in template.replace("${SN/P}", "") or template.startswith("."):
        raise CannotRefine(f"{template!r} cannot name {kind} files")
    _add_dataset(backend, task_id, f"tmpl_{kind}", item)
    dataset = _add_dataset(backend, task_id, kind, item)
    name = f"{item['dataset'].rstrip('/')}.{dataset}.{dataset}"
    backend.store.update("datasets", "datasetID", dataset, datasetName=name)


def find_datasets(backend: Backend, name: str) -> list[int]:
    """Find the datasets that jobs of this server wrote under a name: their own, that of the container, or the author's.

    :param name: with or without its scope and the slash of a container.
    :return: dataset IDs.
    :raises DatabaseDown: the database is down.
    """
    bare = name.rsplit(":", 1)[-1].rstrip("/")
    found = backend.store.rows(
        "SELECT d.datasetID FROM datasets d WHERE d.type IN ('output', 'log') AND (d.datasetName = ? "
        "OR d.containerName IN (?, ?) OR EXISTS (SELECT 1 FROM datasets t WHERE t.jediTaskID = d.jediTaskID "
        "AND t.type = 'tmpl_' || d.type AND t.template = d.template AND t.datasetName IN (?, ?)))",
        bare, bare, f"{bare}/", bare, f"{bare}/",
    )  # fmt: skip
    return [row["datasetID"] for row in found]


def scope(dataset: str) -> str:
    """Cut the scope off the name of a dataset: ``user.alice`` of a user's or group's, else the first field."""
    fields = dataset.rsplit(":", 1)[-1].split(".")
    return ".".join(fields[:2]).lower() if fields[0].lower() in ("user", "group") else fields[0]


def master(backend: Backend, task_id: int) -> Row | None:
    """Read the dataset whose files are the task's inputs."""
    sql = "SELECT * FROM datasets WHERE jediTaskID = ? AND type IN ('input', 'pseudo_input') ORDER BY datasetID"
    return backend.store.row(sql, task_id)


def sequence(backend: Backend, task_id: int) -> Row | None:
    """Read the dataset whose files are the numbers of the task's jobs, if its command line asks for them."""
    sql = "SELECT * FROM datasets WHERE jediTaskID = ? AND type = 'pseudo_input' AND datasetName = ?"
    return backend.store.row(sql, task_id, SEQUENCE)
