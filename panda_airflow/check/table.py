"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap


def table(titles: Sequence[str], rows: Sequence[Sequence[str]], width: int = 46) -> str:
    """Write rows of text under titles, long cells over several lines.

    :param titles: of the columns.
    :param rows: a text for each column.
    :param width: widest column, in characters.
    """
    lines = [line for row in (titles, *rows) for line in _lines(row, width)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, tuple("-" * size for size in widths))
    return "".join("  ".join(map(str.ljust, line, widths)).rstrip() + "\n" for line in lines)


def _lines(row: Sequence[str], width: int) -> list[tuple[str, ...]]:
    """Break the cells of a row into lines."""
    return list(zip_longest(*(wrap(cell, width) or [""] for cell in row), fillvalue=""))
