"""What steps, plans of waits and targets of kills store: read whatever version wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


def known(kind: Any, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out of a stored object what this version's dataclass has no field for: another version wrote it."""
    return {name: stored[name] for name in kind.__dataclass_fields__ if name in stored}


@dataclass(frozen=True)
class Account:
    """Whom which server takes the caller for.

    :param server: scheme, host and port; empty if unknown.
    :param user: as the credential names its owner, the same after each renewal; empty if that cannot be told.
    """

    server: str = ""
    user: str = ""

    @classmethod
    def from_json(cls, stored: Mapping[str, Any] | None) -> Account:
        """Read the fields of an account, whatever version wrote them."""
        return cls(**known(cls, stored or {}))

    def differs_from(self, other: Account) -> bool:
        """Whether it is another one; what is unknown is not compared."""
        pairs = ((self.server, other.server), (self.user, other.user))
        return any(one and two and one != two for one, two in pairs)

    def __str__(self) -> str:
        """Name user and server."""
        return f"{self.user or 'an unknown user'} at {self.server or 'an unknown server'}"


UNKNOWN = Account()
"""The account of what was stored before there were any."""
