"""iSCSI targets: names, LUN maps, ACLs, parameters, and what must fit together."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from blockgate.model.config import Configuration, Pool, PoolKind, Volume
from blockgate.model.document import parse_document, render_document
from blockgate.model.errors import InvalidInput, NotFound
from blockgate.model.identity import new_uuid
from blockgate.model.names import (
    GroupName,
    PoolName,
    VolumeName,
    VolumeRef,
    chap_user,
    initiator_name,
    lun_number,
    target_name,
)
from blockgate.model.parameters import PARAMETERS, TargetParameters, parse_parameter
from blockgate.model.target_entries import parse_target, render_target
from blockgate.model.targets import (
    Group,
    Lun,
    Subject,
    Target,
    check_portals,
    members,
    parse_portals,
)
from blockgate.model.units import Unit

NAME = "iqn.2026-11.org.example:web"
HOST = "iqn.1994-05.com.example:host"
OTHER = "iqn.1994-05.com.example:other"
A, B = VolumeRef.parse("main/a"), VolumeRef.parse("main/b")


def target(**values: Any) -> Target:
    return parse_target({"name": NAME, **values}, "targets[0]").onto(None)


def configuration(*targets: Target, groups: tuple[Group, ...] = ()) -> Configuration:
    pool = Pool(PoolName("main"), PoolKind.DIRECTORY, "/srv/main")
    volumes = [Volume(pool.name, VolumeName(name), new_uuid(), 1 << 20) for name in "ab"]
    return Configuration.of(
        {pool.name: pool},
        {volume.ref: volume for volume in volumes},
        {},
        {one.name: one for one in targets},
        {group.name: group for group in groups},
    )


@pytest.mark.parametrize(
    "name",
    [
        NAME,
        "iqn.2001-04.com.example",
        "iqn.1991-05.com.microsoft:host_1.corp.example",
        "eui.02004567a425678d",
        "naa.52004567ba64678d",
        "naa.62004567ba64678d0123456789abcdef",
    ],
)
def test_names_of_rfc_7143(name: str) -> None:
    assert target_name(name) == initiator_name(name) == name
    assert target_name(name.upper().replace("IQN", "iqn")) == name


@pytest.mark.parametrize(
    "name",
    [
        "web",
        "iqn.2026-13.org.example:web",
        "iqn.2026-11.:web",
        "iqn.2026-11.org.example:",
        "iqn.2026-11.org.example:a b",
        "iqn.2026-11.org.example:a/b",
        "iqn.2026-11.org.example:ä",
        "eui.02004567a425678",
        "naa.x2004567ba64678d",
        NAME + "x" * 223,
        NAME + "\n",
        7,
    ],
)
def test_what_is_no_iscsi_name(name: object) -> None:
    with pytest.raises(InvalidInput):
        target_name(name)


def test_other_names() -> None:
    assert chap_user(HOST) == HOST
    assert lun_number("16383") == 16383
    for wrong in (-1, 16384, "x", True):
        with pytest.raises(InvalidInput):
            lun_number(wrong)
    assert str(Subject.parse("group:db")) == "group:db"
    assert Subject.parse(HOST.upper()).initiator == HOST


def test_a_view_is_the_target_s_or_the_acl_s_own() -> None:
    one = target(
        luns=[{"lun": 1, "volume": "main/b", "read_only": True}, {"lun": 0, "volume": "main/a"}],
        acls=[
            {"initiator": HOST, "read_only": True},
            {"group": "db", "luns": [{"lun": 5, "volume": "main/a"}]},
        ],
    )
    assert one.luns == (Lun(0, A), Lun(1, B, True)), "in order"
    host, group = one.acls
    assert one.view(host) == (Lun(0, A, True), Lun(1, B, True))
    assert one.view(group) == (Lun(5, A),)
    assert one.view(None) == one.luns
    assert {(lun.volume, lun.read_only) for lun in one.mappings()} == {
        (A, True),
        (B, True),
        (A, False),
    }
    many = [*one.acls, *target(acls=[{"initiator": f"{HOST}{n}"} for n in range(99)]).acls]
    shared = replace(one, acls=tuple(many)).mappings()
    assert len(shared) == 5, "a view that ACLs share is looked at once"
    opened = replace(one, open_access=True)
    assert Lun(1, B, True) in opened.mappings()
    assert one.volumes() == {A, B}
    assert one.with_volume(A, None).acls[1].luns == ()
    assert one.with_volume(A, VolumeRef.parse("main/c")).acls[1].luns == (
        Lun(5, VolumeRef.parse("main/c")),
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"luns": [{"lun": 0, "volume": "main/a"}, {"lun": 0, "volume": "main/b"}]}, "already"),
        ({"luns": [{"lun": 0, "volume": "main/a"}, {"lun": 1, "volume": "main/a"}]}, "twice"),
        ({"luns": [{"volume": "main/a"}]}, "'lun' is missing"),
        ({"luns": [{"lun": 99999, "volume": "main/a"}]}, r"luns\[0\].lun"),
        ({"acls": [{"initiator": HOST}, {"initiator": HOST.upper()}]}, "already"),
        ({"acls": [{}]}, "initiator or for a group"),
        ({"acls": [{"initiator": HOST, "group": "db"}]}, "initiator or for a group"),
        ({"acls": [{"initiator": HOST, "mutual_chap": "x"}]}, "initiator's"),
        ({"chap": "x", "mutual_chap": "x"}, "both directions"),
        ({"access": "half"}, "'open' or 'closed'"),
        ({"portals": ["0.0.0.0"]}, "portal"),
        ({"portals": ["gw.example.org"]}, "portal"),
        ({"parameters": {"queue_depth": 0}}, "1 to 1024"),
        ({"parameters": {"speed": 1}}, "known"),
        ({"parameters": {"first_burst_length": 1048577}}, "at most as large"),
        ({"alias": "a\nb"}, "alias"),
        ({"secret": "x"}, "known"),
    ],
)
def test_what_is_no_target(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        target(**values)
    assert re.search(reason, str(caught.value)), str(caught.value)


def test_portals_are_addresses() -> None:
    with pytest.raises(InvalidInput, match="no valid port") as refused:
        parse_portals(["192.0.2.1:bad"])
    assert "192.0.2.10:3260" in refused.value.hint and "unix" not in refused.value.hint
    found = parse_portals(["[2001:db8::1]:3261", "192.0.2.1", "192.0.2.1:3260"])
    assert [str(portal) for portal in found] == ["192.0.2.1:3260", "[2001:db8::1]:3261"]
    assert [str(portal) for portal in parse_portals(["[::1]"])] == ["[::1]:3260"]
    for bare in ("::1:3260", "2001:db8::1"):
        with pytest.raises(InvalidInput, match="without brackets"):
            parse_portals([bare])


def test_no_portal_is_an_address_of_many_machines() -> None:
    for many in ("224.0.0.1", "[ff02::1]:3260", "255.255.255.255"):
        for new in (target(portals=["192.0.2.1", many]), target(moved_to=many)):
            with pytest.raises(InvalidInput, match="of many machines"):
                check_portals(None, new)
            with pytest.raises(InvalidInput, match="of many machines"):
                check_portals(target(portals=["192.0.2.1"]), new)
            check_portals(new, replace(new, alias="x"))  # an earlier version took it


def test_what_spans_entries() -> None:
    configuration(target(luns=[{"lun": 0, "volume": "main/a"}]))
    with pytest.raises(NotFound, match="main/z, which does not exist"):
        configuration(target(luns=[{"lun": 0, "volume": "main/z"}]))
    grouped = target(acls=[{"group": "db"}, {"group": "web"}])
    with pytest.raises(NotFound, match="group db, which does not exist"):
        configuration(grouped)
    db, web = (Group(GroupName(name), (initiator_name(HOST),)) for name in ("db", "web"))
    with pytest.raises(InvalidInput, match="member of group:db and of group:web"):
        configuration(grouped, groups=(db, web))


def test_an_acl_of_its_own_comes_before_those_of_groups_wherever_it_stands() -> None:
    host, other = initiator_name(HOST), initiator_name(OTHER)
    db = Group(GroupName("db"), (host, other))
    web = Group(GroupName("web"), (host,))
    groups = {group.name: group for group in (db, web)}
    both = target(acls=[{"group": "db"}, {"initiator": HOST}, {"group": "web"}])
    assert members(both, groups) == [frozenset([other]), frozenset([host]), frozenset()]
    configuration(both, groups=(db, web))


def test_a_document_carries_all_of_it() -> None:
    one = target(
        alias="the web",
        access="open",
        luns=[{"lun": 3, "volume": "main/a", "read_only": True}],
        acls=[
            {"initiator": HOST, "chap": "host", "mutual_chap": "gate"},
            {"group": "db", "luns": [], "read_only": True},
        ],
        chap="any",
        portals=["192.0.2.1"],
        moved_to="192.0.2.2",
        parameters={"queue_depth": 32, "header_digest": "crc32c", "initial_r2t": "yes"},
    )
    db = Group("db", (initiator_name(OTHER),))  # type: ignore[arg-type]
    rendered = render_document(configuration(one, groups=(db,)))
    parsed = parse_document(rendered)
    assert [entry.onto(None) for entry in parsed.targets] == [one]
    assert [entry.onto(None) for entry in parsed.groups] == [db]
    assert render_target(parsed.targets[0].onto(target(alias="x", chap="y"))) == render_target(one)
    empty = parse_target({"name": NAME}, "t")
    assert empty.onto(one) == one, "what is not said stays"
    given = {"name": NAME, "chap": "", "moved_to": "", "parameters": {}}
    assert parse_target(given, "t").onto(one) == replace(
        one, chap=None, moved_to=None, parameters=TargetParameters()
    )


def test_every_parameter_is_in_the_table() -> None:
    assert set(PARAMETERS) == set(TargetParameters().plain())
    for name, value in TargetParameters().plain().items():
        assert parse_parameter(name, value) == getattr(TargetParameters(), name)
        assert PARAMETERS[name].takes and PARAMETERS[name].about


@pytest.mark.parametrize(
    "values",
    [
        {"vendor": ""},
        {"vendor": "NINECHARS"},
        {"product": "ünlaut"},
        {"serial": " x"},
        {"scsi_id": "12345678901234567"},
        {"physical_block_size": 1024},
        {"provisioning": "thick"},
        {"removable": "yes"},
    ],
)
def test_what_is_no_scsi_face(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Unit().changed(values)


def test_a_scsi_face_in_a_document() -> None:
    document = {"volumes": [{"name": "main/a", "scsi": {"vendor": "IET", "removable": True}}]}
    (entry,) = parse_document(document).volumes
    assert Unit().changed(entry.scsi or {}).unusual() == {"vendor": "IET", "removable": True}
    with pytest.raises(InvalidInput, match=r"volumes\[0\].scsi"):
        parse_document({"volumes": [{"name": "main/a", "scsi": {"vendor": ""}}]})
    with pytest.raises(InvalidInput, match="physical block"):
        Volume(
            *(PoolName("main"), VolumeName("a"), new_uuid(), 4096, 4096),
            unit=Unit(physical_block_size=512),
        )
