"""Command lines of jobs: what prun and its likes write is what the payload gets."""

from __future__ import annotations

import shlex
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.devserver.jedi.generator import Filling, fill_in, output_names
from panda_airflow.devserver.jedi.refiner import execution_parameters
from panda_airflow.devserver.pilot.payload import BadParameters, read_payload

TEMPLATE = "user.bob.$JEDITASKID._${SN/P}.out.txt"


def filling(serial: int = 3, position: int = 7, inputs: list[str] | None = None) -> Filling:
    outputs = {TEMPLATE: output_names(TEMPLATE, 42, serial)}
    return Filling(42, serial, position, 2, inputs or [], outputs, {"SEQNUMBER": 8, "SURL": "http://localhost"})


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_a_url_quoted_command_arrives_unchanged(command: str) -> None:
    if "%IN" not in command:
        assert read_payload(f'-j "" -p "{quote(command)}"').command == command


@given(st.lists(st.from_regex(r"[a-z][a-z0-9._]{0,20}", fullmatch=True), min_size=1, max_size=5))
def test_inputs_arrive_as_a_list_and_in_the_command(names: list[str]) -> None:
    template = f'-i "${{IN/T}}" -p "{quote("cat %IN")}"'
    payload = read_payload(fill_in(template, filling(inputs=names)))
    assert payload.inputs == tuple(names)
    assert payload.command == f"cat {','.join(names)}"


def test_reads_what_prun_writes() -> None:
    items = [
        {"type": "constant", "value": '-j "" --sourceURL ${SURL}'},
        {"type": "constant", "value": "-r ./run"},
        {"type": "constant", "value": "__delimiter__", "hidden": True},
        {"type": "constant", "value": "-a sources.0123.tar.gz"},
        {"type": "template", "param_type": "output", "value": TEMPLATE, "dataset": "user.bob_out/", "hidden": True},
        {"type": "constant", "value": f"-o \"{{'out.txt': '{TEMPLATE}'}}\""},
        {"type": "constant", "value": '-p "', "padding": False},
        {"type": "constant", "value": quote("./go.sh "), "padding": False},
        {"type": "template", "param_type": "pseudo_input", "dataset": "seq_number", "value": "${SEQNUMBER}"},
        {"type": "constant", "value": '"'},
    ]
    payload = read_payload(fill_in(execution_parameters({"jobParameters": items}), filling()))
    assert payload.command.strip() == "./go.sh 8"
    assert payload.run_directory == "./run"
    assert payload.sandbox == "sources.0123.tar.gz"
    assert payload.outputs == {"out.txt": "user.bob.42._000003.out.txt"}


@pytest.mark.parametrize("written", ["%RNDM:100", "%RNDM=100", quote("%RNDM:100"), "%25RNDM=100"])
def test_random_seeds_count_inputs_not_attempts(written: str) -> None:
    assert fill_in(f'-p "go%20{written}"', filling(serial=3, position=7)) == '-p "go%20107"'
    assert fill_in(f'-p "go%20{written}"', filling(serial=9, position=7)) == '-p "go%20107"'


@given(st.integers(1, 999_999), st.integers(1, 999_999))
def test_file_names_differ_between_jobs(one: int, other: int) -> None:
    assert (output_names(TEMPLATE, 42, one) == output_names(TEMPLATE, 42, other)) == (one == other)


@pytest.mark.parametrize("parameters", ["", '-j ""', '-p "x" -i "[oops"', '-p "x" -o "[1]"', '-p "unclosed'])
def test_unreadable_parameters_are_an_error_of_the_job(parameters: str) -> None:
    with pytest.raises(BadParameters):
        read_payload(parameters)


@given(st.lists(st.from_regex(r"[A-Za-z0-9=/.]{1,8}", fullmatch=True), max_size=4))
def test_options_of_experiment_software_are_ignored(words: list[str]) -> None:
    assert read_payload(f'--useCMake {shlex.join(words)} -p "true"').command == "true"
