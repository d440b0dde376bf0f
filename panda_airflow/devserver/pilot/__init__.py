"""Pilots in job slots: what runs jobs on this machine."""

from __future__ import annotations
