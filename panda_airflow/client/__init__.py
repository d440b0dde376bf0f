"""The API of the PanDA server in Python; knows nothing of Airflow."""

from __future__ import annotations

from panda_airflow.client.config import ClientConfig
from panda_airflow.client.errors import (
    AuthError,
    ConfigError,
    CredentialExpired,
    CredentialMissing,
    CredentialRefused,
    DuplicateTask,
    InvalidArgument,
    NotCarriedOut,
    NotDelivered,
    NotFound,
    OutcomeUnknown,
    PandaError,
    PermissionDenied,
    Refused,
    ServerError,
    TaskAborted,
    TaskFailed,
    TaskOutcome,
    TaskPartlyDone,
    TransportError,
    UsageError,
    WaitTimeout,
    WrongState,
)
from panda_airflow.client.session import PandaClient
from panda_airflow.client.task_retry import TaskRetryPolicy

__all__ = [
    "AuthError",
    "ClientConfig",
    "ConfigError",
    "CredentialExpired",
    "CredentialMissing",
    "CredentialRefused",
    "DuplicateTask",
    "InvalidArgument",
    "NotCarriedOut",
    "NotDelivered",
    "NotFound",
    "OutcomeUnknown",
    "PandaClient",
    "PandaError",
    "PermissionDenied",
    "Refused",
    "ServerError",
    "TaskAborted",
    "TaskFailed",
    "TaskOutcome",
    "TaskPartlyDone",
    "TaskRetryPolicy",
    "TransportError",
    "UsageError",
    "WaitTimeout",
    "WrongState",
]
