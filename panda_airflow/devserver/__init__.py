"""An embedded PanDA server for developing and testing DAGs: real HTTP, real jobs, one directory of state."""

from __future__ import annotations
