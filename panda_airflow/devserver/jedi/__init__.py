"""JEDI: what becomes of tasks, from registration to the last status."""

from __future__ import annotations
