"""What every step has in common, operator or sensor: the connection, the client and the retry policy."""

from __future__ import annotations

import re
from dataclasses import asdict
from functools import cached_property
from typing import Any, cast

from airflow.sdk import BaseOperator
from airflow.sdk.execution_time.context import NEVER_EXPIRE

from panda_airflow.client import NotOurs, PandaClient, UsageError
from panda_airflow.client.auth.credentials import account_of, server_of
from panda_airflow.client.records import is_id
from panda_airflow.client.stored import Account
from panda_airflow.hooks.panda import PandaHook
from panda_airflow.policies.retry import PandaRetryPolicy
from panda_airflow.waiting.ownership import RESTORE, elsewhere

Context = Any
"""Airflow's context; its own type lists every key of every kind of run."""


def read_task_id(value: object) -> int:
    """Read a JediTaskID as a DAG author or a template gives it.

    :param value: a number, its digits, or the result of a step that waited for the task.
    :raises UsageError: it is none of these.
    """
    given = value
    if isinstance(value, dict):  # a result; one that 0.1 left in XCom says task_id
        given = value.get("jedi_task_id", value.get("task_id"))
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

    def task_id_of(self, value: object) -> int:
        """Read a JediTaskID that this step is given; see :func:`read_task_id`.

        :raises NotOurs: a step at another server returned it, where the number is that of another task.
        """
        task_id = read_task_id(value)
        named, server = value.get("server") if isinstance(value, dict) else None, server_of(self.hook.config)
        if named and named != server:
            raise NotOurs(
                f"PanDA task {task_id} is one of {named}, as the step that returned it says, and the connection "
                f"{self.panda_conn_id} means {server}: nothing was touched there.",
                advice="Restore the connection, or give the plain number if the task is known there, too.",
            )
        return task_id

    def same_account(self, what: str, account: Account) -> None:
        """Make sure that the connection means the server and user that something belongs to.

        :raises NotOurs: it means others by now.
        """
        if (found := self.account).differs_from(account):
            raise NotOurs(elsewhere(what, account, self.panda_conn_id, found), advice=RESTORE)

    def same_as_waited_for(self, event: object) -> None:
        """Make sure that the connection means what it meant in the wait of which this is the event."""
        if isinstance(event, dict) and (account := Account.from_json(event.get("account"))).server:
            self.same_account(str(event.get("what")), account)

    def same_as_at_first(self, what: str, context: Any) -> None:
        """Make sure that the connection means what it meant when this step began, in an earlier try or before a wait.

        A clear lets it begin anew.

        :raises NotOurs: it means another server or user by now, where the same number is that of something else.
        """
        store, cleared = context["task_state_store"], context["ti"].max_tries
        before = store.get("panda_account") or {}
        if before.get("clears") == cleared:
            self.same_account(what, Account.from_json(before))
        else:
            store.set("panda_account", asdict(self.account) | {"clears": cleared}, retention=NEVER_EXPIRE)
