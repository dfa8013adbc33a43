"""control's targets in the words of log-ins."""

from __future__ import annotations

from dataclasses import replace

from blockgate.control import ports
from blockgate.dataplane import targets as convert
from tests.unit.dataplane.scene import ALICE, BOB, DISK, lun_view, target_view


def test_a_target_without_a_unit_still_shares_its_maps() -> None:
    good, bad = lun_view(3), lun_view(4)
    shared = {1: good, 2: bad}
    acls = tuple(ports.AclView(frozenset({name}), shared) for name in (ALICE, BOB))
    view = replace(target_view(luns=shared)[DISK], acls=acls)
    assert convert.without(view, {5}) is view
    left = convert.without(view, {4})
    assert (left.luns, left.ready) == ({1: good}, False)
    assert len(left.maps()) == 1 and all(acl.luns is left.luns for acl in left.acls)
    assert convert.volumes(left) == {3}
