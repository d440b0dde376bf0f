"""Errors, grouped by what the caller can do about them.

::

    PandaError
    |-- UsageError            the call itself is wrong: mend the arguments
    |-- ConfigError           no server, wrong URL, unreadable file: mend the configuration
    |   `-- ConnectionMissing     Airflow has no such connection, or cannot read it for the moment
    |-- AuthError             the server, or a look at the credential, refuses this identity
    |   |-- CredentialMissing     no token or proxy where one is needed
    |   |-- CredentialExpired     it was valid once: renew it
    |   `-- CredentialRefused     it was understood and rejected
    |-- TransportError        the network failed
    |   |-- NotDelivered          the request never reached the server: safe to repeat
    |   `-- OutcomeUnknown        the server may have acted: look before repeating
    |-- ServerError           the server broke (5xx, unreadable reply): it may have acted
    |   `-- NotCarriedOut         it says itself that it could not, mostly for its database: nothing was done
    |-- Refused               the server understood and said no
    |   |-- PermissionDenied      not the owner, no production role
    |   |-- NotFound              unknown, or still inside the registration window
    |   |-- InvalidArgument       missing, unknown or badly typed argument
    |   |-- WrongState            the command does not apply in this task status
    |   `-- DuplicateTask         the unique task name is taken; ``task_id`` names the holder
    |-- NotOurs               the task, or the memory of it, is somebody else's: nothing was done to it
    `-- TaskOutcome           a waited-for task did not end as wanted
        |-- TaskFailed            failed, exhausted or broken
        |-- TaskPartlyDone        finished: some jobs succeeded, some did not
        |-- TaskAborted           killed
        `-- WaitTimeout           the wait gave up: its deadline passed first, or the task did not move
            `-- ServerAway            the server could not be reached for longer than the step waits for it

Every error can be pickled, and prints what happened, the server's own words and what to do next.
"""

from __future__ import annotations

from typing import TypedDict, Unpack


class Said(TypedDict, total=False):
    """What every error can carry; see :class:`PandaError`."""

    endpoint: str
    server_says: str
    advice: str
    hopeless: bool


class PandaError(Exception):
    """Anything that went wrong with PanDA.

    :param message: what happened, to which task or file.
    :param endpoint: the server method that was called, as ``module/method``.
    :param server_says: the server's own words.
    :param advice: what to do next.
    :param hopeless: trying again is useless until a person changes something; each class has its own default.
    """

    advice_by_default = ""
    hopeless = False

    def __init__(self, message: str, **said: Unpack[Said]) -> None:
        super().__init__(message)
        self.endpoint = said.get("endpoint", "")
        self.server_says = said.get("server_says", "")
        self.advice = said.get("advice", "") or self.advice_by_default
        self.hopeless = said.get("hopeless", self.hopeless)

    def __str__(self) -> str:
        """Say what happened, what the server said and what to do, each as one sentence."""
        where = f"{self.endpoint}: " if self.endpoint else ""
        said = f" The server says: {self.server_says}." if self.server_says else ""
        advice = f" {self.advice}" if self.advice else ""
        return f"{where}{self.args[0]}{said}{advice}"


class UsageError(PandaError, ValueError):
    """The call itself is wrong; nothing was sent."""

    hopeless = True


class ConfigError(PandaError):
    """The configuration cannot work as it is."""

    hopeless = True


class ConnectionMissing(ConfigError):
    """Airflow has no such connection, or cannot read it for the moment, which it does not tell apart."""

    hopeless = False


class AuthError(PandaError):
    """The caller's identity is not accepted.

    :ivar file: path and state of the file that the credential was read from, if it was, before it was refused.
    """

    file: tuple[str, tuple[int, ...] | None] | None = None


class CredentialMissing(AuthError):
    """No token or proxy was given where the server needs one."""

    hopeless = True


class CredentialExpired(AuthError):
    """The token or proxy was valid once and is not any more."""


class CredentialRefused(AuthError):
    """The server understood the credential and rejected it."""


class TransportError(PandaError):
    """The network failed between here and the server."""


class NotDelivered(TransportError):
    """The request did not reach the server: nothing was done there."""


class OutcomeUnknown(TransportError):
    """The connection failed after the request was sent: the server may have acted on it."""


class ServerError(PandaError):
    """The server broke: a 5xx, an unreadable reply, a database error.

    :param retry_after: seconds the server asks to wait before the next attempt, if it says so.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **said: Unpack[Said]) -> None:
        super().__init__(message, **said)
        self.retry_after = retry_after


class NotCarriedOut(ServerError):
    """The server says that it could not do it, mostly because its database is down: nothing was done."""


class Refused(PandaError):
    """The server understood the request and said no.

    :param code: the return code in the reply's ``data``, if it carried one.
    """

    def __init__(self, message: str, *, code: int | None = None, **said: Unpack[Said]) -> None:
        super().__init__(message, **said)
        self.code = code


class PermissionDenied(Refused):
    """Neither the owner of the task nor a production user, or a task that is not registered yet."""

    hopeless = True
    advice_by_default = (
        "Use the identity that submitted the task or one with the production role; "
        "a task submitted minutes ago may not be registered yet."
    )


class NotFound(Refused):
    """The server does not know the task, or does not know it yet, or cannot reach its database."""

    advice_by_default = (
        "Check the ID; a task submitted minutes ago may not be registered yet, "
        "and the server says the same while its database is down."
    )


class InvalidArgument(Refused):
    """An argument is missing, unknown or of the wrong type."""

    hopeless = True


class WrongState(Refused):
    """The command does not apply to a task in its present status."""


class DuplicateTask(Refused):
    """The unique task name is taken by an active task.

    :param task_id: JediTaskID of the task that holds the name, if the server named it.
    """

    hopeless = True

    def __init__(
        self, message: str, *, code: int | None = None, task_id: int | None = None, **said: Unpack[Said]
    ) -> None:
        super().__init__(message, code=code, **said)
        self.task_id = task_id


class NotOurs(PandaError):
    """The task, or what a step remembers of it, belongs to another step, user or server: nothing was done to it."""

    hopeless = True


class TaskOutcome(PandaError):
    """A task that was waited for did not end as wanted.

    :param task_id: its JediTaskID.
    :param status: the last status seen, or an empty string if none was.
    :param fate: what the wait itself did about the task, as a sentence, or an empty string.
    """

    def __init__(
        self, message: str, *, task_id: int = 0, status: str = "", fate: str = "", **said: Unpack[Said]
    ) -> None:
        super().__init__(message, **said)
        self.task_id = task_id
        self.status = status
        self.fate = fate


class TaskFailed(TaskOutcome):
    """The task ended as failed, exhausted or broken."""


class TaskPartlyDone(TaskOutcome):
    """The task ended as finished: some of its jobs succeeded, some did not."""


class TaskAborted(TaskOutcome):
    """The task was killed."""


class WaitTimeout(TaskOutcome):
    """The wait gave up before the task ended: its deadline passed, or the task did not move."""


class ServerAway(WaitTimeout):
    """The server could not be reached for longer than the step waits for it."""


NOTHING_DONE = (UsageError, AuthError, NotDelivered, NotCarriedOut, Refused)
"""Errors that prove that the server did not act."""
