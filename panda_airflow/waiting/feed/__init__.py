"""The status feed: one poller for all waits of a connection."""

from __future__ import annotations
