from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import BundleDagBag
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.sdk import DAG, task
from airflow.utils.session import create_session
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select

from panda_airflow.client import UsageError
from panda_airflow.operators.task import PandaSubmitTaskOperator
from panda_airflow.steps.definition import read_parameters
from tests.airflow.conftest import Panda, Run, unnamed
from tests.airflow.conftest import task as parameters_of

Play = Callable[[DAG], Run]


WRITTEN = unnamed(parameters_of("echo {{ params.word }} > mass.json", outputs=["mass.json"]))
"""What an author writes: a template, with text in it that ends as the name of a file does."""


def written_for(word: str) -> dict[str, Any]:
    return unnamed(parameters_of(f"echo {word} > mass.json", outputs=["mass.json"]))


def submitted(panda: Panda) -> list[dict[str, Any]]:
    """What the server was sent, without the names, which the step has made."""
    sent = [panda.client.task.get_task_parameters(task_id) for task_id in panda.submitted()]
    return [{name: value for name, value in one.items() if name in WRITTEN} for one in sent]


def joined(parameters: dict[str, Any]) -> str:
    """The command line of a job: how a command is split at its templates does not matter."""
    return "".join(item["value"] for item in parameters["jobParameters"])


def dump(parameters: dict[str, Any], file: str) -> str:
    return json.dumps(parameters) if file.endswith(".json") else yaml.safe_dump(parameters)


def rendered(dag_id: str) -> dict[str, Any]:
    """What Airflow shows as the rendered templates of the only step of a DAG."""
    with create_session() as session:
        found = session.scalars(
            select(RenderedTaskInstanceFields).where(RenderedTaskInstanceFields.dag_id == dag_id)
        ).one()
        return dict(found.rendered_fields)


@pytest.mark.parametrize("native", [False, True], ids=["text", "native"])
@pytest.mark.parametrize("file", ["fit.json", "fit.yml"])
def test_a_step_submits_what_a_file_says_and_shows_it_rendered(
    panda: Panda, play: Play, tmp_path: Path, file: str, native: bool
) -> None:
    (tmp_path / file).write_text(dump(WRITTEN | {"campaign": "\N{SNOWMAN}\N{DOG FACE}"}, file))
    name = f"{file}_{native}"
    with DAG(
        name, template_searchpath=str(tmp_path), params={"word": "125"}, render_template_as_native_obj=native
    ) as dag:
        PandaSubmitTaskOperator(task_id="fit", task_parameters=file, poll_interval=0.2)
    run = play(dag)
    [sent] = submitted(panda)
    assert run.states == {"fit": "success"}
    assert joined(sent) == joined(written_for("125"))
    assert sent.items() >= {name: value for name, value in WRITTEN.items() if name != "jobParameters"}.items()
    shown = rendered(name)["task_parameters"]
    assert shown["campaign"] == "\N{SNOWMAN}\N{DOG FACE}"
    assert joined(shown) == joined(written_for("125"))


def test_the_name_of_a_file_may_be_a_template_and_come_from_a_mapping(panda: Panda, play: Play, tmp_path: Path) -> None:
    for word, file in (("higgs", "higgs.json"), ("top", "top.yaml")):
        (tmp_path / file).write_text(dump(written_for(word), file))
    with DAG("names", template_searchpath=str(tmp_path), params={"channel": "higgs"}) as dag:
        one = PandaSubmitTaskOperator(task_id="one", task_parameters="{{ params.channel }}.json", poll_interval=0.2)
        many = PandaSubmitTaskOperator.partial(task_id="many", poll_interval=0.2).expand(
            task_parameters=["higgs.json", "top.yaml"]
        )
        one >> many
    play(dag)
    assert sorted(joined(sent) for sent in submitted(panda)) == sorted(
        joined(written_for(word)) for word in ("higgs", "higgs", "top")
    )


