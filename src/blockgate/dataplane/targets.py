"""control's targets in the words of log-ins and of the engine: pure conversions."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from typing import Final

from blockgate.control import ports
from blockgate.dataplane.wire import Luns
from blockgate.iscsi import OPEN, Acl, Authentication, Credentials, Offer, Redirect, Target
from blockgate.model.identity import wwn_of
from blockgate.model.parameters import TargetParameters
from blockgate.model.units import Unit, UnitIdentity
from blockgate.scsi import report_luns

# One target portal group each; portals differ only in their addresses.
PORTAL_GROUP: Final = 1
# Unsolicited data is taken in one buffer of the engine's.
FIRST_BURST_BYTES: Final = 256 << 10
_DIGESTS: Final[Mapping[str, str]] = {"none": "None", "crc32c": "CRC32C"}


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine takes at most: a data segment, and the unsolicited data of a command."""

    segment_bytes: int = 256 << 10
    first_burst_bytes: int = FIRST_BURST_BYTES


def discovery(view: ports.DiscoveryView) -> Authentication:
    """What discovery sessions have to show."""
    return _authentication(view.chap, view.mutual)


def target(view: ports.TargetView, limits: EngineLimits) -> Target:
    """One target as log-ins see it. Its ACLs keep their order: a grant's number is an index. More
    than the engine takes is not offered, whatever the parameters say."""
    return Target(
        name=view.name,
        alias=view.alias,
        acls=tuple(Acl(acl.initiators, _authentication(acl.chap, acl.mutual)) for acl in view.acls),
        open_access=view.open_access,
        authentication=_authentication(view.chap, view.mutual),
        portals=tuple(str(portal) for portal in view.portals),
        portal_group=PORTAL_GROUP,
        offer=_offer(view.parameters, limits),
        ready=view.ready,
        moved=Redirect(str(view.moved_to)) if view.moved_to is not None else None,
    )


def volumes(view: ports.TargetView) -> set[int]:
    """The handles of all volumes that a target maps for anybody."""
    return {lun.handle for luns in view.maps() for lun in luns.values()}


def exported(view: ports.ExportView) -> ports.LunView:
    """The volume of an export as a unit that no target maps. NBD asks nobody who it is; a target
    that comes to map it says so."""
    face = Unit()
    return ports.LunView(
        uuid=view.uuid,
        volume=f"of export {view.name}",
        handle=view.handle,
        size=view.size,
        block_size=view.block_size,
        read_only=False,
        write_through=view.write_through,
        identity=UnitIdentity(
            vendor=face.vendor,
            product=face.product,
            revision=face.revision,
            serial=view.uuid,
            uuid=view.uuid,
            wwn=wwn_of(view.uuid),
        ),
    )


def without(view: ports.TargetView, failed: Container[int]) -> ports.TargetView:
    """The target without volumes that have no unit. Nobody logs in meanwhile, and would take a
    disk that is late for one that is gone."""
    if not any(volume in failed for volume in volumes(view)):
        return view
    left = {id(luns): _left(luns, failed) for luns in view.maps()}
    acls = tuple(replace(acl, luns=left[id(acl.luns)]) for acl in view.acls)
    return replace(view, luns=left[id(view.luns)], acls=acls, ready=False)


def _left(luns: Mapping[int, ports.LunView], failed: Container[int]) -> dict[int, ports.LunView]:
    return {number: lun for number, lun in luns.items() if lun.handle not in failed}


def granted_luns(view: ports.TargetView, number: int) -> Mapping[int, ports.LunView]:
    """The LUN map that goes with a grant of this number."""
    return view.luns if number == OPEN else view.acls[number].luns


def switched(
    before: Mapping[int, ports.LunView], after: Mapping[int, ports.LunView]
) -> frozenset[int]:
    """The numbers that are another disk afterwards. One that was opened anew is the same disk."""
    return frozenset(
        number
        for number in before.keys() & after.keys()
        if before[number].uuid != after[number].uuid
    )


def target_port(name: str) -> str:
    """SCSI's name of a target's one port (RFC 7143 4.4.2)."""
    return f"{name},t,0x{PORTAL_GROUP:04x}"


def lun_map(luns: Mapping[int, ports.LunView]) -> Luns:
    """A session's map for the engine."""
    fields = {
        report_luns.lun_field(number): (lun.handle, lun.read_only) for number, lun in luns.items()
    }
    return Luns(fields, report_luns.canned(fields))


def _authentication(chap: ports.ChapView | None, mutual: ports.ChapView | None) -> Authentication:
    return Authentication(
        (Credentials(chap.user, chap.secret),) if chap is not None else (),
        Credentials(mutual.user, mutual.secret) if mutual is not None else None,
    )


def _offer(parameters: TargetParameters, limits: EngineLimits) -> Offer:
    return Offer(
        header_digests=tuple(_DIGESTS[one] for one in parameters.header_digest),
        data_digests=tuple(_DIGESTS[one] for one in parameters.data_digest),
        max_connections=parameters.max_connections,
        initial_r2t=parameters.initial_r2t,
        immediate_data=parameters.immediate_data,
        max_recv_data=min(parameters.max_recv_data_segment_length, limits.segment_bytes),
        max_burst=parameters.max_burst_length,
        first_burst=min(parameters.first_burst_length, limits.first_burst_bytes),
        max_outstanding_r2t=parameters.max_outstanding_r2t,
        time2wait=parameters.default_time2wait,
        time2retain=parameters.default_time2retain,
    )
