"""The README says what the code says; ``python -m tests.unit.test_readme`` brings it up to date."""

from __future__ import annotations

import re
from dataclasses import fields
from html import escape
from pathlib import Path
from typing import get_args

from panda_airflow import client
from panda_airflow.client import ClientConfig, PandaError
from panda_airflow.devserver.faults import Kind

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


def settings() -> str:
    """The table of settings, from the metadata of the configuration's fields."""
    rows = ["| setting | environment | meaning |", "| --- | --- | --- |"]
    for item in fields(ClientConfig):
        variables = ", ".join(f"`{name}`" for name in item.metadata["env"])
        default = "" if item.default in (None, "") else f" Default: `{item.default}`."
        rows.append(f"| `{item.name}` | {variables} | {escape(item.metadata['help'], quote=False)}{default} |")
    return "\n".join(rows)


def first_dag() -> str:
    """The simplest example, without what only tools want to see."""
    text = (ROOT / "dags_examples" / "hello_panda.py").read_text()
    code = text[text.index("from airflow") :].replace(" -> None", "").rstrip()
    return f"```python\n{code}\n```"


def fresh(text: str) -> str:
    """Put what is generated between its marks."""
    for mark, part in (("dag", first_dag()), ("settings", settings())):
        pattern = rf"(<!-- {mark} -->\n).*?(<!-- /{mark} -->)"
        text, found = re.subn(pattern, lambda old, part=part: f"{old[1]}{part}\n{old[2]}", text, flags=re.DOTALL)  # type: ignore[misc]
        assert found == 1, mark
    return text


def test_generated_parts_are_up_to_date() -> None:
    assert README.read_text() == fresh(README.read_text())


def test_every_error_is_in_the_table() -> None:
    kinds = [name for name in client.__all__ if issubclass(getattr(client, name), PandaError)]
    assert [name for name in kinds if f"`{name}`" not in README.read_text()] == []


def test_every_fault_is_named() -> None:
    assert [kind for kind in get_args(Kind) if f"`{kind}`" not in README.read_text()] == []


def test_every_path_exists() -> None:
    paths = re.findall(r"`((?:panda_airflow|tests|dags_examples)/[\w./]+)`", README.read_text())
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


if __name__ == "__main__":
    README.write_text(fresh(README.read_text()))
