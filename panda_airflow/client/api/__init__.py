"""The PanDA server's methods, one module per server module, under the server's own names.

Importing this package fills :data:`panda_airflow.client.endpoint.REGISTRY`.
"""

from __future__ import annotations

from panda_airflow.client.api.file_server import FileServerApi
from panda_airflow.client.api.job import JobApi
from panda_airflow.client.api.system import SystemApi
from panda_airflow.client.api.task import TaskApi

__all__ = ["FileServerApi", "JobApi", "SystemApi", "TaskApi"]
