"""An embedded PanDA server for developing and testing DAGs: real HTTP, real jobs, one directory of state."""

from __future__ import annotations

from importlib.util import find_spec

if missing := [name for name in ("jwt", "psutil", "starlette", "uvicorn") if find_spec(name) is None]:
    needs = f"The embedded PanDA server needs {', '.join(missing)}: pip install 'panda-airflow[devserver]'."
    raise ModuleNotFoundError(needs, name=missing[0])
