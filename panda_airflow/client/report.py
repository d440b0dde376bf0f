"""Explaining a failure in a few lines that a person can act on. No I/O."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from html import unescape

from panda_airflow.client.envelope import plain_text
from panda_airflow.client.models import JobInfo, TaskInfo
from panda_airflow.client.submission import Action, SubmissionRecord, next_action

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


def inputs(counts: Mapping[str, int]) -> str:
    """Tell how many inputs are in which state.

    :param counts: number of input files, or of jobs where the task has no input, by status.
    """
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items(), key=lambda item: -item[1]))
    return f"Input files (jobs, where there is no input): {told}." if told else ""


def job_errors(jobs: Sequence[JobInfo], page: Callable[[int], str] = str) -> list[str]:
    """Tell the most frequent errors of jobs, one line each, the most frequent first.

    :param jobs: unsuccessful jobs.
    :param page: address of a job's page, by PandaID.
    """
    kinds: dict[str, list[JobInfo]] = defaultdict(list)
    for job in jobs:
        if job.errors:
            kinds["; ".join(_error(*error) for error in job.errors)].append(job)
    ranked = sorted(kinds.items(), key=lambda kind: -len(kind[1]))
    return [f"{len(hit)} job(s): {what} ({_where(hit, page)})" for what, hit in ranked[:WORST]]


def _where(jobs: list[JobInfo], page: Callable[[int], str]) -> str:
    example, link = jobs[0].panda_id, page(jobs[0].panda_id)
    told = f"PandaID {example}" + (f", {link}" if link != str(example) else "")
    return f"sites {', '.join(sorted({job.site for job in jobs}))}; for example {told}"


def _error(component: str, code: int, text: str) -> str:
    return f"{component} error {code}: {text or 'no text'}"


def attempts(retries: int | None, here: int | None) -> str:
    """Tell how often a task was tried.

    :param retries: those that JEDI has executed, or None if that is not known.
    :param here: those that the waiting step made, or None if it makes none.
    """
    if retries is None:
        return ""
    return f"Attempts of the task on the server: {retries + 1}" + ("." if here is None else f"; retries here: {here}.")


LOOK_AGAIN = "A retry of this step looks at the task again."
"""What a retry of a sensor does."""


def submission_retry(task_id: int, kind: str, status: str) -> str:
    """Tell what a retry of a step that submitted a task does, which depends on how its wait has ended.

    :param kind: of the wait's event.
    :param status: the last status seen.
    """
    if kind == "timeout":
        return "A retry of this step waits for the task, and submits anew under the next name once it is aborted."
    record = SubmissionRecord("", 0, 0.0, 0, task_id=task_id)
    action = next_action(record, TaskInfo(task_id, status=status), (), overdue=False)
    return _SUBMISSION_RETRIES[action]


_SUBMISSION_RETRIES = {
    Action.FOLLOW: "A retry of this step waits on for the task.",
    Action.RETRY: "A retry of this step retries the PanDA task in place.",
    Action.REPLACE: "A retry of this step submits the work anew under the next name.",
}
