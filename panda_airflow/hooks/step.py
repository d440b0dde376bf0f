"""What every step has in common, operator or sensor: the connection, the client and the retry policy."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, cast

from airflow.sdk import BaseOperator

from panda_airflow.client import NotOurs, PandaClient, UsageError
from panda_airflow.client.auth import account_of
from panda_airflow.client.ownership import RESTORE, elsewhere
from panda_airflow.client.records import is_id
from panda_airflow.client.stored import Account
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.policies.retry import PandaRetryPolicy


def read_task_id(value: object) -> int:
    """Read a JediTaskID as a DAG author or a template gives it.

    :param value: a number, its digits, or the result of a step that waited for the task.
    :raises UsageError: it is none of these.
    """
    given = value.get("task_id") if isinstance(value, dict) else value
    number = int(given) if isinstance(given, str) and re.fullmatch(r"\s*[0-9]{1,19}\s*", given) else given
    if not is_id(number):
        raise UsageError(f"jedi_task_id must be a JediTaskID, not {value!r:.80}; check what the template yields.")
    return cast(int, number)


class PandaStep(BaseOperator):
    """Base of all steps.

    :param panda_conn_id: Airflow connection of type ``panda``.
    """

    def __init__(self, *, panda_conn_id: str = PandaHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.panda_conn_id = panda_conn_id
        self.retry_policy = self.retry_policy or PandaRetryPolicy()

    @cached_property
    def hook(self) -> PandaHook:
        """The hook, made once per try."""
        return PandaHook(self.panda_conn_id)

    @property
    def client(self) -> PandaClient:
        """The client behind the hook."""
        return self.hook.client

    @property
    def account(self) -> Account:
        """Whom which server takes this step for."""
        return account_of(self.hook.config)

    def same_account(self, what: str, account: Account) -> None:
        """Make sure that the connection means the server and user that something belongs to.

        :raises NotOurs: it means others by now.
        """
        if (found := self.account).differs_from(account):
            raise NotOurs(elsewhere(what, account, self.panda_conn_id, found), advice=RESTORE)
