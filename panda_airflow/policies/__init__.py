"""Retry policies: of a PanDA task inside a step, and of a step by Airflow."""

from __future__ import annotations

from panda_airflow.policies.retry import PandaRetryPolicy
from panda_airflow.waiting.task_retry import TaskRetryPolicy

__all__ = ["PandaRetryPolicy", "TaskRetryPolicy"]
