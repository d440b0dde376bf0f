"""Explaining a failure in a few lines that a person can act on. No I/O."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import unescape
from math import ceil
from typing import Any

from panda_airflow.client.http.envelope import plain_text
from panda_airflow.client.models import JobInfo, TaskDigest

WORST = 3
"""How many kinds of job error are told."""

LONGEST_DIALOG = 500
"""Characters of an error dialog that are told."""

_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")


def dialog(text: str) -> str:
    """Tell what JEDI says about a task, in one line: no links, no tags, of a traceback only its end.

    :param text: the error dialog, which often is HTML.
    """
    plain = plain_text(unescape(_TAG.sub(" ", text)), LONGEST_DIALOG)
    return f"JEDI says: {plain}" if plain else ""


def job_counts(jobs: Sequence[JobInfo], total: int) -> str:
    """Tell how many jobs are in which state; an attempt at a job is a job by itself.

    :param jobs: the jobs that are known.
    :param total: number of jobs that the task has had; those that are not known are told as others.
    """
    counts = Counter(job.status for job in jobs)
    return _counted("Jobs, each attempt counted", counts | Counter(others=total - len(jobs)))


def input_counts(digest: TaskDigest) -> str:
    """Tell how many input files are in which state; nothing of a task without input.

    :param digest: the details of the task.
    """
    return _counted("Input files", digest.inputs_by_status) if digest.input_datasets else ""


def _counted(what: str, counts: Mapping[str, int]) -> str:
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items(), key=lambda item: -item[1]))
    return f"{what}: {told}." if told else ""


def job_errors(jobs: Sequence[JobInfo], log: Callable[[int], str]) -> list[str]:
    """Tell the most frequent errors of unsuccessful jobs, one line each, the most frequent first.

    :param jobs: jobs, those that went well are passed over.
    :param log: address of a job's log, by PandaID.
    """
    kinds: dict[str, list[JobInfo]] = defaultdict(list)
    for job in jobs:
        if job.errors and job.status != "finished":
            kinds["; ".join(_error(*error) for error in job.errors)].append(job)
    ranked = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    return [f"{len(hit)} job(s): {what} ({_where(hit, log)})" for what, hit in ranked[:WORST]]


def _where(jobs: list[JobInfo], log: Callable[[int], str]) -> str:
    sites, example = ", ".join(sorted({job.site for job in jobs})), max(job.panda_id for job in jobs)
    return f"sites {sites}; for example PandaID {example}, log {log(example)}"


def _error(component: str, code: int, text: str) -> str:
    return f"{component} error {code}: {text or 'no text'}"


def attempts(retries: int | None, here: int | None) -> str:
    """Tell how often a task was tried.

    :param retries: those that JEDI counts, which begins anew whenever it refines the task again; None if not known.
    :param here: those that the step has recorded, or None if it makes none.
    """
    if here:
        return f"Attempts of the task: {max(here, retries or 0) + 1}, {here} of them retries by this step."
    return "" if retries is None else f"Attempts of the task that JEDI counts: {retries + 1}."


def jobs_asked_for(parameters: Mapping[str, Any]) -> int | None:
    """Tell into how many jobs a task without input should be split; None if that is not known.

    :param parameters: JEDI's task parameters.
    """
    if not parameters.get("noInput") or "nEventsPerFile" in parameters:
        return None
    for total, share in (("nEvents", "nEventsPerJob"), ("nFiles", "nFilesPerJob")):
        whole, part = parameters.get(total), parameters.get(share)
        if isinstance(whole, int) and isinstance(part, int) and part > 0:
            return ceil(whole / part)
    return None


def another_split(parameters: Mapping[str, Any], made: int) -> str:
    """Say that a task without input was split otherwise than its parameters ask for; nothing if it was not.

    :param parameters: JEDI's task parameters.
    :param made: the number of its files, one for each job; 0 where that is not known.
    """
    asked = jobs_asked_for(parameters)
    if not asked or not made or asked == made:
        return ""
    return (
        f"It was made of {made} job(s), not of the {asked} that its parameters ask for: JEDI splits a task without "
        "input by nEvents and nEventsPerJob, never by nFiles."
    )


CONTINUE_AFTER_THE_LAST = (
    "This was the last try. A clear of this step goes on with this PanDA task, and retries it in place if it can be."
)

_AFTER_A_TIMEOUT = "A retry of this step waits for the task, and submits anew under another name once it is aborted."

_TIMEOUT_COUNTS_ON = (
    "The timeout counts from the submission, for a retry of this step, too: give it a longer one to wait on."
)
