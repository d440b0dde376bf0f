from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.models import JobInfo
from panda_airflow.client.report import WORST, job_errors


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
    assert job_errors(jobs) == [
        "3 job(s): exe error 3: no space (sites BNL, CERN; for example PandaID 2)",
        "1 job(s): exe error 7: payload exit (sites CERN; for example PandaID 1)",
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
    [line] = job_errors([both])
    assert "pilot error 1305: Failed to execute payload; exe error 3: no text" in line


def test_jobs_without_an_error_code_say_nothing() -> None:
    assert job_errors([JobInfo(1, status="closed")]) == []


@given(st.lists(st.builds(job, st.integers(1), st.sampled_from(["CERN", "BNL"]), st.integers(1, 9)), max_size=30))
def test_a_report_is_short_whatever_happened(jobs: list[JobInfo]) -> None:
    lines = job_errors(jobs)
    counts = [int(line.split(" ")[0]) for line in lines]
    assert len(lines) == min(WORST, len({job.errors[0][1] for job in jobs}))
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) <= len(jobs)
