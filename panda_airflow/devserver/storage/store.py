"""State of the embedded server: one SQLite file, shared by the HTTP workers, JEDI and the pilots."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from threading import RLock
from typing import Any

Row = dict[str, Any]
"""One row of a table, by column name; times are naive UTC ``datetime`` objects."""


class DatabaseDown(Exception):
    """The database does not answer, because somebody took it down for a test."""


def _read_time(text: bytes) -> datetime:
    return datetime.fromisoformat(text.decode())


def _storable(value: Any) -> Any:
    return value.isoformat(" ", "microseconds") if isinstance(value, datetime) else value


sqlite3.register_converter("UTC", _read_time)


class Store:
    """Rows of the tables in ``schema.sql``; safe to use from any thread.

    :param path: the SQLite file, made with its directory where absent.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives the files beside it the same mode.
        path.touch(0o600)
        path.chmod(0o600)
        self.down = False
        self._lock = RLock()
        self._connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, detect_types=sqlite3.PARSE_DECLTYPES
        )
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.executescript(files(__package__).joinpath("schema.sql").read_text())

    def rows(self, sql: str, *parameters: Any) -> list[Row]:
        """Read all rows that a query gives.

        :raises DatabaseDown: the database is down.
        """
        with self._lock:
            return [dict(row) for row in self._execute(sql, parameters).fetchall()]

    def row(self, sql: str, *parameters: Any) -> Row | None:
        """Read the first row that a query gives, ``None`` where there is none.

        :raises DatabaseDown: the database is down.
        """
        with self._lock:
            found = self._execute(sql, parameters).fetchone()
            return None if found is None else dict(found)

    def value(self, sql: str, *parameters: Any) -> Any:
        """Read the first column of the first row, ``None`` where there is none.

        :raises DatabaseDown: the database is down.
        """
        with self._lock:
            found = self._execute(sql, parameters).fetchone()
            return None if found is None else found[0]

    def run(self, sql: str, *parameters: Any) -> int:
        """Execute a statement and return the number of rows that it changed.

        :raises DatabaseDown: the database is down.
        """
        with self._lock:
            return self._execute(sql, parameters).rowcount

    def insert(self, table: str, **values: Any) -> int:
        """Add a row, columns without a value at their defaults, and return its ID.

        :raises DatabaseDown: the database is down.
        """
        columns, marks = ", ".join(values), ", ".join("?" * len(values))
        with self._lock:
            sql = f"INSERT INTO {table} ({columns}) VALUES ({marks})"  # noqa: S608 - names are the schema's
            return self._execute(sql, tuple(values.values())).lastrowid or 0

    def update(self, table: str, key: str, identifier: int, **values: Any) -> int:
        """Change a row and return the number of rows changed, 0 or 1.

        :param key: the column that holds ``identifier``.
        :raises DatabaseDown: the database is down.
        """
        changes = ", ".join(f"{column} = ?" for column in values)
        sql = f"UPDATE {table} SET {changes} WHERE {key} = ?"  # noqa: S608 - names are the schema's
        return self.run(sql, *values.values(), identifier)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the statements inside one atomic change that no other thread sees half done.

        :raises DatabaseDown: the database is down.
        """
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._execute("BEGIN IMMEDIATE", ())
            with self._connection:
                yield

    def owner_of(self, task_id: int) -> str | None:
        """Name the user of a task; ``None`` if it is unknown or not registered yet, or the database is down."""
        if self.down:
            return None
        owner: str | None = self.value("SELECT userName FROM tasks WHERE jediTaskID = ?", task_id)
        return owner

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        with self._lock:
            self._connection.close()

    def _execute(self, sql: str, parameters: tuple[Any, ...]) -> sqlite3.Cursor:
        if self.down:
            raise DatabaseDown
        return self._connection.execute(sql, [_storable(value) for value in parameters])
