"""Who is calling: credentials, and where tokens come from."""

from __future__ import annotations
