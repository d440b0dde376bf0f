"""Task parameters that a step is given as a file or as text."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import yaml
from airflow.sdk.definitions.context import render_template_to_string
from jinja2 import Template, TemplateSyntaxError

from panda_airflow.client import UsageError
from panda_airflow.client.models import Json
from panda_airflow.client.records import ODD
from panda_airflow.steps.base import PandaStep

LONGEST_JSON = 10_000_000
LONGEST_YAML = 1_000_000
"""Characters of a definition, at most; YAML takes a hundred times as long as JSON to read."""
MOST_VALUES = 1_000_000
DEEPEST = 100
_TOO_MANY = f"it has more than {MOST_VALUES} values, aliases counted each time"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

FILES = (".json", ".yaml", ".yml")


class TaskDefinition(PandaStep):
    """Lets ``task_parameters`` be a dict, the name of a JSON or YAML file, or JSON or YAML text.

    A file is looked for where Airflow looks for template files, in the folder of the DAG and in its
    ``template_searchpath``, and is a template, as is its name. Airflow's own ``template_ext`` is not used: it
    would take every text inside a dict that ends in ``.json`` for a file, and job parameters are full of such names.
    """

    task_parameters: Any

    def prepare_template(self) -> None:
        """Check a file whose name is no template while Airflow parses the DAG.

        :raises TemplateNotFound: there is no such file.
        :raises UsageError: it holds no task parameters; a file that is a template itself is read when it is rendered.
        """
        super().prepare_template()
        if _names_file(self.task_parameters):
            self._check_file(self.task_parameters)

    def render_template(
        self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render as Airflow does; what is text after that becomes a dict if it is ``task_parameters`` itself."""
        rendered = super().render_template(content, context, jinja_env, seen_oids)
        if content is not self.task_parameters or not isinstance(rendered, str):
            return rendered
        if not _names_file(rendered):
            return read_parameters(rendered)
        return read_parameters(render_template_to_string(self._template(rendered), context), rendered)

    def _check_file(self, file: str) -> None:
        environment = self._environment()
        if _is_plain(environment, file):
            self._template(file)
            source = environment.loader.get_source(environment, file)[0]
            if _is_plain(environment, source):
                read_parameters(source, file)

    def _environment(self) -> Any:
        """Return Jinja as the DAG has it, except that a native one would read JSON by Python's rules."""
        return self.dag.get_template_env(force_sandboxed=True)

    def _template(self, file: str) -> Template:
        try:
            template: Template = self._environment().get_template(file)
        except TemplateSyntaxError as error:
            raise UsageError(f"{file} is no template, line {error.lineno}: {error.message}.") from error
        return template


def _names_file(value: object) -> bool:
    return isinstance(value, str) and "\n" not in value and value.endswith(FILES)


def _is_plain(environment: Any, text: str) -> bool:
    """Whether Jinja would leave a text as it is."""
    return all(kind == "data" for _, kind, _ in environment.lex(text))


def read_parameters(text: str, file: str = "") -> dict[str, Json]:
    """Read task parameters from JSON or YAML.

    :param text: text that begins with ``{`` is JSON unless it comes from a YAML file.
    :param file: name of the file that it comes from, if any.
    :raises UsageError: it has a syntax error, is no mapping, or holds what JSON cannot express.
    """
    where = file or "the text of task_parameters"
    try:
        return _checked(_load(text, file))
    except (*ODD, yaml.YAMLError) as error:
        raise UsageError(
            f"{where} cannot be read as task parameters: {' '.join(str(error).split())}; nothing was submitted.",
            advice="" if file else "A dict that a template puts into text needs the filter tojson.",
        ) from error


def _load(text: str, file: str) -> Any:
    if file.endswith(".json") or (not file and text.lstrip().startswith("{")):
        _refuse_long(text, LONGEST_JSON)
        return json.loads(text, parse_constant=_no_json, object_pairs_hook=_without_twins)
    _refuse_long(text, LONGEST_YAML)
    return yaml.load(text, _Loader)  # noqa: S506 - a safe loader


def _refuse_long(text: str, limit: int) -> None:
    if len(text) > limit:
        raise ValueError(f"it has {len(text)} characters, and {limit} are read at most")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r:.80} is there twice")
        found[key] = value
    return found


class _Loader(yaml.SafeLoader):
    """Reads YAML within limits, and refuses a key that is there twice."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        _without_twins([(key.value, None) for key, _ in node.value if isinstance(key, yaml.ScalarNode)])
        return node

    def flatten_mapping(self, node: Any) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:  # merged mappings of merged mappings
            raise ValueError(_TOO_MANY)


def _checked(value: object) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(f"a mapping is expected, not {type(value).__name__}")
    _Check().look(value, "", DEEPEST)
    return value


class _Check:
    """Refuses what YAML or Python can say and JSON, or the server's database, cannot."""

    def __init__(self) -> None:
        self._seen = 0

    def look(self, value: object, place: str, depth: int) -> None:
        """Look at a value and all in it; an alias of YAML counts as often as it is used."""
        self._seen += 1
        if self._seen > MOST_VALUES:
            raise ValueError(_TOO_MANY)
        if depth < 0:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            for key, item in value.items():
                self.look(item, self._named(place, key), depth - 1)
        elif isinstance(value, list):
            for number, item in enumerate(value):
                self.look(item, f"{place}[{number}]", depth - 1)
        else:
            _check_plain(value, place)

    def _named(self, place: str, key: object) -> str:
        if not isinstance(key, str):
            raise TypeError(f"the key {key!r} in {place or 'the mapping'} must be quoted, it is no text")
        _check_plain(key, f"a key of {place or 'the mapping'}")
        return f"{place}.{key}".lstrip(".")


def _check_plain(value: object, place: str) -> None:
    if isinstance(value, str) and _UNSTORABLE.search(value):
        raise ValueError(f"the text in {place} holds a NUL, or half of a surrogate pair")
    if isinstance(value, float) and not math.isfinite(value):
        _no_json(f"{value} in {place}")
    if not isinstance(value, str | int | float | None):
        _no_json(f"{value!s:.80} in {place}, a {type(value).__name__},")


def _no_json(what: str) -> NoReturn:
    raise ValueError(f"{what} has no JSON form; quote it if it is text")
