"""Who asks, and how far that caller's word reaches."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from blockgate.model.errors import Forbidden


class Role(IntEnum):
    """Each role includes those before it."""

    VIEW = 1
    OPERATE = 2
    ADMINISTER = 3


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `identity` is what the command log shows."""

    identity: str
    role: Role

    def require(self, role: Role) -> None:
        """Raise `Forbidden` unless this caller's role reaches `role`."""
        if self.role < role:
            raise Forbidden(
                f"{self.identity} has the role '{self.role.name.lower()}', and this takes "
                f"'{role.name.lower()}'.",
                "Ask an administrator of this gateway to do it or to grant that role.",
            )


DAEMON = Caller("blockgated", Role.ADMINISTER)
"""The daemon itself, for what it does without being asked."""
