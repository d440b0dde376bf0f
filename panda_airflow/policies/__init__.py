"""Retry policies: of a PanDA task inside a step, and of a step by Airflow."""

from __future__ import annotations

from panda_airflow.client.task_retry import TaskRetryPolicy
from panda_airflow.policies.retry import PandaRetryPolicy

__all__ = ["PandaRetryPolicy", "TaskRetryPolicy"]
