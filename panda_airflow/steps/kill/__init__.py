"""How PanDA tasks are killed, also for a step that has no time left."""

from __future__ import annotations
