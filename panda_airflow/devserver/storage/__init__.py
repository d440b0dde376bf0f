"""State of the embedded server: the database, and the life of the rows of tasks and jobs."""

from __future__ import annotations
