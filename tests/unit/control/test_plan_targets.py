"""The plan of targets: withdrawn before volumes close, published when they are open."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from blockgate.backstores.registry import capabilities_of
from blockgate.control.offers import Offer, ends, may_end, offer_of, takes_away
from blockgate.control.plan import plan
from blockgate.control.ports import SessionStatus
from blockgate.control.state import Desired, Observed
from blockgate.control.steps import EndSessions, PublishTargets, SetDiscovery
from blockgate.control.target_guard import disturbed
from blockgate.model.config import Configuration
from blockgate.model.identity import new_uuid
from blockgate.model.names import InitiatorName, TargetName, VolumeName
from blockgate.model.target_entries import parse_target
from blockgate.model.targets import Discovery, Target
from blockgate.model.units import Unit
from tests.unit.control.test_plan import MAIN, A, names, observed, opened

NAME = TargetName("iqn.2026-11.org.example:t")
HOST = InitiatorName("iqn.1994-05.com.example:host")
LUN = {"lun": 0, "volume": "main/a"}


def target(**values: Any) -> Target:
    given = {"luns": [LUN], "acls": [{"initiator": HOST}], **values}
    return parse_target({"name": NAME, **given}, "t").onto(None)


def desired(*targets: Target, volume: Any = A, **more: Any) -> Desired:
    config = Configuration.of(
        {MAIN.name: MAIN}, {volume.ref: volume}, {}, {t.name: t for t in targets}, **more
    )
    return Desired(config)


def served(one: Target) -> Observed:
    """All as this target wants it."""
    have = observed(A, opened=opened(A))
    offer = offer_of(NAME, desired(one), have)
    assert offer is not None and offer.ready
    return replace(have, offers={NAME: offer})


def run(want: Desired, have: Observed) -> list[str]:
    return names(plan(want, have, capabilities_of))


def test_what_is_as_wanted_needs_nothing() -> None:
    assert run(desired(target()), served(target())) == []


def test_it_is_published_when_its_volumes_are_open() -> None:
    want = desired(target())
    assert run(want, observed(A)) == ["OpenVolume", "SwapGate", "PublishTargets"]
    # Before its pool's turn has come, it is known, and not ready.
    first = plan(want, observed(A), capabilities_of, scope=(), targets=True)
    assert first == ((PublishTargets((NAME,)),),)
    offer = offer_of(NAME, want, observed(A))
    assert offer is not None and not offer.ready and offer.units == ()
    failed = replace(observed(A), unavailable=frozenset([A.uuid]))
    offer = offer_of(NAME, want, failed)
    assert offer is not None and offer.ready and offer.units == ()


def test_a_volume_is_taken_away_before_it_closes() -> None:
    steps = run(desired(target(luns=[])), served(target()))
    assert steps == ["PublishTargets", "CloseVolume"], "nobody's session ends"
    steps = run(desired(), served(target()))
    assert steps == ["PublishTargets", "EndSessions", "CloseVolume"]


def test_a_volume_that_is_opened_otherwise_takes_its_sessions_along() -> None:
    other = replace(A, unit=Unit(vendor="OTHER"))
    result = plan(desired(target(), volume=other), served(target()), capabilities_of)
    assert names(result) == [
        "PublishTargets",
        "EndSessions",
        "PublishTargets",
        "CloseVolume",
        "WriteLabel",
        "SyncPool",
        "OpenVolume",
        "SwapGate",
        "PublishTargets",
    ]
    (first,), (ended,), (second,) = result[:3]
    (last,) = result[-1]
    closing = frozenset([A.uuid])
    assert isinstance(first, PublishTargets) and first.paused == closing
    assert isinstance(second, PublishTargets) and second.withheld == closing
    assert isinstance(ended, EndSessions) and ended.closing == closing
    assert isinstance(last, PublishTargets) and last.reopened == closing


def test_whom_a_change_ends() -> None:
    opened_up = target(access="open", acls=[])
    for after, steps in (
        (target(acls=[]), ["PublishTargets", "EndSessions"]),
        (target(access="open", acls=[]), ["PublishTargets"]),
        (target(acls=[{"initiator": HOST, "chap": "u"}]), ["PublishTargets", "EndSessions"]),
        (target(alias="x"), ["PublishTargets"]),
    ):
        assert run(desired(after), served(target())) == steps
    assert run(desired(target()), served(opened_up)) == ["PublishTargets", "EndSessions"]
    # Who came in by open access, and is asked for more from now on.
    for entry, ended in (
        ({"chap": "u"}, ["EndSessions"]),
        ({"read_only": True}, []),
        ({"luns": []}, []),
    ):
        after = target(access="open", acls=[{"initiator": HOST, **entry}])
        assert run(desired(after), served(opened_up)) == ["PublishTargets", *ended]


def test_whom_another_volume_of_the_same_name_disturbs() -> None:
    session = SessionStatus(
        7, 0, "", "192.0.2.1:7", "", 0.0, 0, 0, "full-feature", None, "iscsi", HOST, NAME, 7
    )
    before = desired(target()).config
    for volume, found in ((replace(A, uuid=new_uuid()), [session]), (A, [])):
        after = desired(target(), volume=volume).config
        assert disturbed(before, after, [session]) == found
        offers = [offer_of(NAME, Desired(config), observed()) for config in (before, after)]
        assert takes_away(*offers) is may_end(*offers) is bool(found)  # type: ignore[arg-type]


def test_who_is_sent_away_for_another_disk_is_not_let_in_before_it_is_there() -> None:
    other = replace(A, uuid=new_uuid())
    want, have = desired(target(), volume=other), served(target())
    offer = offer_of(NAME, want, have)
    assert offer is not None and not offer.ready
    failed = replace(have, unavailable=frozenset([other.uuid]))
    offer = offer_of(NAME, want, failed)
    assert offer is not None and offer.ready, "nothing is on its way"
    # One that is on its way beside what there is sends nobody away.
    new = replace(A, name=VolumeName("b"), uuid=new_uuid())
    one = target(luns=[LUN, {"lun": 1, "volume": "main/b"}])
    config = Configuration.of({MAIN.name: MAIN}, {v.ref: v for v in (A, new)}, {}, {NAME: one})
    offer = offer_of(NAME, Desired(config), have)
    assert offer is not None and offer.ready


def test_growth_is_shown_and_ends_nothing() -> None:
    larger = replace(A, size=2 << 20)
    steps = run(desired(target(), volume=larger), served(target()))
    assert steps[-3:] == ["ResizeVolume", "SwapGate", "PublishTargets"]
    assert steps.count("PublishTargets") == 1


def test_read_only_mappings_let_data_be_opened_read_only() -> None:
    want = desired(target(acls=[{"initiator": HOST, "read_only": True}]))
    (step,) = plan(want, observed(A), capabilities_of)[0]
    assert step.may_be_read_only  # type: ignore[union-attr]
    writable = served(target())
    read_only = {A.uuid: opened(A, read_only=True)}
    steps = run(desired(target()), replace(writable, opened=read_only))
    assert "CloseVolume" in steps and "OpenVolume" in steps


def test_discovery_and_secrets_are_looked_at_when_they_are_meant() -> None:
    want = desired(discovery=Discovery(chap="u"))  # type: ignore[arg-type]
    assert run(want, observed(A)) == ["SetDiscovery"]
    assert plan(want, observed(A), capabilities_of, scope=[A.uuid]) == ()
    asks = target(acls=[{"initiator": HOST, "chap": "u"}])
    have = served(asks)
    rotated = replace(desired(asks), chap={"u": "v1:new"})
    assert run(rotated, have) == ["PublishTargets"], "another secret ends no session"
    assert SetDiscovery() == SetDiscovery()


def test_offers_compare_what_matters() -> None:
    before = Offer(target(), (frozenset([HOST]),), (), (), True, {A.ref: A.uuid})
    assert not takes_away(before, before) and not may_end(before, before)
    assert takes_away(before, None) and ends(before, None, HOST)
    stranger = "iqn.1994-05.com.example:nobody"
    assert before.terms(before.acl(stranger)).chap is None and ends(before, before, stranger)
