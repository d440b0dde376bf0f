"""The PanDA server's methods, one module per server module, under the server's own names."""

from __future__ import annotations
