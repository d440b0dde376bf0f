"""Jobs and their files as PanDA's own tools describe them, and the JSON that ``job/submit`` takes.

Attributes keep the server's names and their order, which is that of the JSON. One that is not set reads ``"NULL"``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, ClassVar, Self

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import Json

NULL = "NULL"
"""What an attribute reads that is not set."""


@dataclass(eq=False)
class FileSpec:
    """An input, output or log file of a job; sizes are in bytes."""

    rowID: int | str = NULL
    GUID: str = NULL
    lfn: str = NULL
    type: str = NULL
    dataset: str = NULL
    status: str = NULL
    prodDBlock: str = NULL
    prodDBlockToken: str = NULL
    dispatchDBlock: str = NULL
    dispatchDBlockToken: str = NULL
    destinationDBlock: str = NULL
    destinationDBlockToken: str = NULL
    destinationSE: str = NULL
    fsize: int | str = NULL
    md5sum: str = NULL
    checksum: str = NULL
    scope: str = NULL
    _owner: JobSpec | None = field(default=None, repr=False)

    @property
    def PandaID(self) -> int | str:
        """The job that the file belongs to."""
        return self._owner.PandaID if self._owner else NULL

    def setOwner(self, owner: JobSpec) -> None:
        """Say which job the file belongs to."""
        self._owner = owner


@dataclass(eq=False)
class JobSpec:
    """A job, with its files in :attr:`Files`; times are naive UTC."""

    _attributes: ClassVar[tuple[str, ...]] = ()

    PandaID: int | str = NULL
    jobDefinitionID: int | str = NULL
    schedulerID: str = NULL
    pilotID: str = NULL
    creationTime: datetime | str = NULL
    creationHost: str = NULL
    modificationTime: datetime | str = NULL
    modificationHost: str = NULL
    AtlasRelease: str = NULL
    transformation: str = NULL
    homepackage: str = NULL
    prodSeriesLabel: str = NULL
    prodSourceLabel: str = NULL
    prodUserID: str = NULL
    assignedPriority: int | str = NULL
    currentPriority: int | str = NULL
    attemptNr: int | str = NULL
    maxAttempt: int | str = NULL
    jobStatus: str = NULL
    jobName: str = NULL
    maxCpuCount: int | str = NULL
    maxCpuUnit: str = NULL
    maxDiskCount: int | str = NULL
    maxDiskUnit: str = NULL
    ipConnectivity: str = NULL
    minRamCount: int | str = NULL
    minRamUnit: str = NULL
    startTime: datetime | str = NULL
    endTime: datetime | str = NULL
    cpuConsumptionTime: int | str = NULL
    cpuConsumptionUnit: str = NULL
    commandToPilot: str = NULL
    transExitCode: str = NULL
    pilotErrorCode: int | str = NULL
    pilotErrorDiag: str = NULL
    exeErrorCode: int | str = NULL
    exeErrorDiag: str = NULL
    supErrorCode: int | str = NULL
    supErrorDiag: str = NULL
    ddmErrorCode: int | str = NULL
    ddmErrorDiag: str = NULL
    brokerageErrorCode: int | str = NULL
    brokerageErrorDiag: str = NULL
    jobDispatcherErrorCode: int | str = NULL
    jobDispatcherErrorDiag: str = NULL
    taskBufferErrorCode: int | str = NULL
    taskBufferErrorDiag: str = NULL
    computingSite: str = NULL
    computingElement: str = NULL
    jobParameters: str = NULL
    metadata: str = NULL
    prodDBlock: str = NULL
    dispatchDBlock: str = NULL
    destinationDBlock: str = NULL
    destinationSE: str = NULL
    nEvents: int | str = NULL
    grid: str = NULL
    cloud: str = NULL
    cpuConversion: float | str = NULL
    sourceSite: str = NULL
    destinationSite: str = NULL
    transferType: str = NULL
    taskID: int | str = NULL
    cmtConfig: str = NULL
    stateChangeTime: datetime | str = NULL
    prodDBUpdateTime: datetime | str = NULL
    lockedby: str = NULL
    relocationFlag: int | str = NULL
    jobExecutionID: int | str = NULL
    VO: str = NULL
    pilotTiming: str = NULL
    workingGroup: str = NULL
    processingType: str = NULL
    prodUserName: str = NULL
    nInputFiles: int | str = NULL
    countryGroup: str = NULL
    batchID: str = NULL
    parentID: int | str = NULL
    specialHandling: str = NULL
    jobsetID: int | str = NULL
    coreCount: int | str = NULL
    nInputDataFiles: int | str = NULL
    inputFileType: str = NULL
    inputFileProject: str = NULL
    inputFileBytes: int | str = NULL
    nOutputDataFiles: int | str = NULL
    outputFileBytes: int | str = NULL
    jobMetrics: str = NULL
    workQueue_ID: int | str = NULL
    jediTaskID: int | str = NULL
    jobSubStatus: str = NULL
    actualCoreCount: int | str = NULL
    reqID: int | str = NULL
    maxRSS: int | str = NULL
    maxVMEM: int | str = NULL
    maxSWAP: int | str = NULL
    maxPSS: int | str = NULL
    avgRSS: int | str = NULL
    avgVMEM: int | str = NULL
    avgSWAP: int | str = NULL
    avgPSS: int | str = NULL
    maxWalltime: int | str = NULL
    nucleus: str = NULL
    eventService: int | str = NULL
    failedAttempt: int | str = NULL
    hs06sec: int | str = NULL
    gshare: str = NULL
    hs06: int | str = NULL
    totRCHAR: int | str = NULL
    totWCHAR: int | str = NULL
    totRBYTES: int | str = NULL
    totWBYTES: int | str = NULL
    rateRCHAR: int | str = NULL
    rateWCHAR: int | str = NULL
    rateRBYTES: int | str = NULL
    rateWBYTES: int | str = NULL
    resource_type: str = NULL
    diskIO: float | str = NULL
    memory_leak: float | str = NULL
    memory_leak_x2: float | str = NULL
    container_name: str = NULL
    job_label: str = NULL
    gco2_regional: float | str = NULL
    gco2_global: float | str = NULL
    cpu_architecture_level: str = NULL
    outputFileType: str = NULL
    Files: list[FileSpec] = field(default_factory=list)

    def addFile(self, file: FileSpec) -> None:
        """Add a file and make it know its job."""
        file.setOwner(self)
        self.Files.append(file)

    @classmethod
    def from_data(cls, data: Mapping[str, Json]) -> Self:
        """Read a job as ``job/get_description`` answers it.

        :param data: attributes by name; ``None`` and those that are missing become ``"NULL"``.
        """
        job = cls(**_known(JOB_ATTRIBUTES, data))
        for item in data.get("Files") or []:
            job.addFile(FileSpec(**_known(FILE_FIELDS, item)))
        return job


def _known(names: Iterable[str], data: Mapping[str, Json]) -> dict[str, Any]:
    return {name: data[name] for name in names if data.get(name) is not None}


JOB_ATTRIBUTES = tuple(item.name for item in fields(JobSpec) if item.name != "Files")
"""The attributes of a job, in the order of the JSON."""
JobSpec._attributes = JOB_ATTRIBUTES  # where programs that use the reference look for them

FILE_FIELDS = tuple(item.name for item in fields(FileSpec) if item.name != "_owner")

FILE_ATTRIBUTES = ("rowID", "PandaID", *FILE_FIELDS[1:])
"""The attributes of a file, in the order of the JSON."""


def dump_jobs(jobs: Iterable[JobSpec]) -> str:
    """Write jobs as ``job/submit`` takes them: a list of values each, the last of them the files.

    :raises UsageError: a value has no JSON form.
    """
    try:
        return json.dumps([_values(job) for job in jobs], default=_mark_time)
    except TypeError as error:
        raise UsageError(f"a job cannot be written as JSON: {error}; nothing was sent.") from error


def _values(job: JobSpec) -> list[Any]:
    files = [[*(getattr(file, name) for name in FILE_ATTRIBUTES), None] for file in job.Files]
    return [*(getattr(job, name) for name in JOB_ATTRIBUTES), files]


def _mark_time(value: object) -> dict[str, str]:
    if isinstance(value, datetime):
        return {"_datetime_object": f"{value:%Y-%m-%d %H:%M:%S.%f}"}
    raise TypeError(f"a {type(value).__name__} has no JSON form")
