"""What a server may say of a record: its fields with values of their kinds, and others beside them."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from panda_airflow.client.http.envelope import fit
from panda_airflow.client.records import Record

TIMES = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1))  # noqa: DTZ001 - as the server's
TEXTS = st.text().map(fit)
IDS = st.integers(1, 2**53)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
JSON = st.recursive(
    SCALARS | TIMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)
KINDS: dict[Any, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**53),
    str: TEXTS,
    bool: st.booleans(),
    datetime: TIMES,
    list[int]: st.lists(IDS, max_size=3),
    list[str]: st.lists(TEXTS, max_size=3),
}


def spelled(record: type[Record]) -> list[str]:
    """The server's names of a record's fields."""
    return [item.metadata.get("key", item.name) for item in fields(record)]  # type: ignore[arg-type]


def objects_of(record: type[Record]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that make a record, some fields absent or null and others unknown."""
    hints = get_type_hints(record)
    ids, others = {}, {}
    for item in fields(record):  # type: ignore[arg-type]
        kind = hints[item.name]
        kind = get_args(kind)[0] if get_origin(kind) is UnionType else kind
        values = KINDS.get(kind, st.lists(st.dictionaries(TEXTS, JSON), max_size=2))
        name = item.metadata.get("key", item.name)
        if item.metadata.get("required"):
            ids[name] = IDS
        elif item.name != "raw":
            others[name] = st.none() | (IDS if item.metadata.get("id") else values)
    known = st.fixed_dictionaries(ids, optional=others)
    unknown = TEXTS.filter(lambda name: name not in spelled(record))
    return st.tuples(st.dictionaries(unknown, JSON, max_size=3), known).map(lambda drawn: drawn[0] | drawn[1])
