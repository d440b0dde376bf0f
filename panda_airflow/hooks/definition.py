"""Task parameters that a step is given as a file or as text."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

import yaml
from airflow.sdk.definitions.context import render_template_to_string
from jinja2 import Template, TemplateSyntaxError

from panda_airflow.client import UsageError
from panda_airflow.client.models import Json
from panda_airflow.hooks.step import PandaStep

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
    except (TypeError, ValueError, yaml.YAMLError) as error:
        raise UsageError(
            f"{where} cannot be read as task parameters: {' '.join(str(error).split())}; nothing was submitted.",
            advice="" if file else "A dict that a template puts into text needs the filter tojson.",
        ) from error


def _load(text: str, file: str) -> Any:
    if file.endswith(".json") or (not file and text.lstrip().startswith("{")):
        return json.loads(text, parse_constant=_no_json)
    return yaml.safe_load(text)


def _checked(value: object) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise TypeError(f"a mapping is expected, not {type(value).__name__}")
    _check(value, "")
    return value


def _check(value: object, place: str) -> None:
    """Refuse what YAML can say and JSON cannot."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} in {place or 'the mapping'} must be quoted, it is no text")
            _check(item, f"{place}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            _check(item, f"{place}[{number}]")
    elif isinstance(value, float) and not math.isfinite(value):
        _no_json(f"{value} in {place}")
    elif not isinstance(value, str | int | float | None):
        _no_json(f"{value!s:.80} in {place}, a {type(value).__name__},")


def _no_json(what: str) -> NoReturn:
    raise ValueError(f"{what} has no JSON form; quote it if it is text")
