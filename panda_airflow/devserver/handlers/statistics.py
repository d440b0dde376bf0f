"""Server module ``statistics``: counts of jobs, by where they are and in which state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from panda_airflow.client.models import Envelope
from panda_airflow.devserver.backend import Backend, Identity
from panda_airflow.devserver.storage.jobs import ENDED
from panda_airflow.devserver.storage.store import DatabaseDown

_CLOUD = "COALESCE(cloud, 'LOCAL')"
_ACTIVE = ("assigned", "activated", "running")
_COUNTED = (*_ACTIVE, "finished", "failed")
_LABELS = {"analysis": ("user", "panda"), "production": ("managed", "prod_test", "install")}
_HALF_A_DAY, _WEEK = 12 * 60, 7 * 24 * 60
_FAILED = "Database failure getting the job statistics"
_BAD_TYPE = 'Parameter "type" needs to be either "production" or "analysis" '
_BAD_WINDOW = 'Parameter "time_window" needs to be a positive integer smaller than 10080 min (7 days)'


def job_stats_by_cloud(backend: Backend, caller: Identity | None, type: str = "production") -> Envelope:
    """Count active jobs and those of the last 12 hours."""
    if type not in _LABELS:
        return Envelope(False, _BAD_TYPE, {})
    return _counted(backend, (_CLOUD,), labels=_LABELS[type], window=_HALF_A_DAY)


def production_job_stats_by_cloud_and_processing_type(backend: Backend, caller: Identity | None) -> Envelope:
    """Count active production jobs and those of the last 12 hours."""
    return _counted(backend, (_CLOUD, "processingType"), labels=_LABELS["production"], window=_HALF_A_DAY)


def active_job_stats_by_site(backend: Backend, caller: Identity | None) -> Envelope:
    """Count active jobs."""
    return _counted(backend, ("computingSite",), shown=_ACTIVE)


def active_job_detailed_stats_by_site(backend: Backend, caller: Identity | None) -> Envelope:
    """Count active jobs, also by resource type and label."""
    failed = f"{_FAILED} with resource_type and prodsourcelabel"
    return _counted(backend, ("computingSite", "resource_type", "prodSourceLabel"), shown=_ACTIVE, failed=failed)


def job_stats_by_site_and_resource_type(
    backend: Backend, caller: Identity | None, time_window: int | None = None
) -> Envelope:
    """Count active jobs and those that ended within some minutes."""
    return _lately(backend, ("computingSite", "resource_type"), time_window)


def job_stats_by_site_share_and_resource_type(
    backend: Backend, caller: Identity | None, time_window: int | None = None
) -> Envelope:
    """Count active jobs and those that ended within some minutes; by label, as the real server does."""
    return _lately(backend, ("computingSite", "prodSourceLabel", "resource_type"), time_window)


def _lately(backend: Backend, groups: tuple[str, ...], time_window: int | None) -> Envelope:
    if time_window is not None and not 0 <= time_window <= _WEEK:
        return Envelope(False, _BAD_WINDOW, {})
    return _counted(backend, groups, shown=_COUNTED, window=_HALF_A_DAY if time_window is None else time_window)


def _counted(
    backend: Backend,
    groups: tuple[str, ...],
    *,
    shown: tuple[str, ...] = (),
    labels: tuple[str, ...] = (),
    window: int = 0,
    failed: str = _FAILED,
) -> Envelope:
    """Count jobs; nothing to count and a database that is down look the same, as on a real server.

    :param groups: columns to count by, outermost first.
    :param shown: states that are told even where they are 0.
    :param labels: count only jobs with these production source labels.
    :param window: minutes within which ended jobs count.
    """
    try:
        rows = _rows(backend, groups, labels, window)
    except DatabaseDown:
        rows = []
    found: dict[str, Any] = {}
    for row in rows:
        *path, state, number = row.values()
        place = _place(found, path)
        place[state] = number
        place |= {name: 0 for name in shown if name not in place}
    return Envelope(bool(found), "" if found else failed, found)


def _place(tree: dict[str, Any], path: list[str]) -> dict[str, int]:
    for name in path:
        tree = tree.setdefault(name, {})
    return tree


def _rows(backend: Backend, groups: tuple[str, ...], labels: tuple[str, ...], window: int) -> list[dict[str, Any]]:
    since = backend.clock() - timedelta(minutes=window)
    columns = ", ".join((*groups, "jobStatus"))
    marks = [", ".join("?" * len(values)) for values in (ENDED, labels)]
    chosen = f"AND prodSourceLabel IN ({marks[1]})" if labels else ""
    sql = (
        f"SELECT {columns}, COUNT(*) FROM jobs "  # noqa: S608 - names of columns
        f"WHERE (jobStatus NOT IN ({marks[0]}) OR modificationTime > ?) {chosen} GROUP BY {columns}"
    )
    return backend.store.rows(sql, *ENDED, since, *labels)
