from __future__ import annotations

import json
import re
import string
from dataclasses import asdict, replace
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import Mark, TaskInfo
from panda_airflow.client.status import ABOUT_TO_ABORT, ACTIVE_STATUSES, FINAL_STATUSES
from panda_airflow.client.submission import (
    REQUIRED_TO_REFINE,
    REQUIRED_TO_REGISTER,
    TASK_NAME_LIMIT,
    Action,
    SubmissionRecord,
    check_submission,
    generation_of,
    name_filter,
    next_action,
    surviving_twin,
    task_name,
)

DONE = ("done",)
CHANGED = datetime(2026, 1, 1)  # noqa: DTZ001 - naive UTC, as the server has it
INTENT = SubmissionRecord("name", 0, 0.0, 0)
KNOWN = SubmissionRecord("name", 0, 0.0, 0, task_id=42)
REACTIVATED = SubmissionRecord("name", 0, 0.0, 0, mark=Mark(1, CHANGED.isoformat()), task_id=42)


def task(status: str, attempt_nr: int = 0) -> TaskInfo:
    return TaskInfo(42, status=status, attempt_nr=attempt_nr, state_change_time=CHANGED)


@pytest.mark.parametrize(
    ("record", "info", "accept", "action"),
    [
        (None, None, DONE, Action.SUBMIT),
        (INTENT, None, DONE, Action.FIND),
        (KNOWN, None, DONE, Action.FOLLOW),
        *((KNOWN, task(status), DONE, Action.FOLLOW) for status in sorted(ACTIVE_STATUSES - ABOUT_TO_ABORT)),
        *((KNOWN, task(status), DONE, Action.REPLACE) for status in sorted(ABOUT_TO_ABORT)),
        (replace(KNOWN, task_id=None, sent=False), None, DONE, Action.SUBMIT),
        (KNOWN, task("sublimating"), DONE, Action.FOLLOW),
        (KNOWN, task("done"), DONE, Action.FOLLOW),
        (KNOWN, task("finished"), ("done", "finished"), Action.FOLLOW),
        (KNOWN, task("finished"), DONE, Action.RETRY),
        (KNOWN, task("failed"), DONE, Action.RETRY),
        (KNOWN, task("exhausted"), DONE, Action.RETRY),
        (KNOWN, task("broken"), DONE, Action.REPLACE),
        (KNOWN, task("aborted"), DONE, Action.REPLACE),
        (KNOWN, task("done"), ("finished",), Action.REPLACE),
        *((REACTIVATED, task(status, 1), DONE, Action.FOLLOW) for status in sorted(FINAL_STATUSES)),
        (REACTIVATED, task("failed", 2), DONE, Action.RETRY),
    ],
)
def test_what_a_step_does_about_its_task(
    record: SubmissionRecord | None, info: TaskInfo | None, accept: tuple[str, ...], action: Action
) -> None:
    assert next_action(record, info, accept, overdue=False) is action


def test_a_reactivation_that_jedi_dropped_is_asked_for_again() -> None:
    """The old status stays for ever; to believe it would be wrong, to wait on would be useless."""
    assert next_action(REACTIVATED, task("done", 1), DONE, overdue=True) is Action.FIND
    assert next_action(REACTIVATED, task("done", 2), DONE, overdue=True) is Action.FOLLOW


@given(st.text(min_size=1, max_size=TASK_NAME_LIMIT))
def test_the_server_finds_a_task_by_its_name_and_no_other(name: str) -> None:
    """The server takes a value with one of these characters for a regular expression, any other literally."""
    value = json.loads(name_filter(name))["taskName"]
    if set(value) & set("+()|*?^$\\"):
        assert re.search(value, name)
        assert not re.search(value, name[1:])
    else:
        assert value == name


@given(st.builds(Mark, st.integers(), st.text()) | st.none(), st.integers() | st.none())
def test_a_record_survives_the_task_state_store(mark: Mark | None, task_id: int | None) -> None:
    record = SubmissionRecord("name", 2, 1.5, 3, mark, task_id)
    assert SubmissionRecord.from_json(json.loads(json.dumps(asdict(record)))) == record


steps = st.tuples(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300), st.integers(-1, 2000))


@given(steps, steps, st.integers(0, 99), st.integers(0, 99))
def test_names_differ_where_steps_or_generations_do_and_only_there(
    one: tuple[str, str, str, int], other: tuple[str, str, str, int], generation: int, later: int
) -> None:
    same = (one, generation) == (other, later)
    assert (task_name(*one, generation) == task_name(*other, later)) is same


@given(steps, st.integers(0, 10**6))
def test_a_name_fits_the_database_and_is_no_regular_expression(
    step: tuple[str, str, str, int], generation: int
) -> None:
    name = task_name(*step, generation)
    assert len(name) <= TASK_NAME_LIMIT
    assert set(name) <= {*string.ascii_letters, *string.digits, *"_.-"}


def test_a_name_is_the_same_in_every_process_and_tells_people_whose_it_is() -> None:
    """Written out, since a name that changes with a release would submit twice."""
    name = task_name("higgs", "manual__2026-01-01T00:00:00+00:00", "fit the mass", -1)
    assert name == "airflow.higgs.fit_the_mass.d933bf3019048b98"
    assert generation_of(name, 0) == name
    assert generation_of(name, 2) == f"{name}.g2"


def test_a_task_aborted_as_a_duplicate_names_its_twin() -> None:
    said = "toabort since there is duplicated task -&gt; jediTaskID=15"
    assert surviving_twin(said) == 15
    assert surviving_twin("killed, see jediTaskID=15") is None
    assert surviving_twin("") is None


COMPLETE = {
    "taskName": "user.alice.fit",
    "vo": "wlcg",
    "prodSourceLabel": "user",
    "processingType": "panda-airflow",
    "taskType": "anal",
    "architecture": "",
    "transUses": "",
    "transHome": None,
}


@given(st.sets(st.sampled_from(sorted(COMPLETE))))
def test_every_missing_parameter_is_named_before_anything_is_sent(missing: set[str]) -> None:
    given_parameters = {name: value for name, value in COMPLETE.items() if name not in missing}
    if not missing:
        check_submission({"task_parameters": given_parameters})
        return
    with pytest.raises(UsageError, match="nothing was submitted") as raised:
        check_submission({"task_parameters": given_parameters})
    assert [name for name in COMPLETE if name in str(raised.value)] == [name for name in COMPLETE if name in missing]


def test_what_is_required_is_what_the_example_holds() -> None:
    assert {*REQUIRED_TO_REGISTER, *REQUIRED_TO_REFINE} == COMPLETE.keys()


@pytest.mark.parametrize("name", ["x" * (TASK_NAME_LIMIT + 1), 42])
def test_a_name_that_the_database_cannot_hold_is_refused(name: object) -> None:
    with pytest.raises(UsageError, match=str(len(str(name)))):
        check_submission({"task_parameters": COMPLETE | {"taskName": name}})


def test_parameters_that_are_no_dict_are_refused() -> None:
    with pytest.raises(UsageError, match="must be a dict, not str"):
        check_submission({"task_parameters": json.dumps(COMPLETE)})
