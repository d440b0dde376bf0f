"""The rooms of the package and what each may know, its layout, and what every module holds."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "panda_airflow"
MODULES = sorted((ROOT / PACKAGE).rglob("*.py"))

TOP_LEVEL = {PACKAGE, "dags_examples", "tests", "pyproject.toml", "README.md", "Makefile", "LICENSE", "CHANGELOG.md"}
ALSO_ALLOWED = {"CONTRIBUTING.md", "constraints.txt", "docs"}
LONGEST_MODULE = 400
LONGEST_FUNCTION = 50

MOST_FILES = 15

MAY_IMPORT: dict[str, set[str]] = {
    "client": {"client.config", "client.errors", "client.session"},
    "client.errors": set(),
    "client.status": {"client.errors"},
    "client.records": set(),
    "client.stored": set(),
    "client.filters": {"client.errors"},
    "client.models": {"client.errors", "client.records", "client.stored"},
    "client.config": {"client.auth.reread", "client.errors"},
    "client.files": {"client.errors"},
    "client.jobs": {"client.errors", "client.models"},
    "client.task_parameters": {"client.errors", "client.models"},
    "client.endpoint": {"client.errors", "client.models"},
    "client.api": {"client.endpoint", "client.errors", "client.filters", "client.models", "client.task_parameters"},
    "client.auth.trust": set(),
    "client.auth": {"client.config", "client.errors", "client.http.envelope", "client.http.network", "client.stored"},
    "client.http": {
        "client.auth.trust",
        "client.endpoint",
        "client.errors",
        "client.files",
        "client.models",
        "client.records",
    },
    "client.http.connection": {"client.errors"},
    "client.http.transport": {
        "client.auth.*",
        "client.config",
        "client.endpoint",
        "client.errors",
        "client.files",
        "client.http.*",
        "client.models",
    },
    "client.idds": {
        "client.api.idds",
        "client.endpoint",
        "client.errors",
        "client.http.envelope",
        "client.models",
        "client.records",
    },
    "client.session": {
        "client.api.*",
        "client.config",
        "client.endpoint",
        "client.errors",
        "client.files",
        "client.http.transport",
        "client.idds",
        "client.models",
    },
    "waiting": set(),
    "waiting.driver": {"client.errors"},
    "waiting.task_retry": {"client.errors", "client.models", "client.status", "client.stored", "waiting.driver"},
    "waiting.report": {"client.http.envelope", "client.models"},
    "waiting.task": {
        "client.errors",
        "client.models",
        "client.status",
        "client.stored",
        "waiting.driver",
        "waiting.event",
        "waiting.report",
        "waiting.task_retry",
    },
    "waiting.event": {"client.errors", "client.models", "waiting.driver"},
    "waiting.ownership": {
        "client.errors",
        "client.models",
        "client.session",
        "client.stored",
        "client.task_parameters",
    },
    "waiting.many": {"client.errors", "waiting.driver", "waiting.event", "waiting.task"},
    "waiting.polling": {"client.errors", "client.models", "client.stored", "waiting.driver"},
    "waiting.end_watcher": {"client.errors", "client.models", "client.status"},
    "waiting.poll_checks": {
        "client.errors",
        "client.http.envelope",
        "client.models",
        "client.records",
        "client.session",
        "client.status",
        "waiting.polling",
        "waiting.report",
    },
    "waiting.task_polls": {
        "client.errors",
        "client.session",
        "client.status",
        "waiting.driver",
        "waiting.ownership",
        "waiting.poll_checks",
        "waiting.task",
    },
    "waiting.feed": {
        "client.auth.credentials",
        "client.auth.reread",
        "client.config",
        "client.errors",
        "client.models",
        "client.session",
        "client.status",
        "client.stored",
        "waiting.driver",
        "waiting.many",
        "waiting.ownership",
        "waiting.task",
        "waiting.task_polls",
    },
    "waiting.feed.planner": {"client.errors", "client.models", "client.status", "waiting.task"},
    "waiting.feed.backoff": {"client.errors", "waiting.driver", "waiting.feed.planner"},
    "waiting.feed.push": {"client.config", "client.records"},
    "hooks": {"client"},
    "policies": {"client.errors", "waiting.task_retry"},
    "links": set(),
    "steps": {
        "client",
        "client.auth.credentials",
        "client.errors",
        "client.models",
        "client.records",
        "client.status",
        "client.stored",
        "client.task_parameters",
        "hooks.panda",
        "policies.retry",
        "waiting.event",
        "waiting.many",
        "waiting.ownership",
        "waiting.report",
        "waiting.task",
        "waiting.task_polls",
        "waiting.task_retry",
    },
    "steps.record": {"client.errors", "client.models", "client.status", "client.stored", "client.task_parameters"},
    "steps.decision": {"client.models", "client.status", "steps.record", "waiting.report"},
    "steps.lookup": {"client.models", "client.session", "steps.record", "waiting.driver", "waiting.ownership"},
    "steps.kill": {
        "client.auth.credentials",
        "client.config",
        "client.errors",
        "client.models",
        "client.session",
        "client.status",
        "client.stored",
        "steps.lookup",
        "waiting.driver",
        "waiting.ownership",
        "waiting.poll_checks",
        "waiting.task",
        "waiting.task_polls",
    },
    "triggers": {
        "client",
        "client.auth.credentials",
        "client.models",
        "client.task_parameters",
        "hooks.panda",
        "steps.ended",
        "steps.kill.*",
        "waiting.driver",
        "waiting.end_watcher",
        "waiting.feed.joining",
        "waiting.feed.poller",
        "waiting.many",
        "waiting.ownership",
        "waiting.poll_checks",
        "waiting.polling",
        "waiting.report",
        "waiting.task",
        "waiting.task_polls",
    },
    "operators": {
        "client",
        "client.jobs",
        "client.models",
        "client.status",
        "client.stored",
        "hooks.panda",
        "links.panda",
        "steps.*",
        "triggers.*",
        "waiting.driver",
        "waiting.event",
        "waiting.feed.joining",
        "waiting.ownership",
        "waiting.poll_checks",
        "waiting.polling",
        "waiting.report",
        "waiting.task",
        "waiting.task_polls",
        "waiting.task_retry",
    },
    "sensors": {
        "client",
        "client.status",
        "client.stored",
        "links.panda",
        "steps.*",
        "triggers.*",
        "waiting.driver",
        "waiting.many",
        "waiting.poll_checks",
        "waiting.polling",
        "waiting.task",
        "waiting.task_polls",
    },
    "task_groups": {"client", "client.status", "hooks.panda", "operators.*", "sensors.task", "waiting.task_retry"},
    "get_provider_info": {"client.config"},
    "pandaclient": {
        "client.auth.tokens",
        "client.config",
        "client.endpoint",
        "client.errors",
        "client.files",
        "client.http.envelope",
        "client.http.network",
        "client.jobs",
        "client.models",
        "client.records",
        "client.session",
    },
    "devserver": set(),
    "devserver.faults": {"client.errors"},
    "devserver.backend": {"devserver.faults", "devserver.storage.store"},
    "devserver.control": {"client.errors", "devserver.*"},
    "devserver.server": {"client.errors", "devserver.*"},
    "devserver.auth": {"client.errors", "devserver.backend"},
    "devserver.storage": {"client.status", "devserver.backend"},
    "devserver.pilot": {"devserver.*"},
    "devserver.jedi": {"client.models", "client.status", "client.task_parameters", "devserver.*"},
    "devserver.handlers": {"client.models", "devserver.*"},
    "devserver.http": {
        "client.api",
        "client.endpoint",
        "client.errors",
        "client.http.envelope",
        "client.models",
        "devserver.*",
    },
    "demo": {"client", "devserver.auth.certificates"},
    "cli": {"check.command", "client.errors", "demo.runner", "devserver.*"},
    "check": {
        "client.config",
        "client.endpoint",
        "client.errors",
        "client.http.*",
        "client.models",
        "client.session",
        "hooks.panda",
    },
}
"""What each room may import beside itself; the longest name that fits a module is its room. ``a`` is the module or the
face of the room, ``a.*`` is all that is in it."""

WITHOUT_AIRFLOW = {
    *("client", "waiting", "pandaclient", "devserver", "demo", "cli", "check"),
    *("steps.kill", "steps.lookup", "steps.record", "steps.decision"),  # a process that kills cannot wait for Airflow
}


def name_of(path: Path) -> str:
    """Name a module without the package: ``client.models``, and an empty text for the package itself."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, rooms: Collection[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def fits(name: str, place: str) -> bool:
    """Whether a module is what an entry of MAY_IMPORT names."""
    return name.startswith(place.removesuffix("*")) if place.endswith(".*") else name == place


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


