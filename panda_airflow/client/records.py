"""Reading JSON into typed values: what is of another kind is refused, and one odd row hides no others."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from types import UnionType
from typing import Any, Self, TypeVar, get_args, get_origin, get_type_hints

log = logging.getLogger(__name__)

Json = Any

ODD = (TypeError, KeyError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a value of an unexpected shape may raise."""

LARGEST_ID = 2**63 - 1
"""The server's database knows no larger ID."""

K = TypeVar("K")


@dataclass(frozen=True)
class _Field:
    """How a field of a record is read."""

    name: str
    key: str
    kind: Any
    is_id: bool
    required: bool

    def read(self, value: Json) -> Json:
        if self.kind is not str and isinstance(value, str) and value.strip() in ("", "NULL"):
            value = None
        if value is None and not self.required:
            return None
        try:
            return read_id(value) if self.is_id else _read_field(self.kind, value)
        except ODD as wrong:
            raise TypeError(f"{self.key}: {wrong}") from wrong


class Record:
    """A frozen dataclass read from a JSON object; fields it does not name stay in ``raw``."""

    @classmethod
    def from_data(cls, data: Mapping[str, Json]) -> Self:
        """Pick the declared fields by the server's names, text stripped, ``NULL`` and absent ones left out.

        :raises TypeError: a field holds something else than it should, or the ID is missing.
        """
        found = {item.name: item.read(data.get(item.key)) for item in _declared(cls)}  # type: ignore[arg-type]
        values: dict[str, Any] = {name: value for name, value in found.items() if value is not None}
        return cls(**values | {"raw": dict(data)})


@cache
def _declared(cls: Any) -> tuple[_Field, ...]:
    """List the fields of a record with the server's names, once for the thousands that one answer may hold."""
    kinds = get_type_hints(cls)
    return tuple(
        _Field(
            item.name,
            item.metadata.get("key", item.name),
            kinds[item.name],
            item.metadata.get("id", False),
            item.metadata.get("required", False),
        )
        for item in fields(cls)
        if item.name != "raw"
    )


def clean(value: Json) -> Json:
    """Strip a text, of which ``NULL`` stands for nothing."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    return "" if text == "NULL" else text


def is_id(value: object) -> bool:
    """Whether a value can be an ID."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= LARGEST_ID


def read_id(value: Json) -> int:
    """Read an ID.

    :raises TypeError: it is none.
    """
    number = _read_int(value)
    if not is_id(number):
        raise TypeError(f"{shown(value)} is no ID")
    return number


def shown(value: Json) -> str:
    """Show the beginning of a value."""
    return reprlib.repr(value)[:200]


def _expected(what: str, value: Json) -> TypeError:
    return TypeError(f"expected {what}, got {shown(value)}")


def _read_field(kind: Any, value: Json) -> Json:
    """Read a field, some of which databases and their drivers write in several ways."""
    if get_origin(kind) is UnionType:
        kind = get_args(kind)[0]
    if kind is int:
        return _read_int(value)
    if kind is datetime:
        return _read_time(value)
    if kind is str and type(value) is int:
        return str(value)
    return clean(convert(kind, value))


def _read_int(value: Json) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise _expected("a whole number", value)
    return value


def _read_time(value: Json) -> datetime:
    time = datetime.fromisoformat(value.strip()) if isinstance(value, str) else value
    if not isinstance(time, datetime):
        raise _expected("a time", value)
    return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time


def convert(kind: Any, data: Json) -> Any:
    """Turn JSON into a type: a record, a plain JSON type, a list, a dict or an optional value of these.

    :raises TypeError: it is of another kind.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if data is None else convert(parts[0], data)
    expected = dict if hasattr(kind, "from_data") else origin or kind
    if kind is not Any and (not isinstance(data, expected) or (expected is int and isinstance(data, bool))):
        raise _expected(expected.__name__, data)
    if hasattr(kind, "from_data"):
        return kind.from_data(data)
    if origin is list:
        return [value for _, value in rows(parts[0], enumerate(data))]
    if origin is dict:
        return dict(rows(parts[1], data.items()))
    return data


def rows(kind: Any, items: Iterable[tuple[K, Json]]) -> list[tuple[K, Any]]:
    """Read the rows of an answer, one odd row not hiding the others.

    An odd row is left out, or is empty where rows need no ID: there they may be told apart by their place.

    :param items: name or place of each row, and what it holds.
    :raises TypeError: a row that is no record is odd, or all are.
    """
    found, odd, good = list[tuple[K, Any]](), list[Exception](), 0
    record = get_args(kind)[0] if get_origin(kind) is UnionType else kind
    for place, item in items:
        try:
            found.append((place, convert(kind, item)))
            good += 1
        except ODD as wrong:
            odd.append(wrong)
            if not hasattr(record, "from_data"):
                raise
            if _has_no_id(record):
                found.append((place, record()))
    if odd and not good:
        raise odd[0]
    if odd:
        log.warning("%d rows of the answer cannot be read as %s, such as: %s", len(odd), record.__name__, odd[0])
    return found


def _has_no_id(record: Any) -> bool:
    return issubclass(record, Record) and not any(item.required for item in _declared(record))
