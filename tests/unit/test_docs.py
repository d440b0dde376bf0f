"""The documentation says what the code says; ``python -m tests.unit.test_docs`` brings it up to date."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from html import escape
from importlib import import_module
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from pkgutil import iter_modules
from typing import get_args

import pytest
from airflow.sdk import BaseSensorOperator

from panda_airflow import client, operators, sensors
from panda_airflow.client import ClientConfig, PandaError
from panda_airflow.client.endpoint import REGISTRY
from panda_airflow.devserver.faults import Kind
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.operators.base import PandaTaskOperator
from panda_airflow.pandaclient import Client, obsolete
from panda_airflow.pandaclient.calls import TABLE
from panda_airflow.steps.base import PandaStep
from tests.contract.test_wire import DIFFERENCES
from tests.support.tokens import jwt

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]


def page(name: str) -> str:
    """Read a page below ``docs``."""
    return (ROOT / "docs" / f"{name}.md").read_text()


TYPED = {
    "call_idds_command": "idds.call",
    "call_idds_user_workflow_command": "idds.command",
    "getFile": "download",
    "putFile": "put_file",
    "requestEventPicking": "file_server.upload_event_picking_request",
    "send_workflow_request": "file_server.upload_workflow_request",
}
"""Methods of the typed client that do the work of a function of the reference, where its row does not say."""

STEPS: dict[str, list[str]] = {
    "call_idds_command": ["PandaIddsCommandOperator", "PandaWaitIddsRequestSensor"],
    "finishTask": ["PandaFinishTaskOperator"],
    "getFile": ["PandaGetFileOperator"],
    "getJobStatus": ["PandaWaitJobStatusSensor"],
    "getTaskStatus": ["PandaWaitTaskStatusSensor"],
    "hello": ["PandaServerSensor"],
    "increase_attempt_nr": ["PandaIncreaseAttemptsOperator"],
    "insertTaskParams": ["PandaSubmitTaskOperator"],
    "killJobs": ["PandaKillJobsOperator"],
    "killTask": ["PandaKillTaskOperator"],
    "pauseTask": ["PandaPauseTaskOperator"],
    "putFile": ["PandaPutFileOperator"],
    "reactivateTask": ["PandaReactivateTaskOperator"],
    "reload_input": ["PandaReloadInputOperator"],
    "resumeTask": ["PandaResumeTaskOperator"],
    "retryTask": ["PandaRetryTaskOperator"],
    "send_file_recovery_request": ["PandaFileRecoveryOperator"],
    "set_user_secret": ["PandaSetSecretOperator"],
    "submitJobs": ["PandaSubmitJobsOperator"],
    "submit_workflow": ["PandaSubmitWorkflowOperator"],
}
"""Steps of a DAG by the function of the reference that they stand for."""


def table(*rows: tuple[str, ...]) -> str:
    """Write a table, its head first."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, f"|{' --- |' * len(rows[0])}", *body])


def code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def settings() -> str:
    """The table of settings, from the metadata of the configuration's fields."""
    rows = [("setting", "environment", "meaning")]
    for item in fields(ClientConfig):
        default = "" if item.default in (None, "") else f" Default: `{item.default}`."
        meaning = f"{escape(item.metadata['help'], quote=False)}{default}"
        rows.append((code(item.name), code(*item.metadata["env"]), meaning))
    return table(*rows)


def first_dag() -> str:
    """The simplest example, without what only tools want to see."""
    text = (ROOT / "dags_examples" / "hello_panda.py").read_text()
    example = text[text.index("from airflow") :].replace(" -> None", "").rstrip()
    return f"```python\n{example}\n```"


def steps() -> list[type[PandaStep]]:
    """Every operator and sensor from which no other is made; those for tasks first."""
    found: list[type[PandaStep]] = []
    for room in (operators, sensors):
        names = sorted((item.name for item in iter_modules(room.__path__)), key=lambda name: (name != "task", name))
        for module in (import_module(f"{room.__name__}.{name}") for name in names):
            classes = (item for item in vars(module).values() if inspect.isclass(item) and issubclass(item, PandaStep))
            found += [item for item in classes if item.__module__ == module.__name__]
    return [step for step in found if not any(step in other.__mro__[1:] for other in found)]


