"""The PanDA server's methods, one module per server module, under the server's own names.

Importing this package fills :data:`panda_airflow.client.endpoint.REGISTRY`.
"""

from __future__ import annotations

from panda_airflow.client.api.async_process import AsyncProcessApi
from panda_airflow.client.api.creds import CredsApi
from panda_airflow.client.api.data_carousel import DataCarouselApi
from panda_airflow.client.api.event import EventApi
from panda_airflow.client.api.file_server import FileServerApi
from panda_airflow.client.api.idds import IddsApi
from panda_airflow.client.api.job import JobApi
from panda_airflow.client.api.metaconfig import MetaconfigApi
from panda_airflow.client.api.statistics import StatisticsApi
from panda_airflow.client.api.system import SystemApi
from panda_airflow.client.api.task import TaskApi
from panda_airflow.client.api.workflow import WorkflowApi

__all__ = [
    "AsyncProcessApi",
    "CredsApi",
    "DataCarouselApi",
    "EventApi",
    "FileServerApi",
    "IddsApi",
    "JobApi",
    "MetaconfigApi",
    "StatisticsApi",
    "SystemApi",
    "TaskApi",
    "WorkflowApi",
]
