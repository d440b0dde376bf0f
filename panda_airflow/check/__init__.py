"""Asking a server what it does, and comparing that with what is known of real ones."""

from __future__ import annotations
