"""Handlers of the embedded server: one module per server module, one function per endpoint.

A handler has the endpoint's parameters, names and defaults after ``(backend, caller)`` and returns an
``Envelope``::

    def kill(backend: Backend, caller: Identity | None, task_id: int, broadcast: bool = False) -> Envelope: ...
"""

from __future__ import annotations
