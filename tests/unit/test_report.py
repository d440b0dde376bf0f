from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.models import JobInfo, TaskDigest, TaskInfo
from panda_airflow.client.status import ACTIVE_STATUSES, FINAL_STATUSES
from panda_airflow.steps.decision import Action, Situation, decide, submission_retry
from panda_airflow.steps.record import SubmissionRecord
from panda_airflow.waiting.report import (
    LONGEST_DIALOG,
    WORST,
    another_split,
    attempts,
    dialog,
    input_counts,
    job_counts,
    job_errors,
)

LOG = "https://monitor/log/{}".format


def job(panda_id: int, site: str, code: int, text: str = "payload exit", component: str = "exe") -> JobInfo:
    return JobInfo.from_data(
        {
            "PandaID": panda_id,
            "computingSite": site,
            f"{component}ErrorCode": code,
            f"{component}ErrorDiag": text,
        }
    )


def test_the_most_frequent_errors_come_first_with_code_sites_and_an_example() -> None:
    jobs = [
        job(1, "CERN", 7),
        job(2, "BNL", 3, "no space"),
        job(3, "BNL", 3, "no space"),
        job(4, "CERN", 3, "no space"),
    ]
    assert job_errors(jobs, LOG) == [
        "3 job(s): exe error 3: no space (sites BNL, CERN; for example PandaID 4, log https://monitor/log/4)",
        "1 job(s): exe error 7: payload exit (sites CERN; for example PandaID 1, log https://monitor/log/1)",
    ]


def test_all_components_of_a_job_have_their_say() -> None:
    """The pilot's own words rarely tell what the payload did."""
    both = JobInfo.from_data(
        {
            "PandaID": 1,
            "computingSite": "CERN",
            "pilotErrorCode": 1305,
            "pilotErrorDiag": "Failed to execute payload ",
            "exeErrorCode": 3,
            "exeErrorDiag": "NULL",
        }
    )
    [line] = job_errors([both], LOG)
    assert "pilot error 1305: Failed to execute payload; exe error 3: no text" in line


def test_jobs_without_an_error_code_say_nothing() -> None:
    assert job_errors([JobInfo(1, status="closed")], LOG) == []


def test_a_warning_of_a_job_that_went_well_is_no_error() -> None:
    assert job_errors([replace(job(1, "CERN", 7), status="finished")], LOG) == []


@given(
    st.lists(
        st.builds(job, st.integers(1, 2**63 - 1), st.sampled_from(["CERN", "BNL"]), st.integers(1, 9)), max_size=30
    )
)
def test_a_report_is_short_whatever_happened(jobs: list[JobInfo]) -> None:
    lines = job_errors(jobs, LOG)
    counts = [int(line.split(" ")[0]) for line in lines]
    assert len(lines) == min(WORST, len({job.errors[0][1] for job in jobs}))
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) <= len(jobs)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("", ""),
        ('<a href="https://x/log">log</a> : brokerage failed', "JEDI says: log : brokerage failed"),
        ("no site with x &lt; 3<br>try later", "JEDI says: no site with x < 3 try later"),
        ("bad\nTraceback (most recent call last):\n  File x\nKeyError: 'a'", "JEDI says: bad KeyError: 'a'"),
        ("n < 3 and m > 4", "JEDI says: n < 3 and m > 4"),
    ],
)
def test_what_jedi_says_is_told_as_plain_text(said: str, told: str) -> None:
    assert dialog(said) == told


@given(st.text())
def test_what_jedi_says_is_one_short_line(said: str) -> None:
    assert len(dialog(said).splitlines()) <= 1
    assert len(dialog(said)) <= LONGEST_DIALOG + len("JEDI says: ...")


def test_counts_begin_with_the_most() -> None:
    jobs = [JobInfo(1, status="finished"), JobInfo(2, status="failed"), JobInfo(3, status="failed")]
    assert job_counts(jobs, 3) == "Jobs, each attempt counted: 2 failed, 1 finished."
    assert input_counts(TaskDigest(in_ds="data23", statistics="finished*1,failed*2")) == (
        "Input files: 2 failed, 1 finished."
    )


def test_jobs_that_were_not_read_are_counted_as_others() -> None:
    assert job_counts([JobInfo(2, status="failed")], 500) == "Jobs, each attempt counted: 499 others, 1 failed."
    assert job_counts([], 0) == ""


def test_a_task_without_input_has_no_input_files() -> None:
    assert input_counts(TaskDigest(statistics="finished*1,failed*2")) == ""


def test_attempts_are_told_where_they_are_known() -> None:
    """JEDI begins to count anew whenever it refines the task again."""
    assert attempts(None, None) == ""
    assert attempts(0, None) == "Attempts of the task that JEDI counts: 1."
    assert attempts(0, 3) == "Attempts of the task: 4, 3 of them retries by this step."
    assert attempts(2, 1) == "Attempts of the task: 3, 1 of them retries by this step."


WORDS = {
    Action.FOLLOW: "waits on",
    Action.RETRY: "retries the PanDA task in place",
    Action.REPLACE: "submits the work anew",
}


@pytest.mark.parametrize("status", sorted(ACTIVE_STATUSES | FINAL_STATUSES - {"done"}))
def test_what_a_retry_is_said_to_do_is_what_it_does(status: str) -> None:
    record = SubmissionRecord("user.bob.fit", 0, 0.0, 0, task_id=42)
    action = decide(Situation(record, TaskInfo(42, status=status))).action
    assert WORDS[action] in submission_retry(42, "failed", status)


def test_a_retry_after_the_deadline_depends_on_what_the_kill_has_done() -> None:
    assert "waits for the task, and submits anew" in submission_retry(42, "timeout", "running")


NO_INPUT = {"noInput": True, "nFiles": 4, "nFilesPerJob": 1}


def test_a_task_that_is_split_otherwise_than_its_parameters_ask_for_is_told() -> None:
    told = another_split(NO_INPUT, 1)
    assert "made of 1 job(s), not of the 4" in told
    assert "nEvents and nEventsPerJob" in told
    assert another_split({"noInput": True, "nEvents": 10, "nEventsPerJob": 3}, 3)


@pytest.mark.parametrize(
    ("parameters", "made"),
    [
        (NO_INPUT, 4),
        (NO_INPUT, 0),
        (NO_INPUT | {"nEvents": 10, "nEventsPerJob": 3}, 4),
        (NO_INPUT | {"noInput": False}, 1),
        (NO_INPUT | {"nFilesPerJob": 0}, 1),
        (NO_INPUT | {"nFiles": "4"}, 1),
        (NO_INPUT | {"nEventsPerFile": 2}, 1),
        ({}, 1),
    ],
)
def test_nothing_is_told_of_a_split_that_is_right_or_not_known(parameters: dict[str, object], made: int) -> None:
    assert another_split(parameters, made) == ""
