from __future__ import annotations

import json
import re
import string
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.errors import UsageError
from panda_airflow.client.models import Mark
from panda_airflow.client.stored import Account
from panda_airflow.client.task_parameters import (
    REQUIRED_TO_REFINE,
    REQUIRED_TO_REGISTER,
    TASK_NAME_LIMIT,
    check_submission,
)
from panda_airflow.steps.record import (
    SubmissionRecord,
    generation_of,
    name_filter,
    refuse_leftovers,
    surviving_twins,
    task_name,
)


@given(st.text(min_size=1, max_size=TASK_NAME_LIMIT))
def test_the_server_finds_a_task_by_its_name_and_no_other(name: str) -> None:
    """The server takes a value with one of these characters for a regular expression, any other literally."""
    value = json.loads(name_filter(name))["taskName"]
    if set(value) & set("+()|*?^$\\"):
        assert re.search(value, name)
        assert not re.search(value, name[1:])
    else:
        assert value == name


marks = st.builds(Mark, st.integers(), st.text(), st.text())
accounts = st.builds(Account, st.text(), st.text())


@given(marks | st.none(), st.integers() | st.none(), accounts)
def test_a_record_survives_the_task_state_store(mark: Mark | None, task_id: int | None, account: Account) -> None:
    record = SubmissionRecord("name", 2, 1.5, 3, mark, task_id, key="a key", account=account)
    assert SubmissionRecord.from_json(json.loads(json.dumps(asdict(record)))) == record


def test_a_record_of_another_version_is_understood() -> None:
    """Upgrade: what was not recorded is unknown; downgrade: what is new is left out."""
    record = SubmissionRecord("name", 2, 1.5, 3, Mark(1, "then", "done"), 42, key="a key", account=Account("s", "u"))
    stored = json.loads(json.dumps(asdict(record)))
    later = stored | {"new": 1, "mark": stored["mark"] | {"new": 1}, "account": stored["account"] | {"new": 1}}
    assert SubmissionRecord.from_json(later) == record
    earlier = {"name": "name", "task_id": 42, "mark": {"attempt_nr": 1, "changed": "then"}, "first_attempt": 1}
    assert SubmissionRecord.from_json(earlier) == SubmissionRecord("name", mark=Mark(1, "then"), task_id=42)
    assert SubmissionRecord.from_json({}) == SubmissionRecord()


steps = st.tuples(st.text(max_size=300), st.text(max_size=300), st.text(max_size=300), st.integers(-1, 2000))


keys = st.text("0123456789abcdef", min_size=32, max_size=32)


@given(steps, steps, keys, keys)
def test_names_differ_where_steps_or_keys_do_and_only_there(
    one: tuple[str, str, str, int], other: tuple[str, str, str, int], key: str, later: str
) -> None:
    same = (one, key) == (other, later)
    assert (task_name(*one, key) == task_name(*other, later)) is same


@given(steps, keys)
def test_a_name_fits_the_database_and_is_no_regular_expression(step: tuple[str, str, str, int], key: str) -> None:
    name = task_name(*step, key)
    assert len(name) <= TASK_NAME_LIMIT
    assert set(name) <= {*string.ascii_letters, *string.digits, *"_.-"}


@given(st.text(min_size=1, max_size=TASK_NAME_LIMIT).filter(str.strip), st.integers(1, 10**6), st.integers(1, 10**6))
def test_a_later_generation_of_any_name_fits_and_is_another_one(name: str, generation: int, later: int) -> None:
    made = generation_of(name, generation)
    assert len(made) <= TASK_NAME_LIMIT
    assert made != generation_of(name, 0) == name.strip()
    assert (made == generation_of(name, later)) is (generation == later)


@pytest.mark.parametrize("length", range(TASK_NAME_LIMIT - 8, TASK_NAME_LIMIT + 1))
def test_a_name_is_shortened_only_where_it_has_to_be(length: int) -> None:
    name = "x" * length
    made = generation_of(name, 1)
    assert len(made) <= TASK_NAME_LIMIT
    assert (made == f"{name}.g1") is (length + 3 <= TASK_NAME_LIMIT)
    assert generation_of(name, 0) == name


def test_a_record_names_its_task() -> None:
    assert str(SubmissionRecord("user.bob.fit", task_id=42)) == "PanDA task 42"
    assert str(SubmissionRecord("user.bob.fit")) == "PanDA task user.bob.fit"


def test_what_is_too_long_is_left_as_it_is_to_be_refused() -> None:
    assert generation_of("x" * 999, 0) == "x" * 999
    assert generation_of(" ", 1) == ""


def test_the_longest_words_of_a_step_fit() -> None:
    assert len(task_name("d" * 250, "r" * 250, "t" * 250, 1000, "k" * 32)) <= TASK_NAME_LIMIT


def test_long_names_that_differ_at_their_end_only_do_so_when_they_are_shortened() -> None:
    long = "x" * (TASK_NAME_LIMIT - 1)
    assert generation_of(f"{long}1", 1) != generation_of(f"{long}2", 1)


def test_blanks_around_a_name_are_no_part_of_it() -> None:
    assert generation_of(" user.bob.fit\n", 0) == "user.bob.fit"
    assert generation_of(" user.bob.fit\n", 2) == "user.bob.fit.g2"


DUPLICATE = "toabort since there is duplicated task -> jediTaskID=15"


def test_a_task_aborted_as_a_duplicate_names_its_twin() -> None:
    assert surviving_twins("aborted", DUPLICATE) == [15]
    assert surviving_twins("aborted", "toabort since there is duplicated task -&gt; jediTaskID=15,16") == [15, 16]
    assert surviving_twins("toabort", DUPLICATE) == [15]


@pytest.mark.parametrize(
    ("status", "dialog"),
    [
        ("failed", DUPLICATE),
        ("running", DUPLICATE),
        ("aborted", f"the user wrote: {DUPLICATE}"),
        ("aborted", f"{DUPLICATE} and so on"),
        ("aborted", "there is a duplicated task, see jediTaskID=15"),
        ("aborted", "killed, see jediTaskID=15"),
        ("aborted", ""),
    ],
)
def test_nothing_else_names_a_twin(status: str, dialog: str) -> None:
    assert surviving_twins(status, dialog) == []


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"taskName": "user.{{ ds }}"}, r"task_parameters\['taskName'\]"),
        ({"jobParameters": [{"value": "a"}, {"value": "{% if x %}"}]}, r"\['jobParameters'\]\[1\]\['value'\]"),
        ({"{{ key }}": 1}, "a key of task_parameters"),
    ],
)
def test_a_template_that_nobody_has_rendered_is_refused_by_its_place(parameters: dict[str, Any], place: str) -> None:
    with pytest.raises(UsageError, match=place):
        refuse_leftovers(parameters)


def test_braces_that_are_no_template_are_left_alone() -> None:
    refuse_leftovers({"value": "awk '{print $1}' ${SURL} %RNDM:1", "log": {"a": [None, 1, True]}})


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