def ours(path: Path) -> set[str]:
    """The modules of the package that a file imports, also where only a type checker does."""
    return {name.removeprefix(PACKAGE).lstrip(".") for name in imports(path) if within(name, {PACKAGE})}


ARROWS: dict[str, set[str]] = {name_of(path): ours(path) for path in MODULES}
"""What each module of the package imports of the package."""


@pytest.mark.parametrize("name", ARROWS)
def test_imports_go_one_way(name: str) -> None:
    if not name:
        assert ARROWS[name] == set(), "the package itself imports nothing"
        return
    room = room_of(name)
    assert room, f"{name} is in no room: say in MAY_IMPORT what it may import"
    own = {room} if room in FOLDERS else set()
    strange = {one for one in ARROWS[name] if not (within(one, own) or any(fits(one, to) for to in MAY_IMPORT[room]))}
    assert strange == set()


FOLDERS = {name_of(path) for path in MODULES if path.name == "__init__.py"} - {"", "client", "waiting", "devserver"}
"""Rooms whose modules may import each other; those of the others are held apart by rules of their own."""


def test_nothing_is_allowed_that_nobody_does() -> None:
    unused = {}
    for room, places in MAY_IMPORT.items():
        members = [name for name in ARROWS if room_of(name) == room]
        found = set[str]().union(*(ARROWS[name] for name in members))
        if dead := {place for place in places if not any(fits(one, place) for one in found)} or not members:
            unused[room] = dead
    assert unused == {}


def test_there_is_no_circle() -> None:
    assert circle(ARROWS) == []
    rooms: dict[str, set[str]] = {}
    for name, found in ARROWS.items():
        top = name.split(".")[0]
        rooms.setdefault(top, set()).update(one.split(".")[0] for one in found if one.split(".")[0] != top)
    assert circle(rooms) == []


def circle(arrows: dict[str, set[str]]) -> list[str]:
    """What is left once everything is taken away, again and again, that imports nothing of what is left."""
    left = dict(arrows)
    while free := [name for name, found in left.items() if not found & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


@pytest.mark.parametrize("room", sorted({path.parent for path in MODULES}), ids=lambda room: room.name)
def test_a_room_can_be_overlooked(room: Path) -> None:
    files = list(room.glob("*.py"))
    assert len(files) <= MOST_FILES
    assert room == ROOT / PACKAGE or len(files) > 1, "nobody lives here"


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
