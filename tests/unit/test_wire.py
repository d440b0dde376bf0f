"""Arguments on the wire: whatever cannot go is named by its place."""

from __future__ import annotations

import tempfile
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from panda_airflow.client import UsageError
from panda_airflow.client.endpoint import REGISTRY
from panda_airflow.client.http.encoding import Multipart, parts_of, unencodable
from panda_airflow.client.http.envelope import encode

NAMES = st.text("abc", min_size=1)
GOOD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(NAMES, inner)
)
BAD = st.sampled_from([{1}, b"x", Path("x"), object(), float("inf"), float("nan")])
PLACES = st.lists(NAMES | st.integers(0, 3), max_size=5)


@given(value=GOOD)
def test_what_has_a_json_form_is_not_complained_about(value: Any) -> None:
    encode(value)
    assert unencodable(value) is None


@given(bad=BAD, places=PLACES, beside=GOOD)
def test_what_has_none_is_found_wherever_it_is(bad: object, places: list[str | int], beside: Any) -> None:
    def wrap(inner: Any, place: str | int) -> Any:
        return {"z": beside, place: inner} if isinstance(place, str) else [*[beside] * place, inner]

    value = reduce(wrap, reversed(places), bad)
    path = "x" + "".join(f".{place}" if isinstance(place, str) else f"[{place}]" for place in places)
    assert (unencodable(value, "x") or "").startswith(f"{path} is ")


def too_deep() -> Any:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


def cyclic() -> Any:
    value: dict[str, Any] = {"a": {}}
    value["a"]["b"] = value
    return value


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (cyclic(), "task_parameters.a.b contains itself; nothing was sent."),
        (too_deep(), "an argument is nested too deeply; nothing was sent."),
    ],
)
def test_structures_without_an_end_are_refused(parameters: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        parts_of(REGISTRY["task/submit"], {"task_parameters": parameters})
    assert str(caught.value) == f"task/submit: {says}"


@given(content=st.binary(max_size=5000), name=st.text('ab"\\é ü.', min_size=1))
def test_a_multipart_body_is_as_long_as_it_says_each_time(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / f"f{name}"
        file.write_bytes(content)
        body = Multipart("file", file)
        first, second = b"".join(body), b"".join(body)
    assert len(body) == len(first)
    assert first == second
    assert content in first
