"""What requests about iSCSI hold: targets, LUNs, ACLs, groups, CHAP users.

Entries are those of a document, and only the model knows what is valid in them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BeforeValidator, Field, SecretStr, StrictBool, StrictInt, StrictStr

from blockgate.api.requests import Request
from blockgate.model.names import (
    chap_user,
    group_name,
    lun_number,
    target_name,
)
from blockgate.model.target_entries import parse_moved_to, parse_user
from blockgate.model.targets import Subject, parse_initiators, parse_portals


def _as_is(parse: Any) -> BeforeValidator:
    """The value as it came, once the model has found it to be valid."""

    def check(value: object) -> object:
        if value is not None:
            parse(value)
        return value

    return BeforeValidator(check)


TargetPart = Annotated[str, Path(), BeforeValidator(target_name)]
SubjectPart = Annotated[
    str,
    Path(description="an initiator's name, or group:NAME"),
    BeforeValidator(lambda text: str(Subject.parse(text))),
]
LunPart = Annotated[int, Path(), BeforeValidator(lun_number)]
GroupPart = Annotated[str, Path(), BeforeValidator(group_name)]
ChapPart = Annotated[str, Path(), BeforeValidator(chap_user)]

UserName = Annotated[
    StrictStr, _as_is(parse_user), Field(description="a CHAP user; empty: none asked for")
]
Portals = Annotated[
    list[StrictStr],
    _as_is(parse_portals),
    Field(description="addresses, each with a port if it is not 3260; empty: every listener"),
]
MovedTo = Annotated[
    StrictStr,
    _as_is(parse_moved_to),
    Field(description="the portal that initiators are sent to; empty: they are served here"),
]
Initiators = Annotated[list[StrictStr], _as_is(parse_initiators)]
Parameters = Annotated[
    dict[str, StrictBool | StrictInt | StrictStr],
    Field(description="by name, as `blockgate target parameters` lists them"),
]


class LunEntry(Request):
    """A volume under a number."""

    lun: Annotated[StrictInt, _as_is(lun_number)]
    volume: StrictStr
    read_only: StrictBool = False


Luns = Annotated[list[LunEntry], Field(max_length=256)]


class AclEntry(Request):
    """Whom to let in: one of `initiator` and `group`. Without `luns` it is the target's view."""

    initiator: StrictStr | None = None
    group: StrictStr | None = None
    luns: Luns | None = None
    read_only: StrictBool = False
    chap: UserName = ""
    mutual_chap: UserName = ""


class AclAdd(AclEntry):
    """Whom to let in. Sessions that have less by it, or have to prove themselves now, take
    `force`."""

    force: StrictBool = False


class _TargetValues(Request):
    alias: StrictStr | None = None
    access: Literal["open", "closed"] | None = None
    luns: Luns | None = None
    acls: Annotated[list[AclEntry], Field(max_length=1000)] | None = None
    chap: UserName | None = None
    mutual_chap: UserName | None = None
    portals: Portals | None = None
    moved_to: MovedTo | None = None
    parameters: Parameters | None = None


class TargetCreate(_TargetValues):
    """A new target. Nobody gets in until an ACL names somebody, or `access` is "open"."""

    name: Annotated[StrictStr, _as_is(target_name)]


class TargetUpdate(_TargetValues):
    """What is given is changed; a list replaces the former one, parameters are changed by name."""

    force: StrictBool = False


class LunAdd(Request):
    """A volume to map; without a `lun` under the least free number.

    With `acl`, in the view of that ACL (an initiator's name, or group:NAME), which is its own from
    then on, and begins with the target's LUNs.
    """

    volume: StrictStr
    lun: Annotated[StrictInt, _as_is(lun_number)] | None = None
    read_only: StrictBool = False
    acl: Annotated[StrictStr, _as_is(Subject.parse)] | None = None


class AclUpdate(Request):
    """What is given is changed. `target_luns`: its view is the target's from now on."""

    luns: Luns | None = None
    target_luns: StrictBool = False
    read_only: StrictBool | None = None
    chap: UserName | None = None
    mutual_chap: UserName | None = None
    force: StrictBool = False


class GroupCreate(Request):
    """A name for initiators."""

    name: StrictStr
    initiators: Initiators = Field(default_factory=list)


class GroupUpdate(Request):
    """Initiators to put in, and to take out."""

    add: Initiators = Field(default_factory=list)
    remove: Initiators = Field(default_factory=list)
    force: StrictBool = False


class DiscoverySet(Request):
    """The CHAP users that discovery asks for; empty: none. What is left out stays as it is."""

    chap: UserName | None = None
    mutual_chap: UserName | None = None


class ChapSecret(Request):
    """The secret itself, `file:/PATH` on the gateway, or none to have one made."""

    secret: Annotated[SecretStr, Field(max_length=4200)] | None = None

    def plain(self) -> str | None:
        """The secret, in the clear."""
        return self.secret.get_secret_value() if self.secret is not None else None
