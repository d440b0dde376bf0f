"""Waits for what PanDA does: pure decisions, the drivers that run them, and what they ask the server."""

from __future__ import annotations
