"""What the server checks before a method acts, in its order and with its words.

Identity, production role, HTTP method, argument names, casts of query values, types, ownership of the task.
Refusals are envelopes with HTTP status 200; what the real server did not foresee is an exception and a 500.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from panda_airflow.client.endpoint import Endpoint
from panda_airflow.devserver.backend import FileStorage, Identity

OwnerOf = Callable[[int], str | None]


class Invalid(Exception):
    """The request is refused before the method acts.

    :param message: the server's words.
    """


def validate(
    endpoint: Endpoint, caller: Identity | None, method: str, arguments: Mapping[str, Any], owner_of: OwnerOf
) -> dict[str, Any]:
    """Check a request and return the arguments for the handler.

    :param endpoint: what is called.
    :param caller: who calls; None is anonymous.
    :param method: HTTP method.
    :param arguments: as they came: text from a query or form, JSON values, files.
    :param owner_of: finds the owner of a task; None where it is not known, or not yet.
    :raises Invalid: the server refuses.
    """
    _check_caller(endpoint, caller, method)
    try:
        bound = endpoint.signature.bind(**arguments)
    except TypeError as error:
        raise Invalid(f"Argument error: {error}") from error
    for name, value in bound.arguments.items():
        # An equality, as the server has it: 0 passes for a default of False.
        if value != endpoint.signature.parameters[name].default:
            bound.arguments[name] = _checked(endpoint, name, value, from_query=method == "GET")
    _check_owner(endpoint, caller, bound.arguments.get("task_id"), owner_of)
    return bound.arguments


def _check_caller(endpoint: Endpoint, caller: Identity | None, method: str) -> None:
    limited = caller is not None and "/CN=limited proxy" in caller.dn
    if endpoint.identity and (caller is None or limited):
        raise Invalid("SSL secure connection is required")
    if endpoint.production and not (caller and caller.production):
        raise Invalid("production or pilot role required")
    if method != endpoint.method:
        raise Invalid(f"expecting {endpoint.method}, received {method}")


def _check_owner(endpoint: Endpoint, caller: Identity | None, task_id: int | None, owner_of: OwnerOf) -> None:
    if not (endpoint.owner and task_id) or (caller and caller.production):
        return
    if caller is None or owner_of(task_id) != caller.name:
        raise Invalid("not the task owner or no production role")


_READS_TASK_ID_ITSELF = "task/get_status"
"""The one method whose task ID the server leaves as it came, text or a list of texts."""


def _checked(endpoint: Endpoint, name: str, value: Any, *, from_query: bool) -> Any:
    default = endpoint.signature.parameters[name].default
    expected = FileStorage if name == endpoint.upload else _without_none(endpoint.types[name])
    if expected is Any or (endpoint.path, name) == (_READS_TASK_ID_ITSELF, "task_id"):
        return value
    if from_query:
        value = _cast(name, value, expected, default)
    if value is not None or default is not None:
        _check_type(name, value, expected)
    return value


def _without_none(annotation: Any) -> Any:
    """Drop ``| None``, which the server's own annotations do not have."""
    kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
    if get_origin(annotation) not in (Union, UnionType):
        return annotation
    return kinds[0] if len(kinds) == 1 else Union[tuple(kinds)]  # noqa: UP007 - made at run time


def _cast(name: str, value: Any, expected: Any, default: Any) -> Any:
    if value == "None" and default is None:
        return None
    try:
        return _from_text(value, expected)
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"Type error: '{name}' with value '{value}' could not be casted to type {_spell(expected)} "
            f"from {type(value).__name__}."
        ) from error


def _from_text(value: Any, expected: Any) -> Any:
    """Cast what a query holds: text, or a list of texts where the key was repeated."""
    if expected is str:
        return value
    if expected is bool:
        return value.lower() in ("true", "1")
    if expected is int:
        return int(float(value))
    if get_origin(expected) is list:
        return [_element(item, get_args(expected)[0]) for item in ([value] if isinstance(value, str) else value)]
    return _literal(value, get_origin(expected) or expected)


def _element(text: str, expected: Any) -> Any:
    return _from_text(text, expected) if expected in (int, bool) else float(text) if expected is float else text


def _literal(value: Any, kind: type) -> Any:
    found = value if isinstance(value, kind) else ast.literal_eval(value)
    if not isinstance(found, kind):
        raise TypeError(f"Expected {kind}, received {type(found)}")
    return found


def _check_type(name: str, value: Any, expected: Any) -> None:
    """Check a value against an annotation.

    :raises TypeError: a truth value stands for a number: it passes a real server's check and hangs its process.
    """
    if expected is int and isinstance(value, bool):
        raise TypeError(f"not emulated: '{name}' is {value}, and a real server hangs on a bool for a number")
    kinds = get_args(expected) if get_origin(expected) is Union else (expected,)
    plain = tuple(get_origin(kind) or kind for kind in kinds)
    if not isinstance(value, plain):
        raise Invalid(f"Type error: '{name}' must be of type {_spell(expected)}, got {type(value).__name__}.")
    element = get_args(expected)[0] if get_origin(expected) is list else Any
    element = get_origin(element) or element
    if element is not Any and not all(isinstance(item, element) for item in value):
        raise Invalid(f"Type error: All elements in '{name}' must be {element.__name__}.")


def _spell(expected: Any) -> str:
    return str((get_origin(expected) or expected).__name__)
