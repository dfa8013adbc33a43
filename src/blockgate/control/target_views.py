"""From an offer to what the data plane needs: handles, identities, secrets in the clear."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from blockgate.control.chap_secrets import chap_view
from blockgate.control.core import Core
from blockgate.control.offers import DiscoveryOffer, Offer, OfferedUnit
from blockgate.control.ports import AclView, DiscoveryView, LunView, TargetView
from blockgate.model.config import CacheMode, PoolKind
from blockgate.model.names import VolumeRef
from blockgate.model.targets import Lun
from blockgate.model.units import Provisioning, UnitIdentity

_BACKENDS = {PoolKind.DIRECTORY: "file", PoolKind.BLOCK: "block"}


def target_view(core: Core, offer: Offer) -> TargetView:
    """A target as log-ins need it. Blocks: it may read secrets from files."""
    target = offer.target
    known = {unit.volume.ref: _lun_view(core, unit) for unit in offer.units}
    by_acl = {target.view_key(acl): acl for acl in (None, *target.acls)}
    maps = {key: _view(known, target.view(acl)) for key, acl in by_acl.items()}
    acls = tuple(
        AclView(
            initiators=names,
            luns=maps[target.view_key(acl)],
            chap=chap_view(core, acl.chap, offer.chap),
            mutual=chap_view(core, acl.mutual, offer.chap),
        )
        for acl, names in zip(target.acls, offer.members, strict=True)
    )
    return TargetView(
        name=target.name,
        alias=target.alias,
        luns=maps[target.view_key(None)],
        acls=acls,
        open_access=target.open_access,
        chap=chap_view(core, target.chap, offer.chap),
        mutual=chap_view(core, target.mutual, offer.chap),
        portals=target.portals,
        parameters=target.parameters,
        ready=offer.ready,
        moved_to=target.moved_to,
    )


def discovery_view(core: Core, offer: DiscoveryOffer) -> DiscoveryView:
    """What discovery sessions have to prove. Blocks like `target_view`."""
    return DiscoveryView(
        chap=chap_view(core, offer.discovery.chap, offer.chap),
        mutual=chap_view(core, offer.discovery.mutual, offer.chap),
    )


def _view(known: Mapping[VolumeRef, LunView], luns: Iterable[Lun]) -> dict[int, LunView]:
    """A LUN map, of what is open."""
    return {
        lun.number: replace(known[lun.volume], read_only=lun.read_only)
        for lun in luns
        if lun.volume in known
    }


def _lun_view(core: Core, unit: OfferedUnit) -> LunView:
    volume = unit.volume
    pool = core.pool(volume.pool)
    assert pool is not None, "a wanted volume has its pool"
    face = volume.unit
    path = core.backstore(pool).locate(volume).path
    return LunView(
        uuid=volume.uuid,
        volume=str(volume.ref),
        handle=unit.handle,
        size=volume.size,
        block_size=volume.block_size,
        read_only=False,
        write_through=volume.cache is CacheMode.WRITE_THROUGH,
        identity=UnitIdentity(
            uuid=volume.uuid,
            vendor=face.vendor,
            product=face.product,
            revision=face.revision,
            serial=face.serial or volume.uuid,
            wwn=volume.wwn,
            scsi_id=face.scsi_id,
            backend=_BACKENDS[pool.kind] + path,
            removable=face.removable,
            physical_block_size=face.physical_block_size,
            thin=face.provisioning is Provisioning.THIN,
            unmap_zeroes_data=face.unmap_zeroes_data,
        ),
        space=path if pool.kind is PoolKind.DIRECTORY else "",
    )
