"""Commands of the embedded server: what a real server accepted and refused in each status, word for word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.status import ACTIVE_STATUSES, FINAL_STATUSES, RETRYABLE_STATUSES
from panda_airflow.devserver.jedi.commands import COMMANDS, refusal

STATUSES = sorted(ACTIVE_STATUSES | FINAL_STATUSES)

REFUSED = {
    "kill": "finished done failed broken aborted aborting toabort prepared",
    "finish": "finished done failed broken aborted aborting toabort prepared",
    "retry": "done broken toincexec registered paused aborting aborted",
    "pause": "finished done failed aborted broken paused",
    "resume": "done failed finished running broken pending toincexec registered exhausted",
    "release": "done failed finished broken paused",
    "avalanche": "done failed finished running broken pending toincexec registered",
    "reassign": "done failed finished broken paused registered",
}
ACCEPTED = {
    "kill": "running pending scouting registered finishing paused",
    "finish": "running finishing",
    "retry": "finished failed",
    "pause": "running aborting",
    "resume": "paused throttled staging",
    "release": "defined ready running scouting pending assigning",
    "avalanche": "scouting",
    "reassign": "running scouted exhausted pending",
    "incexec": "done finished failed aborted exhausted",
}


def pairs(table: dict[str, str]) -> list[tuple[str, str]]:
    return [(command, status) for command, statuses in table.items() for status in statuses.split()]


@pytest.mark.parametrize(("command", "status"), pairs(REFUSED))
def test_refuses_what_a_real_server_refused_in_its_words(command: str, status: str) -> None:
    expected = f"Command rejected: the {command} command is not accepted if the task is in {status} status "
    assert refusal(command, status, production=True) == expected


@pytest.mark.parametrize(("command", "status"), pairs(ACCEPTED))
def test_accepts_what_a_real_server_accepted(command: str, status: str) -> None:
    assert refusal(command, status, production=False) is None


def test_only_the_production_role_retries_an_exhausted_task() -> None:
    assert refusal("retry", "exhausted", production=True) is None
    assert refusal("retry", "exhausted", production=False) == (
        "Command rejected: the retry command is not accepted if the task is in exhausted status "
        "and production role is missing"
    )


@given(st.sampled_from(sorted(COMMANDS)), st.sampled_from(STATUSES))
def test_the_production_role_never_loses_by_its_role(command: str, status: str) -> None:
    if refusal(command, status, production=False) is None:
        assert refusal(command, status, production=True) is None


@given(st.sampled_from(STATUSES))
def test_a_task_can_be_killed_or_run_again_or_is_about_to_end(status: str) -> None:
    killable = refusal("kill", status, production=True) is None
    repeatable = refusal("incexec", status, production=True) is None
    assert killable or repeatable or status in {"broken", "prepared", "toabort", "aborting"}
    assert (refusal("retry", status, production=True) is None) == (status in RETRYABLE_STATUSES)
