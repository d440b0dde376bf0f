"""Requests on their way: transport, encoding, network errors, retries, and the envelope of replies."""

from __future__ import annotations
