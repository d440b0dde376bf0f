"""Step that stores a secret where PanDA jobs can read it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk import BaseHook, Variable
from airflow.sdk.log import mask_secret

from panda_airflow.client import UsageError
from panda_airflow.steps.base import Context, PandaStep


class PandaSetSecretOperator(PandaStep):
    """Store a secret of this identity, where its jobs can read it, or delete one.

    The value is fetched while the step runs and masked in its log: it is in no argument of this step, and therefore
    in no rendered template, and not in XCom either, which holds the name of the secret as ``key``.

    :param key: name of the secret.
    :param from_connection: Airflow connection whose password is the value.
    :param from_variable: Airflow variable that is the value.
    :param from_callable: returns the value, called on the worker without arguments.
    :param delete: delete the secret instead.
    """

    template_fields: Sequence[str] = ("panda_conn_id", "key", "from_connection", "from_variable")
    ui_color = "#d8e8d0"

    def __init__(
        self,
        *,
        key: str,
        from_connection: str | None = None,
        from_variable: str | None = None,
        from_callable: Callable[[], str] | None = None,
        delete: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.key = key
        self.from_connection = from_connection
        self.from_variable = from_variable
        self.from_callable = from_callable
        self.delete = delete

    def execute(self, context: Context) -> dict[str, str]:  # noqa: ARG002
        """Store or delete the secret."""
        sources = (self.from_connection, self.from_variable, self.from_callable, self.delete or None)
        if not self.key or sum(source is not None for source in sources) != 1:
            raise UsageError("give a key, and one of from_connection, from_variable, from_callable and delete.")
        if self.delete:
            self.client.creds.set_user_secrets(self.key)
        else:
            self.client.creds.set_user_secrets(self.key, self._value())
        self.log.info("The secret %s was %s.", self.key, "deleted" if self.delete else "stored")
        return {"key": self.key}

    def _value(self) -> str:
        """Fetch the value and see to it that no log shows it.

        :raises UsageError: there is none.
        """
        if self.from_connection is not None:
            value = BaseHook.get_connection(self.from_connection).password
        elif self.from_variable is not None:
            value = Variable.get(self.from_variable)
        else:
            value = self.from_callable() if self.from_callable else None
        if not isinstance(value, str) or not value:
            raise UsageError(f"the value of the secret {self.key} is empty or no text; nothing was sent.")
        mask_secret(value)
        return value
