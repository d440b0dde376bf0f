"""Who may call the embedded server: its certificates, its tokens, and the check of both."""

from __future__ import annotations
