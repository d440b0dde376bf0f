from __future__ import annotations

import json
import re
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client.errors import UsageError
from panda_airflow.client.task_parameters import check_submission, command_task
from panda_airflow.devserver.pilot.payload import Payload, read_payload


def command_line(parameters: dict[str, Any], number: int) -> str:
    """Join the arguments as JEDI does for the job of a number, a blank after each unless ``padding`` forbids it."""
    words = []
    for argument in parameters["jobParameters"]:
        if not argument.get("hidden"):
            value = argument["value"].replace("${SEQNUMBER}", str(argument.get("offset", 0) + number))
            words.append(value if argument.get("padding") is False else f"{value} ")
    return "".join(words)


def payload(parameters: dict[str, Any], number: int = 0) -> Payload:
    return read_payload(command_line(parameters, number))


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_the_job_runs_the_command_that_was_given_to_the_letter(command: str) -> None:
    if not re.search("%RNDM|%IN|^-|{{", command):
        assert payload(command_task("user.alice.fit", command, vo="wlcg")).command == command


def test_each_job_has_its_number() -> None:
    parameters = command_task("user.alice.fit", "fit --seed=%RNDM:1 --skip %RNDM:100; echo 100%", vo="wlcg", jobs=2)
    assert payload(parameters, 0).command == "fit --seed=1 --skip 100; echo 100%"
    assert payload(parameters, 1).command == "fit --seed=2 --skip 101; echo 100%"


def test_an_expression_in_the_command_is_rendered_before_the_job_reads_it() -> None:
    parameters = command_task("user.alice.fit", "fit --day '{{ ds }}' %RNDM:0 > {{ params['out'] }}", vo="wlcg")
    for argument in parameters["jobParameters"]:
        template = jinja2.Environment(autoescape=False).from_string(argument["value"])  # noqa: S701 - no HTML
        argument["value"] = template.render(ds='1 & 2 "%', params={"out": "a b"})
    assert payload(parameters, 1).command == "fit --day '1 & 2 \"%' 1 > a b"


def test_sandbox_and_outputs_reach_the_job() -> None:
    parameters = command_task(
        "user.alice.fit", "fit", vo="wlcg", outputs=["mass.txt", "plot.png"], sandbox="sources.1.tar.gz"
    )
    job = payload(parameters)
    assert job.sandbox == "sources.1.tar.gz"
    assert job.outputs == {name: f"user.alice.fit.$JEDITASKID._${{SN/P}}.{name}" for name in ("mass.txt", "plot.png")}
    datasets = [item["dataset"] for item in parameters["jobParameters"] if item.get("param_type") == "output"]
    assert datasets == ["user.alice.fit_mass.txt/", "user.alice.fit_plot.png/"]


@given(
    st.integers(1, 1000), st.integers(1, 10), st.lists(st.from_regex(r"[a-z]{1,9}\.txt", fullmatch=True), unique=True)
)
def test_the_server_accepts_what_is_built(jobs: int, attempts: int, outputs: list[str]) -> None:
    parameters = command_task("user.alice.fit", "fit", vo="wlcg", jobs=jobs, max_attempt=attempts, outputs=outputs)
    check_submission({"task_parameters": parameters})
    assert json.loads(json.dumps(parameters)) == parameters
    assert (parameters["nEvents"], parameters["nEventsPerJob"], parameters["maxAttempt"]) == (jobs, 1, attempts)


def test_further_parameters_win() -> None:
    parameters = command_task("user.alice.fit", "fit", vo="wlcg", ramCount=4000, skipScout=False)
    assert (parameters["ramCount"], parameters["skipScout"]) == (4000, False)


@pytest.mark.parametrize("name", ["it's.txt", 'say"hi".txt', "a b.txt", "results/mass.txt", ""])
def test_an_output_name_that_would_break_the_command_line_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape(repr(name))):
        command_task("user.alice.fit", "fit", vo="wlcg", outputs=["mass.txt", name])
