"""Explaining a failure in a few lines that a person can act on. No I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from panda_airflow.client.models import JobInfo

WORST = 3
"""How many kinds of job error are told."""


def job_errors(jobs: Sequence[JobInfo]) -> list[str]:
    """Tell the most frequent errors of jobs, one line each, the most frequent first.

    :param jobs: unsuccessful jobs.
    """
    kinds: dict[str, list[JobInfo]] = defaultdict(list)
    for job in jobs:
        if job.errors:
            kinds["; ".join(_error(*error) for error in job.errors)].append(job)
    ranked = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    return [
        f"{len(hit)} job(s): {what} "
        f"(sites {', '.join(sorted({job.site for job in hit}))}; for example PandaID {hit[0].panda_id})"
        for what, hit in ranked[:WORST]
    ]


def _error(component: str, code: int, text: str) -> str:
    return f"{component} error {code}: {text or 'no text'}"
