"""Invariants of the configuration, and the identity of volumes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockgate.model.config import (
    Configuration,
    Export,
    Pool,
    PoolKind,
    Volume,
    check_wwids,
    parse_allow,
)
from blockgate.model.errors import InvalidInput, NotFound
from blockgate.model.identity import new_uuid, wwn_of
from blockgate.model.names import ExportName, PoolName, VolumeName, VolumeRef
from blockgate.model.units import Unit

MAIN = Pool(PoolName("main"), PoolKind.DIRECTORY, "/srv/main")
DISK = Pool(PoolName("disk"), PoolKind.BLOCK, "/dev/sdb")


def volume(name: str = "a", pool: str = "main", **more: object) -> Volume:
    fields: dict[str, object] = {"uuid": new_uuid(), "size": 4096, **more}
    return Volume(PoolName(pool), VolumeName(name), **fields)  # type: ignore[arg-type]


def config(pools: list[Pool], volumes: list[Volume], exports: list[Export]) -> Configuration:
    return Configuration.of(
        {p.name: p for p in pools}, {v.ref: v for v in volumes}, {e.name: e for e in exports}
    )


def test_the_wwn_is_the_one_that_lio_makes() -> None:
    # The pair that the LIO documentation shows.
    uuid = "653e4072-8aad-4e9d-900e-4059f0e19e7e"
    assert wwn_of(uuid) == "6001405653e40728aad4e9d900e4059f"


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 4095},
        {"size": 4096 + 512, "block_size": 4096},
        {"size": 0},
        {"block_size": 1024, "size": 4096},
        {"uuid": "653E4072-8AAD-4E9D-900E-4059F0E19E7E"},
        {"uuid": "x"},
        {"adopted": True},
        {"path": "/x"},
        {"name": "../x"},
    ],
)
def test_a_volume_that_cannot_be(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput):
        volume(**fields)  # type: ignore[arg-type]


def test_what_entries_owe_each_other() -> None:
    a = volume()
    good = config([MAIN], [a], [Export(ExportName("e"), a.ref)])
    assert good.volumes[a.ref] is a
    with pytest.raises(NotFound, match="does not exist"):
        config([], [a], [])
    with pytest.raises(NotFound, match="does not exist"):
        config([MAIN], [], [Export(ExportName("e"), VolumeRef.parse("main/a"))])
    with pytest.raises(InvalidInput, match="same identity"):
        config([MAIN], [a, volume("b", uuid=a.uuid)], [])
    with pytest.raises(InvalidInput, match="same place"):
        config([MAIN, Pool(PoolName("again"), PoolKind.DIRECTORY, "/srv/main")], [], [])
    with pytest.raises(InvalidInput, match="holds one volume"):
        config([DISK], [volume("a", "disk"), volume("b", "disk")], [])


def test_no_volume_becomes_to_initiators_what_another_one_is() -> None:
    iet = Unit(vendor="IET", scsi_id="149455403f160c00")
    a, b, c = volume("a", unit=iet), volume("b", unit=iet), volume("c")

    def check(before: list[Volume], after: list[Volume]) -> None:
        check_wwids({v.ref: v for v in before}, {v.ref: v for v in after})

    for before in ([a], [], [a, replace(b, unit=Unit())]):
        with pytest.raises(InvalidInput, match="both have vendor IET") as refused:
            check(before, [a, b])
        assert "Give main/b another" in refused.value.hint
    check([a], [a, replace(b, unit=replace(iet, vendor="OTHER"))])
    check([a, c], [replace(a, unit=Unit()), replace(c, unit=iet)])
    check([a], [replace(a, name=VolumeName("renamed"))])
    # A pair that an earlier version took: it can be read, and everything else be changed.
    config([MAIN], [a, b], [])
    check([a, b], [a, b, c])
    check([a, b], [a, replace(b, size=8192, name=VolumeName("renamed"))])
    with pytest.raises(InvalidInput, match="main/a and main/c"):
        check([a, b, c], [a, b, replace(c, unit=iet)])


def test_pools_have_plain_absolute_paths() -> None:
    for bad in ("srv", "/srv/../etc", "/srv/", "/srv//x", ""):
        with pytest.raises(InvalidInput):
            Pool(PoolName("p"), PoolKind.DIRECTORY, bad)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        config([MAIN], [], []).pools[PoolName("x")] = MAIN  # type: ignore[index]


def test_allow_lists_are_sorted_and_without_repetition() -> None:
    networks = parse_allow(["2001:db8::/32", "192.0.2.9", "10.0.0.0/8", "192.0.2.9/32"])
    assert [str(n) for n in networks] == ["10.0.0.0/8", "192.0.2.9/32", "2001:db8::/32"]