def own_parameters(step: type) -> Iterator[str]:
    """The parameters of a step that are this library's; of an operator, without those that many have."""
    shared = {"panda_conn_id"} if issubclass(step, BaseSensorOperator) else set(named(PandaTaskOperator))
    shared -= set() if issubclass(step, PandaTaskOperator) else {"statuses"}
    return (name for name in named(step) if name not in shared)


def named(step: type) -> list[str]:
    """The parameters that a step and the steps that it is made from name, its own last."""
    found: dict[str, None] = {}
    for cls in reversed(step.__mro__):
        if cls.__module__.startswith("panda_airflow") and "__init__" in vars(cls):
            parameters = list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:]
            found |= dict.fromkeys(item.name for item in parameters if item.kind is not item.VAR_KEYWORD)
    return list(found)


def place(step: type) -> str:
    return code(f"{step.__module__.removeprefix('panda_airflow.')}.{step.__name__}")


def does(step: type) -> str:
    """What a step does, by the first sentence of its description."""
    return (inspect.getdoc(step) or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")


def step_list() -> str:
    """Every step, with a line each."""
    return table(("step", "what it does"), *((place(step), does(step)) for step in steps()))


def step_table() -> str:
    """Every step with its own parameters."""
    head = ("step", "what it does", "its parameters")
    return table(head, *((place(step), does(step), code(*own_parameters(step))) for step in steps()))


def functions() -> list[str]:
    return [name for name in Client.__all__ if inspect.isfunction(getattr(Client, name))]


def typed(function: str) -> str:
    """The method of the typed client that does the work of a function, empty if there is none."""
    row = TABLE.get(getattr(Client, function).__name__)
    return TYPED.get(function) or (row.path.replace("/", ".") if row and row.path in REGISTRY else "")


def reference() -> str:
    """From the functions of the reference to methods and steps."""
    head = ("function of the reference", "method of the client", "step of a DAG")
    rows = [
        (code(name), code(typed(name)), code(*STEPS.get(getattr(Client, name).__name__, [])))
        for name in functions()
        if typed(name)
    ]
    gone = [name for name in functions() if getattr(Client, name).__module__ == obsolete.__name__]
    local = [name for name in functions() if not typed(name) and name not in gone and name not in TABLE]
    unserved = [name for name in TABLE if not typed(name)]
    return "\n".join(
        [
            table(head, *rows),
            f"\nThese ask nothing of a PanDA server: {code(*local)}.\n",
            f"These exist, warn once that they are obsolete, and return their failure: {code(*gone)}.\n",
            f"PanDA servers up to 1.0.4 do not have the method of {code(*unserved)}.",
        ]
    )


def methods() -> str:
    """All methods of the client by module."""
    by_module = groupby((path.split("/") for path in REGISTRY), itemgetter(0))
    rows = [(code(module), code(*(method for _, method in paths))) for module, paths in by_module]
    return table(("module", "methods"), *rows)


def differences() -> str:
    """What the tests know to be different from panda-client, by reason."""
    by_reason: dict[str, list[tuple[str, str]]] = {}
    for key, reason in DIFFERENCES.items():
        function, _, field = key.partition(": ")
        last = next(reversed(by_reason), "")
        by_reason.setdefault(last if reason == "the same" else reason, []).append((function, field))
    rows = [("function", "what is different", "why")]
    for reason, found in by_reason.items():
        names = dict.fromkeys("all" if function == "*" else code(function) for function, _ in found)
        what = dict.fromkeys("everything" if field == "*" else field for _, field in found)
        rows.append((", ".join(names), ", ".join(what), reason))
    return table(*rows)


PARTS: dict[str, Callable[[], str]] = {
    "dag": first_dag,
    "list": step_list,
    "settings": settings,
    "steps": step_table,
    "methods": methods,
    "reference": reference,
    "differences": differences,
}


def fresh(text: str) -> str:
    """Put what is generated between its marks."""
    for mark, part in PARTS.items():
        if f"<!-- {mark} -->\n" in text:
            before, _, rest = text.partition(f"<!-- {mark} -->\n")
            text = f"{before}<!-- {mark} -->\n{part()}\n<!-- /{mark} -->{rest.partition(f'<!-- /{mark} -->')[2]}"
    return text


@pytest.mark.parametrize("mark", PARTS)
def test_generated_parts_are_up_to_date(mark: str) -> None:
    [text] = [text for one in PAGES if f"<!-- {mark} -->\n" in (text := one.read_text())]
    written = text.partition(f"<!-- {mark} -->\n")[2].partition(f"<!-- /{mark} -->")[0]
    assert written == f"{PARTS[mark]()}\n", "python -m tests.unit.test_docs brings it up to date"


def test_every_error_is_in_the_table() -> None:
    exported = [getattr(client, name) for name in client.__all__]
    kinds = [item.__name__ for item in exported if inspect.isclass(item) and issubclass(item, PandaError)]
    assert [name for name in kinds if f"`{name}`" not in page("reference/errors")] == []


def test_every_fault_is_named() -> None:
    assert [kind for kind in get_args(Kind) if f"`{kind}`" not in page("reference/server")] == []


def test_every_path_exists() -> None:
    paths = [found for one in PAGES for found in re.findall(PATH, one.read_text())]
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


PATH = r"`((?:panda_airflow|tests|dags_examples|docs)/[\w./]+)`"


def test_every_link_leads_to_a_page() -> None:
    for one in PAGES:
        links = re.findall(r"\]\(((?!https?:)[^)#]+)", one.read_text())
        assert [link for link in links if not (one.parent / link).exists()] == [], one


def test_every_page_is_in_the_list() -> None:
    index = page("index")
    names = [str(one.relative_to(ROOT / "docs").with_suffix("")) for one in PAGES if ROOT / "docs" in one.parents]
    assert [name for name in names if name != "index" and f"\n{name}\n" not in index] == []


def test_every_message_of_the_troubleshooting_is_one() -> None:
    told = re.findall(r"^\| `([^`]+)` ", page("troubleshooting"), flags=re.MULTILINE)
    said = " ".join(path.read_text() for path in (ROOT / "panda_airflow").rglob("*.py"))
    assert told
    assert [words for words in told if words not in said] == []


def test_the_readme_is_a_door() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


def test_every_room_is_in_the_picture() -> None:
    rooms = [path.parent.name for path in (ROOT / "panda_airflow").glob("*/__init__.py")]
    assert [room for room in rooms if f" {room}/" not in page("explanation/architecture")] == []


def test_what_every_task_operator_takes_is_in_the_table() -> None:
    _, _, rest = page("reference/steps").partition("| parameter | meaning | default |\n")
    written = re.findall(r"^\| `(\w+)` ", rest.partition("\n\n")[0], flags=re.MULTILINE)
    assert sorted(written) == sorted(named(PandaTaskOperator))


def test_what_other_operators_that_wait_take_is_said() -> None:
    said = re.findall(r"`(\w+)`", page("reference/steps").partition("and file recovery take")[2].partition(";")[0])
    others = [step for step in steps() if not issubclass(step, PandaTaskOperator | BaseSensorOperator)]
    taken = set(named(PandaTaskOperator)) - {"cancel_on_kill", "cancel_on_timeout", "statuses"}
    shared = [[name for name in named(step) if name in taken] for step in others]
    assert {frozenset(names) for names in shared} == {frozenset(["panda_conn_id"]), frozenset(["panda_conn_id", *said])}


def test_every_step_stands_for_a_function() -> None:
    assert {*chain(*STEPS.values())} == {step.__name__ for step in steps()}
    assert STEPS.keys() <= set(filter(typed, functions()))


def test_methods_that_do_the_work_of_a_function_exist() -> None:
    with client.PandaClient(ClientConfig(url="http://127.0.0.1:9", auth="oidc", vo="wlcg", token=jwt())) as made:
        for name in filter(None, map(typed, functions())):
            module, _, method = name.rpartition(".")
            assert callable(getattr(getattr(made, module) if module else made, method)), name


def test_the_hook_reaches_every_method_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"conn_type": "panda", "host": "http://127.0.0.1:9", "password": "token", "extra": {"vo": "wlcg"}}
    monkeypatch.setenv("AIRFLOW_CONN_PANDA_DEFAULT", json.dumps(described))
    reached = PandaHook().client
    assert len(REGISTRY) == 96
    for path, endpoint in REGISTRY.items():
        module, method = path.split("/")
        assert inspect.unwrap(getattr(getattr(reached, module), method).__func__) is endpoint.stub


if __name__ == "__main__":
    for one in PAGES:
        one.write_text(fresh(one.read_text()))
