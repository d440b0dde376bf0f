"""The rooms of the package and what each may know, its layout, and what every module holds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "panda_airflow"
MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))

TOP_LEVEL = {PACKAGE, "dags_examples", "tests", "pyproject.toml", "README.md", "Makefile", "LICENSE", "CHANGELOG.md"}
ALSO_ALLOWED = {"constraints.txt"}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 50

CORE = {"client.errors", "client.status", "client.models", "client.records", "client.stored"}

MAY_IMPORT: dict[str, set[str]] = {
    "client.errors": set(),
    "client.status": {"client.errors"},
    "client.records": set(),
    "client.stored": set(),
    "client.models": {"client.errors", "client.records", "client.stored"},
    "client.endpoint": CORE,
    "client.driver": CORE,
    "client.task_retry": CORE | {"client.driver"},
    "client.wait_event": CORE | {"client.driver"},
    "client.waiting": CORE | {"client.driver", "client.report", "client.task_retry", "client.wait_event"},
    "client.polling": CORE | {"client.driver"},
    "client.many": CORE | {"client.driver", "client.wait_event", "client.waiting"},
    "client.feed_ledger": CORE,
    "client.feed_trouble": CORE | {"client.driver", "client.feed_ledger"},
    "client.stream": CORE,
    "client.report": CORE | {"client.decision", "client.envelope", "client.submission"},
    "client.submission": CORE,
    "client.decision": CORE | {"client.submission"},
    "client.task_parameters": CORE,
    "client.api": CORE | {"client.endpoint", "client.filters", "client.submission", "client.api"},
    "client.filters": CORE,
    "client.envelope": CORE | {"client.endpoint"},
    "client": {"client"},
    "pandaclient": {"client", "pandaclient"},
    "devserver": CORE | {"client.endpoint", "client.envelope", "client.api", "client.submission", "devserver"},
    "hooks": {"client", "hooks"},
    "hooks.step": {"client", "hooks", "policies"},
    "links": {"client", "hooks", "links"},
    "policies": {"client.errors", "client.task_retry", "policies"},
    "triggers": {"client", "hooks", "triggers"},
    "operators": {"client", "hooks", "links", "operators", "policies", "triggers"},
    "sensors": {"client", "hooks", "links", "sensors", "triggers"},
    "task_groups": {"client", "hooks", "operators", "policies", "sensors"},
    "decorators": {"client", "decorators", "hooks", "operators"},
    "get_provider_info": {"client", "get_provider_info"},
    "demo": {"client", "demo", "devserver"},
    "check": {"check", "client"},
    "check.command": {"check", "client", "hooks"},
    "cli": {"check", "client", "cli", "demo", "devserver"},
}
"""Which rooms of the package each room may import; the longest name that fits a module is its room."""

WITHOUT_AIRFLOW = {"client", "pandaclient", "devserver", "demo", "check", "cli"}


def name_of(path: Path) -> str:
    """Name a module without the package: ``client.models``, and an empty text for the package itself."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, rooms: set[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def room_of(name: str) -> str | None:
    return max((room for room in MAY_IMPORT if within(name, {room})), key=len, default=None)


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at its top or inside a function, by its full name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (_imported(str(node.module), alias.name) for alias in node.names)


def _imported(module: str, name: str) -> str:
    """``from a import b`` imports ``a.b`` where that is a module, else ``a``."""
    place = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if place.with_suffix(".py").is_file() or place.is_dir() else module


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(name_of(path))
    if not name_of(path):
        assert not any(name.startswith(f"{PACKAGE}.") for name in imports(path)), "the package itself imports nothing"
        return
    assert room, f"{path.name} is in no room: say in MAY_IMPORT what it may import"
    ours = {name.removeprefix(f"{PACKAGE}.") for name in imports(path) if name.startswith(PACKAGE)}
    assert {name for name in ours if not within(name, MAY_IMPORT[room] | {room})} == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_airflow_stays_in_its_own_rooms(path: Path) -> None:
    foreign = {"airflow", "airflow_shared", "sqlalchemy"} if within(name_of(path), WITHOUT_AIRFLOW) else set()
    assert {name for name in imports(path) if within(name, foreign)} == set()


def test_examples_talk_to_any_server() -> None:
    for path in (ROOT / "dags_examples").rglob("*.py"):
        assert not any(name.startswith(f"{PACKAGE}.devserver") for name in imports(path)), path


def test_the_top_level_holds_what_it_should() -> None:
    ignored = {item.strip().rstrip("/") for item in (ROOT / ".gitignore").read_text().splitlines()}
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")} - ignored
    assert TOP_LEVEL - found == set(), "missing"
    assert found - TOP_LEVEL - ALSO_ALLOWED == set(), "not foreseen"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_annotations_are_not_evaluated(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_public_name_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module itself"
    assert [name for name, node in public(tree) if not ast.get_docstring(node)] == []


Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """The public classes, functions and methods of a module."""
    for child in node.body:
        if isinstance(child, Documented) and not child.name.startswith("_"):
            yield f"{prefix}{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{child.name}.")


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LONGEST_MODULE
    functions = (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    assert [node.name for node in functions if length(node) > LONGEST_FUNCTION] == []


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring and signature."""
    statements = node.body[1:] if ast.get_docstring(node) else node.body
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


BROAD = {"Exception", "BaseException"}
BROAD_ALLOWED = {
    ("operators", "on_kill"),
    ("triggers", "on_kill"),
    ("triggers", "_kill_if_ended_by_person"),
    ("devserver", "api"),
}
"""Room and function that may catch everything: the two paths that end a task, and where a server answers 500."""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nobody_catches_everything(path: Path) -> None:
    room = name_of(path).split(".")[0]
    for function, handler in handlers(ast.parse(path.read_text())):
        if catches_everything(handler):
            assert (room, function) in BROAD_ALLOWED, f"{path.name}:{handler.lineno} in {function}"


def catches_everything(handler: ast.ExceptHandler) -> bool:
    """Whether nothing gets past a handler; one that raises again lets all past."""
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        return False
    names = {node.id for node in ast.walk(handler.type) if isinstance(node, ast.Name)} if handler.type else BROAD
    return bool(names & BROAD)


def handlers(node: ast.AST, function: str = "") -> Iterator[tuple[str, ast.ExceptHandler]]:
    """Every ``except`` with the function that it is in."""
    for child in ast.iter_child_nodes(node):
        name = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(child, ast.ExceptHandler):
            yield name, child
        yield from handlers(child, name)
