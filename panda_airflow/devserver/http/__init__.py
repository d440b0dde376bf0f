"""The HTTP face of the embedded server."""

from __future__ import annotations