def test_another_step_may_hand_over_the_parameters(panda: Panda, play: Play) -> None:
    with DAG("handed") as dag:

        @task
        def make(form: str) -> Any:
            parameters = written_for("125")
            return parameters if form == "dict" else dump(parameters, form)

        for form in (".json", ".yaml", "dict"):
            PandaSubmitTaskOperator(
                task_id=f"fit{form}", task_parameters=make.override(task_id=f"make{form}")(form), poll_interval=0.2
            )
        PandaSubmitTaskOperator(
            task_id="fit_template",
            task_parameters="{{ ti.xcom_pull('makedict') | tojson }}",
            poll_interval=0.2,
        ).set_upstream(dag.get_task("makedict"))
    run = play(dag)
    assert set(run.states.values()) == {"success"}
    assert [joined(sent) for sent in submitted(panda)] == [joined(written_for("125"))] * 4


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("fit.json", None, "TemplateNotFound: 'fit.json' not found"),
        ("fit.json", '{\n"vo": "wlcg",\n}', "UsageError: fit.json cannot be read .* line 3"),
        ("fit.yaml", "vo: wlcg\nsite: [", "UsageError: fit.yaml cannot be read .* line 2"),
        ("fit.yaml", "- vo", "UsageError: fit.yaml cannot be read .* a mapping is expected, not list"),
        ("fit.yaml", "vo: wlcg\nsite: {{ params.site }", "UsageError: fit.yaml is no template, line 2"),
    ],
)
def test_a_bad_file_is_known_when_airflow_reads_the_dag(
    tmp_path: Path, file: str, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / file).write_text(content)
    (tmp_path / "dag.py").write_text(
        "from airflow.sdk import DAG\n"
        "from panda_airflow.operators.task import PandaSubmitTaskOperator\n"
        f"with DAG('bad'):\n    PandaSubmitTaskOperator(task_id='fit', task_parameters={file!r})\n"
    )
    bag = BundleDagBag(dag_folder=tmp_path, bundle_path=tmp_path, bundle_name="dags-folder")
    [error] = bag.import_errors.values()
    assert re.search(said, error)


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
MERGED = "a0: &a0 {k: v}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{'vo': None}", "line 1.*tojson"),
        ('{"vo": NaN}', "NaN has no JSON form"),
        ("since: 2026-11-24", r"2026-11-24 in since, a date, has no JSON form"),
        ("jobParameters:\n- {value: .inf}", r"inf in jobParameters\[0\].value has no JSON form"),
        ("log: {1: a}", "the key 1 in log must be quoted"),
        ("on: a", "the key True in the mapping must be quoted"),
        ("since: 2026-13-41", "month must be in"),
        ("vo: !!python/name:os.system", "could not determine a constructor"),
        ("", "not NoneType"),
        ('{"vo": "a", "log": {"x": 1, "x": 2}}', "the key 'x' is there twice"),
        ("vo: a\nsite: b\nvo: c", "the key 'vo' is there twice"),
        ("vo: a\n'vo': c", "the key 'vo' is there twice"),
        ('{"vo": "\\ud800"}', "the text in vo holds a NUL, or half of a surrogate pair"),
        ('{"log": {"a\\u0000": 1}}', "the text in a key of log holds a NUL"),
        ('{"a": ' + "[" * 101 + "]" * 101 + "}", "nested more than 100 levels deep"),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
        ("a: " + "[" * 101 + "]" * 101, "nested more than 100 levels deep"),
        ("a: &a [*a]", "nested more than 100 levels deep"),
        (BOMB, "more than 1000000 values, aliases counted each time"),
        (MERGED, "more than 1000000 values, aliases counted each time"),
        ("a: " + "x" * 1_000_000, "1000003 characters, and 1000000 are read at most"),
        ("a: !!int ''", "cannot be read as task parameters"),
        ("a: !!bool maybe", "cannot be read as task parameters"),
        ("a: !!timestamp x", "cannot be read as task parameters"),
    ],
)
def test_text_that_is_no_task_parameters_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_parameters(text)


def test_anchors_and_merged_keys_are_read() -> None:
    text = "base: &base {site: CERN, vo: atlas}\none:\n  <<: *base\n  vo: wlcg\ntwo: *base\n"
    read = read_parameters(text, "fit.yaml")
    assert (read["one"], read["two"]) == ({"site": "CERN", "vo": "wlcg"}, {"site": "CERN", "vo": "atlas"})


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda values: st.lists(values) | st.dictionaries(texts, values),
    max_leaves=8,
)


@given(st.dictionaries(texts, json_values))
def test_json_and_yaml_say_the_same(parameters: dict[str, Any]) -> None:
    assert read_parameters(json.dumps(parameters)) == parameters
    assert read_parameters(yaml.safe_dump(parameters), "fit.yaml") == parameters
