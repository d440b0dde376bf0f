"""Filters of ``task/get_tasks_detailed_info_since``: what the server cannot compare is refused before it is sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from panda_airflow.client.errors import UsageError

_TASK = """
    jediTaskID taskName status userName creationDate modificationTime startTime endTime frozenTime prodSourceLabel
    workingGroup vo coreCount taskType processingType taskPriority currentPriority architecture transUses transHome
    transPath lockedBy lockedTime termCondition splitRule walltime walltimeUnit outDiskCount outDiskUnit workDiskCount
    workDiskUnit ramCount ramUnit ioIntensity ioIntensityUnit workQueue_ID progress failureRate errorDialog reqID
    oldStatus cloud site countryGroup parent_tid eventService ticketID ticketSystemType stateChangeTime superStatus
    campaign mergeRamCount mergeRamUnit mergeWalltime mergeWalltimeUnit throttledTime numThrottled mergeCoreCount goal
    assessmentTime cpuTime cpuTimeUnit cpuEfficiency baseWalltime nucleus baseRamCount ttcRequested ttcPredicted
    ttcPredictionDate rescueTime requestType gshare resource_type useJumbo diskIO diskIOUnit memory_leak_core
    memory_leak_x2 attemptNr container_name framework activatedTime queuedTime actionTime
"""
"""What panda-server 1.0.4 keeps of a task."""

_COLUMNS = {name.lower(): name for name in _TASK.split()}
"""By the name in lower case, as databases do not tell the two apart."""


def check_filters(arguments: Mapping[str, Any]) -> None:
    """Refuse a value that is no text, which makes the server fail, and a column that it would call an outage.

    Filters that are no JSON object are left to the server, which says so.

    :param arguments: those of the method.
    :raises UsageError: names the filter and what to write instead; nothing was sent.
    """
    given = arguments.get("filters") or "{}"
    try:
        wanted = json.loads(given) if isinstance(given, str) else given
    except ValueError:
        return
    if isinstance(wanted, dict):
        for name, value in wanted.items():
            _check(name, value)


def _check(name: str, value: object) -> None:
    if name.lower() not in _COLUMNS:
        near = get_close_matches(name.lower(), _COLUMNS, n=1)
        advice = f"Did you mean {_COLUMNS[near[0]]}?" if near else ""
        raise UsageError(
            f"tasks cannot be filtered by {name!r}, which they do not have; nothing was sent.", advice=advice
        )
    if not isinstance(value, str):
        raise UsageError(
            f"the filter {name} is {value!r:.100}; the server compares with text only. Nothing was sent.",
            advice="Write numbers as text, too.",
        )
