"""What the embedded server makes of arguments before a method acts."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.endpoint import Endpoint
from panda_airflow.devserver.backend import Identity
from panda_airflow.devserver.http.validation import Invalid, validate

BOB = Identity("Bob Tester/CN=nickname:bob", "Bob Tester")
ALICE = Identity("Alice Tester/CN=nickname:alice", "Alice Tester", production=True)


def stub(
    self: Any,
    task_id: int,
    flag: bool = False,
    name: str | None = None,
    numbers: list[int] | None = None,
    factors: list[float] | None = None,
    options: dict[str, Any] | str | None = None,
) -> None: ...


READ = Endpoint("GET", "task/read", stub, idempotent=True)
ACT = Endpoint("POST", "task/act", stub, idempotent=True)
OWNED = Endpoint("POST", "task/owned", stub, idempotent=True, owner=True)
PRODUCTION = Endpoint("POST", "task/production", stub, idempotent=True, production=True)


def check(endpoint: Endpoint, caller: Identity | None = BOB, owner: str | None = None, **arguments: Any) -> Any:
    return validate(endpoint, caller, endpoint.method, arguments, lambda _task_id: owner)


def refusal(endpoint: Endpoint, caller: Identity | None = BOB, owner: str | None = None, **arguments: Any) -> str:
    with pytest.raises(Invalid) as refused:
        check(endpoint, caller, owner, **arguments)
    return str(refused.value)


@given(st.integers(-(2**50), 2**50), st.booleans(), st.lists(st.integers(-(2**50), 2**50), min_size=2), st.text())
def test_a_query_is_cast_to_the_declared_types(task_id: int, flag: bool, numbers: list[int], name: str) -> None:
    text: dict[str, Any] = {"task_id": str(task_id), "flag": str(flag), "numbers": [str(number) for number in numbers]}
    cast = check(READ, **text, name=f"<{name}>")
    assert cast == {"task_id": task_id, "flag": flag, "numbers": numbers, "name": f"<{name}>"}


@given(st.one_of(st.text(), st.floats(), st.lists(st.integers()), st.dictionaries(st.text(), st.text()), st.none()))
def test_json_is_not_cast(value: object) -> None:
    assert refusal(ACT, task_id=value) == f"Type error: 'task_id' must be of type int, got {type(value).__name__}."


@pytest.mark.parametrize(
    ("text", "value"), [({"task_id": "2.0"}, 2), ({"flag": "1"}, True), ({"flag": "yes"}, False),
                        ({"name": "None"}, None),
                        ({"numbers": "7"}, [7]), ({"factors": ["1", "2.5"]}, [1.0, 2.5])]
)  # fmt: skip
def test_habits_of_the_cast(text: dict[str, Any], value: object) -> None:
    assert check(READ, **({"task_id": "1"} | text))[next(iter(text))] == value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Argument error: missing a required argument: 'task_id'"),
        ({"task_id": 1, "bogus": 2}, "Argument error: got an unexpected keyword argument 'bogus'"),
        ({"task_id": 1, "numbers": ["1"]}, "Type error: All elements in 'numbers' must be int."),
        ({"task_id": 1, "numbers": 1}, "Type error: 'numbers' must be of type list, got int."),
        ({"task_id": 1, "name": 1}, "Type error: 'name' must be of type str, got int."),
        ({"task_id": 1, "options": 1}, "Type error: 'options' must be of type Union, got int."),
    ],
)
def test_refused_arguments(arguments: dict[str, Any], message: str) -> None:
    assert refusal(ACT, **arguments) == message


def test_a_query_that_cannot_be_cast() -> None:
    message = "Type error: 'task_id' with value 'abc' could not be casted to type int from str."
    assert refusal(READ, task_id="abc") == message


@pytest.mark.parametrize("options", [{"nJobs": 2}, "text", None])
def test_either_of_two_types(options: object) -> None:
    assert check(ACT, task_id=1, options=options)["options"] == options


def test_identity_comes_first_then_role_then_method_then_arguments() -> None:
    assert refusal(PRODUCTION, None) == "SSL secure connection is required"
    assert refusal(PRODUCTION, BOB) == "production or pilot role required"
    with pytest.raises(Invalid, match=r"^expecting POST, received GET$"):
        validate(PRODUCTION, ALICE, "GET", {}, lambda _task_id: None)
    assert refusal(PRODUCTION, ALICE).startswith("Argument error")


def test_a_limited_proxy_is_nobody() -> None:
    limited = Identity("/O=panda-airflow/CN=Bob Tester/CN=limited proxy", "Bob Tester")
    assert refusal(ACT, limited, task_id=1) == "SSL secure connection is required"


@pytest.mark.parametrize("owner", [None, "Carol Tester"])
def test_only_the_owner_or_a_production_user_commands_a_task(owner: str | None) -> None:
    assert refusal(OWNED, BOB, owner, task_id=1) == "not the task owner or no production role"
    assert check(OWNED, ALICE, owner, task_id=1) == {"task_id": 1}
    assert check(OWNED, BOB, "Bob Tester", task_id=1) == {"task_id": 1}


def test_without_its_extra_the_embedded_server_says_what_it_needs() -> None:
    program = "import sys; sys.modules['uvicorn'] = None; import panda_airflow.devserver.server"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "The embedded PanDA server needs uvicorn: pip install 'panda-airflow[devserver]'." in done.stderr
