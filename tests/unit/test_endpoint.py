"""What a typed stub promises: it sends what was given, and returns what its annotation says."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from panda_airflow.client.api import TaskApi
from panda_airflow.client.endpoint import REGISTRY, ApiModule, Arguments, Endpoint
from panda_airflow.client.errors import ServerError, UsageError
from panda_airflow.client.models import Envelope, JobInfo, Json, parse

ENDPOINTS = st.sampled_from([spec for spec in REGISTRY.values() if not spec.check])
VALUES = {
    int: st.integers(0, 10**12),
    str: st.text(max_size=20),
    bool: st.booleans(),
    Path: st.just(Path("sources.tar.gz")),
    list[int]: st.lists(st.integers(0, 10**12), max_size=3),
    list[str]: st.lists(st.text(max_size=5), max_size=3),
}


@dataclass
class Recording:
    """A sender that keeps what it is given and answers an empty envelope."""

    calls: list[tuple[Endpoint, dict[str, Any]]] = field(default_factory=list)

    def send(self, endpoint: Endpoint, arguments: Arguments) -> Envelope:
        self.calls.append((endpoint, dict(arguments)))
        return Envelope(success=True)


def call(spec: Endpoint, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Call a stub on its module and return the arguments that were sent."""
    sender = Recording()
    module, method = spec.path.split("/")
    owner = next(kind for kind in ApiModule.__subclasses__() if kind.__module__.endswith(f".{module}"))
    with suppress(ServerError):  # an empty envelope is not what every method returns
        getattr(owner(sender), method)(*args, **kwargs)
    ((called, sent),) = sender.calls
    assert called is spec
    return sent


@st.composite
def calls(draw: st.DrawFn) -> tuple[Endpoint, dict[str, Any]]:
    """An endpoint with arguments: all that it needs and some of the others."""
    spec = draw(ENDPOINTS)
    names = [
        name for name, item in spec.signature.parameters.items() if item.default is item.empty or draw(st.booleans())
    ]
    return spec, {name: draw(VALUES.get(spec.types[name], st.none() | st.text())) for name in names}


@given(calls())
def test_what_is_given_is_sent_and_nothing_else(case: tuple[Endpoint, dict[str, Any]]) -> None:
    spec, arguments = case
    assert call(spec, **arguments) == arguments


@given(calls())
def test_by_position_is_by_keyword(case: tuple[Endpoint, dict[str, Any]]) -> None:
    spec, arguments = case
    leading = list(spec.signature.parameters)[: len(arguments)]
    assume(leading == list(arguments))
    assert call(spec, *arguments.values()) == call(spec, **arguments)


def test_none_is_a_value_when_it_is_given() -> None:
    assert call(REGISTRY["task/reassign"], 42, site=None) == {"task_id": 42, "site": None}
    assert call(REGISTRY["task/reassign"], 42) == {"task_id": 42}


@given(calls(), st.text(min_size=1))
def test_an_unknown_or_missing_argument_is_refused_here(case: tuple[Endpoint, dict[str, Any]], name: str) -> None:
    spec, arguments = case
    assume(name not in spec.signature.parameters)
    with pytest.raises(TypeError):
        call(spec, **arguments, **{name: 1})


def test_a_check_comes_before_sending() -> None:
    sender = Recording()
    with pytest.raises(UsageError, match="vo"):
        TaskApi(sender).submit({"taskName": "x"})
    assert sender.calls == []


def test_a_stub_keeps_its_name_and_its_documentation() -> None:
    assert TaskApi.kill.__name__ == "kill"
    assert "Ask JEDI to kill a task" in (TaskApi.kill.__doc__ or "")


@pytest.mark.parametrize(
    ("returns", "data", "value"),
    [
        (int, 7, 7),
        (str, "done", "done"),
        (list[int], [1, 2], [1, 2]),
        (list[bool], [True], [True]),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (type(None), "whatever", None),
        (Json, {"any": [None]}, {"any": [None]}),
        (list[JobInfo | None], [None], [None]),
        (list[JobInfo], [{"PandaID": 5}], [JobInfo(5, raw={"PandaID": 5})]),
        (dict[str, JobInfo], {"5": {"PandaID": 5}}, {"5": JobInfo(5, raw={"PandaID": 5})}),
    ],
)
def test_a_reply_becomes_what_the_stub_returns(returns: Any, data: Json, value: Any) -> None:
    assert parse(returns, Envelope(success=True, data=data), "job/some") == value


@pytest.mark.parametrize(
    ("returns", "data"),
    [
        (str, 7),
        (str, None),
        (int, "7"),
        (list[int], {"a": 1}),
        (list[int], [1, "2"]),
        (dict[str, int], [1]),
        (JobInfo, [1]),
        (JobInfo, None),
        (list[JobInfo], [None]),
        (list[JobInfo | None], [7]),
    ],
)
def test_a_reply_of_another_shape_is_the_servers_error(returns: Any, data: Json) -> None:
    with pytest.raises(ServerError, match=r"job/some: .*expected \w+, got"):
        parse(returns, Envelope(success=True, data=data), "job/some")
