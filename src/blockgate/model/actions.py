"""What a change does to one thing of the configuration, and how people read it."""

from __future__ import annotations

from enum import StrEnum


class Action(StrEnum):
    """The word for it, as it stands in JSON."""

    CREATE = "create"
    ADOPT = "adopt"
    REGISTER = "register"
    """Data and label are there already."""
    UPDATE = "update"
    RENAME = "rename"
    REMOVE = "remove"
    FORGET = "forget"
    """Data and label stay."""
    MISSING = "missing"
    """Its data cannot come back."""

    @property
    def sign(self) -> str:
        """What stands before it in a list of differences."""
        return _SIGNS[self]

    @property
    def replaces(self) -> bool:
        """Whether there were values before, which are shown beside the new ones."""
        return self in (Action.UPDATE, Action.RENAME)


_SIGNS = {
    Action.CREATE: "+",
    Action.ADOPT: "+",
    Action.REGISTER: "+",
    Action.UPDATE: "~",
    Action.RENAME: "~",
    Action.REMOVE: "-",
    Action.FORGET: "-",
    Action.MISSING: "!",
}
