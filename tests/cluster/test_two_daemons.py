"""Two daemons, each with a state directory of its own, and one pool."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.processes import Gateway


@pytest.fixture
def first() -> Iterator[Gateway]:
    with Gateway(io="epoll", shards=1) as one:
        yield one


@pytest.fixture
def second() -> Iterator[Gateway]:
    with Gateway(io="epoll", shards=1) as one:
        yield one


def wish(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, str]:
    answer = gateway.client.request(method, f"/v1/{path}", json=body)
    return answer.status_code, answer.json()["error"]["code"] if answer.content else ""


def wait_until_reachable(gateway: Gateway, pool: str) -> None:
    deadline = time.monotonic() + 60
    while not gateway.api("GET", f"pools/{pool}")["reachable"]:
        assert time.monotonic() < deadline, gateway.log()
        time.sleep(0.1)


def test_a_pool_has_one_daemon(first: Gateway, second: Gateway, tmp_path: Path) -> None:
    place = tmp_path / "pool"
    # The second knows the pool and its volume from before.
    second.add_pool("main", place)
    second.add_volume("1M", pool="main", name="a")
    second.add_pool("own")
    second.stop()
    first.add_pool("main", place)
    first.api("POST", "pools/main/scan")

    second.start()  # a pool that is not to be had does not keep it from serving others
    second.add_volume("1M", pool="own", name="b")
    info = second.api("GET", "pools/main")
    assert not info["reachable"] and f"process {first.pid}" in info["reason"]
    holder = first.info().get("id") or first.info().get("gateway_id") or ""
    assert str(holder) in info["reason"]
    before = sorted((path, path.stat().st_size) for path in place.rglob("*"))
    refused = (409, "in-use")
    assert wish(second, "POST", "pools/main/scan") == refused
    assert wish(second, "POST", "pools/main/scan", {"dry_run": True}) == refused
    assert wish(second, "POST", "volumes/main/a/resize", {"size": "2M"}) == refused
    assert wish(second, "POST", "volumes/main/a/rename", {"new_name": "c"}) == refused
    assert wish(second, "DELETE", "volumes/main/a") == refused
    assert wish(second, "POST", "volumes", {"pool": "main", "name": "n", "size": "1M"}) == refused
    assert wish(second, "POST", "exports", {"volume": "main/a", "name": "e"}) == refused
    assert before == sorted((path, path.stat().st_size) for path in place.rglob("*"))
    assert second.run_cli("pool", "scan", "main").returncode == 4
    link = tmp_path / "link"
    link.symlink_to(place)
    with Gateway(io="epoll", shards=1) as third:
        for path in (place, link):
            body = {"name": "mine", "directory": str(path)}
            assert wish(third, "POST", "pools", body) == refused
        assert third.api("GET", "pools") == []

    first.kill()
    wait_until_reachable(second, "main")
    second.api("POST", "pools/main/scan")
    second.api("POST", "volumes/main/a/resize", {"size": "2M"})
    second.api("POST", "volumes/main/a/rename", {"new_name": "c"})
    first.start()
    assert wish(first, "POST", "pools/main/scan") == refused
    second.api("DELETE", "volumes/main/c")
    second.api("DELETE", "pools/main")
    wait_until_reachable(first, "main")
    (gone,) = first.api("GET", "volumes")
    assert gone["state"] == "missing"


def qemu_io(gateway: Gateway, export: str, *commands: str) -> str:
    """Commands of qemu-io on an export; its output, whether or not one failed."""
    arguments = [each for command in commands for each in ("-c", command)]
    uri = gateway.nbd_uri(export)
    done = subprocess.run(
        ["qemu-io", "-f", "raw", "-t", "writeback", *arguments, uri],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.stdout + done.stderr


def message(gateway: Gateway, method: str, path: str, body: Any = None) -> str:
    """What a wish is refused with, in words."""
    answer = gateway.client.request(method, f"/v1/{path}", json=body)
    assert answer.status_code >= 400, answer.text
    error = answer.json()["error"]
    return f"{error['code']}: {error['message']} {error['hint']}"


def test_a_look_at_another_place_under_a_pools_name_gives_the_pool_to_nobody(
    first: Gateway, second: Gateway, tmp_path: Path
) -> None:
    place, former = tmp_path / "pool", tmp_path / "former"
    first.add_pool("main", former)
    first.add_volume("1M", pool="main", name="a")
    number = first.api("GET", "config/history")[0]["number"]
    first.api("POST", "volumes/main/a/forget")
    first.api("DELETE", "pools/main")
    first.add_pool("main", place)
    first.add_volume("1M", pool="main", name="b")

    (former / "disk.raw").write_bytes(bytes(4096))
    adopted = {"name": "main/c", "adopt": str(former / "disk.raw")}
    pools = [{"name": "main", "directory": str(former)}]
    wish(first, "POST", "pools", {"name": "main", "directory": str(former)})
    wish(first, "POST", "apply", {"pools": pools, "volumes": [adopted]})
    diff = first.api("GET", f"config/history/{number}/diff")
    assert {"register", "forget"} <= {entry["action"] for entry in diff["entries"]}

    second.add_pool("own", former)  # nothing of that look has stayed
    body = {"name": "main", "directory": str(place)}
    assert wish(second, "POST", "pools", body) == (409, "in-use")
    assert first.api("GET", "pools/main")["reachable"]


@pytest.mark.parametrize("outer_first", [False, True])
def test_a_pool_around_anothers_pool_is_none(
    first: Gateway, second: Gateway, tmp_path: Path, outer_first: bool
) -> None:
    inner = tmp_path / "inner"
    (tmp_path / "beside").mkdir()
    inner.mkdir()
    mine, theirs = (tmp_path, inner) if outer_first else (inner, tmp_path)
    first.api("POST", "pools", {"name": "p", "directory": str(mine)})
    refused = (409, "nested")
    body = {"name": "q", "directory": str(theirs)}
    assert wish(second, "POST", "pools", body) == refused
    assert second.api("GET", "pools") == []
    assert not (theirs / ".blockgate").exists(), "and leaves nothing there"
    if not outer_first:
        second.api("POST", "pools", {"name": "q", "directory": str(tmp_path / "beside")})
    first.kill()
    if outer_first:
        second.api("POST", "pools", body)  # whoever is gone has no pool any more
    else:
        assert wish(second, "POST", "pools", {**body, "name": "r"}) == (409, "nested")


def test_a_file_that_another_gateways_label_names_is_not_adopted(
    first: Gateway, second: Gateway, tmp_path: Path
) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    first.add_pool("p", inner)
    first.add_volume("1M", pool="p", name="v")
    first.stop()
    second.add_pool("q", tmp_path)
    adopt = {"pool": "q", "name": "w", "path": str(inner / "v.img")}
    said = message(second, "POST", "volumes/adopt", adopt)
    assert said.startswith("exists:") and "volume v" in said and "pool scan" in said
    # Nor the other way round: what is below is another pool's by the label above.
    loose = tmp_path / "deep" / "loose.raw"
    loose.parent.mkdir()
    loose.write_bytes(bytes(4096))
    second.api("POST", "volumes/adopt", {"pool": "q", "name": "l", "path": str(loose)})
    second.stop()
    with Gateway(io="epoll", shards=1) as third:
        third.add_pool("r", loose.parent)
        adopt = {"pool": "r", "name": "w", "path": str(loose)}
        assert "volume l" in message(third, "POST", "volumes/adopt", adopt)


def test_what_another_daemon_serves_is_neither_adopted_nor_changed(
    first: Gateway, second: Gateway, tmp_path: Path
) -> None:
    """As when the first one's claim is not seen: here its pool is taken from under its lock."""
    place = tmp_path / "pool"
    place.mkdir()
    first.add_pool("p", place)
    first.add_volume("16M", pool="p", name="v")
    first.add_export("p/v", "v")
    # The same file in a place of its own, by a second name and without any label.
    other = tmp_path / "other"
    other.mkdir()
    os.link(place / "v.img", other / "v.raw")
    second.add_pool("q", other)
    adopt = {"pool": "q", "name": "w", "path": str(other / "v.raw")}
    said = message(second, "POST", "volumes/adopt", adopt)
    assert said.startswith("in-use:") and "another process" in said and "Stop" in said

    # It was adopted while nobody served it.
    first.api("DELETE", "exports/v")
    second.api("POST", "volumes/adopt", adopt)
    first.add_export("p/v", "v")
    first.api("POST", "volumes/p/v/resize", {"size": "64M"})
    assert "wrote" in qemu_io(first, "v", "write -f -P 7 48M 1M")
    refused = (409, "in-use")
    # Its file is longer than it was when it was adopted: whose the rest is nobody knows.
    longer = (403, "longer")
    for size, expected in (("7E", longer), ("128M", longer), ("8M", refused)):
        body = {"size": size, "force": True}
        assert wish(second, "POST", "volumes/q/w/resize", body) == expected, size
        assert (place / "v.img").stat().st_size == 64 << 20
    assert wish(second, "DELETE", "volumes/q/w?force=true") == refused
    assert wish(second, "POST", "exports", {"volume": "q/w", "name": "w"}) == refused
    assert "read 1048576/1048576" in qemu_io(first, "v", "read -P 7 48M 1M")
    assert first.api("GET", "volumes/p/v")["health"] == "ok"
    # What failed is not made up for later, when the file is free.
    first.api("DELETE", "exports/v")
    time.sleep(1.5)
    assert (place / "v.img").stat().st_size == 64 << 20


def test_a_file_that_was_cut_is_neither_hidden_nor_made_long_again(
    first: Gateway, tmp_path: Path
) -> None:
    place = tmp_path / "pool"
    place.mkdir()
    first.add_pool("p", place)
    first.add_volume("16M", pool="p", name="v")
    first.add_export("p/v", "v")
    data = place / "v.img"
    assert "wrote" in qemu_io(first, "v", "write -P 9 8M 1M", "flush")
    os.truncate(data, 8 << 20)
    said = qemu_io(first, "v", "write -P 1 16773120 4096", "flush")
    assert "error" in said.lower(), said
    assert data.stat().st_size == 8 << 20
    info = first.api("GET", "volumes/p/v")
    assert info["health"] == "degraded" and "8388608 bytes" in info["reason"]
    for method, path, body in (
        ("POST", "volumes/p/v/reopen", None),
        ("POST", "volumes/p/v/resize", {"size": "32M"}),
    ):
        said = message(first, method, path, body)
        assert said.startswith("volume-short:") and "8388608" in said and "truncate" in said
    assert data.stat().st_size == 8 << 20

    first.kill()
    first.start()
    info = first.api("GET", "volumes/p/v")
    assert info["health"] == "unavailable" and info["reason"].count("8388608 bytes") == 1
    assert not first.api("GET", "exports/v")["ready"]
    first.api("DELETE", "exports/v")
    info = first.api("GET", "volumes/p/v")
    assert (info["state"], info["health"]) == ("ready", "degraded")
    assert wish(first, "POST", "exports", {"volume": "p/v", "name": "v"}) == (503, "volume-short")
    assert data.stat().st_size == 8 << 20
    # What is left can be had, when that is said.
    info = first.api("POST", "volumes/p/v/resize", {"size": 8 << 20, "force": True})
    assert (info["size"], info["health"], info["reason"]) == (8 << 20, "closed", "")
    first.add_export("p/v", "v")
    assert first.api("GET", "volumes/p/v")["health"] == "ok"


def test_what_lies_where_a_volume_was_is_left_alone(first: Gateway, tmp_path: Path) -> None:
    place = tmp_path / "pool"
    place.mkdir()
    first.add_pool("p", place)
    first.add_volume("1M", pool="p", name="v")
    label = place / ".blockgate" / "v.json"
    kept = label.read_bytes()
    label.unlink()
    (place / "v.img").write_bytes(b"foreign" * 300_000)
    before = (place / "v.img").read_bytes()
    assert first.api("GET", "volumes/p/v")["state"] == "missing"
    for method, path, body in (
        ("POST", "volumes/p/v/resize", {"size": "4M"}),
        ("POST", "volumes/p/v/resize", {"size": "512K", "force": True}),
        ("POST", "volumes/p/v/rename", {"new_name": "w"}),
        ("DELETE", "volumes/p/v", None),
        ("POST", "volumes/p/v/reopen", None),
        ("POST", "exports", {"volume": "p/v", "name": "v"}),
    ):
        said = message(first, method, path, body)
        assert said.startswith("volume-missing:") and "forget" in said, (path, said)
        assert not label.exists() and (place / "v.img").read_bytes() == before, path
    assert not list((place / ".blockgate").glob("*.json"))
    assert first.api("GET", "exports") == []
    label.write_bytes(kept)
    assert first.api("GET", "volumes/p/v")["state"] == "ready"


def test_a_volume_in_use_can_be_renamed_and_grown_but_not_when_its_file_was_exchanged(
    first: Gateway, tmp_path: Path
) -> None:
    place = tmp_path / "pool"
    place.mkdir()
    first.add_pool("p", place)
    first.add_volume("1M", pool="p", name="v")
    first.add_export("p/v", "v")
    first.api("POST", "volumes/p/v/resize", {"size": "2M"})
    first.api("POST", "volumes/p/v/rename", {"new_name": "w"})
    assert first.api("GET", "volumes/p/w")["health"] == "ok"
    (place / "w.img").rename(tmp_path / "own")
    (place / "w.img").write_bytes(bytes(2 << 20))
    said = message(first, "POST", "volumes/p/w/resize", {"size": "4M"})
    assert said.startswith("volume-missing:") and "not the data that is open" in said
    assert (place / "w.img").stat().st_size == (tmp_path / "own").stat().st_size == 2 << 20
    (tmp_path / "own").rename(place / "w.img")
    wait_until_settled(first, "p/w")
    first.api("POST", "volumes/p/w/resize", {"size": "4M"})


def wait_until_settled(gateway: Gateway, volume: str) -> None:
    deadline = time.monotonic() + 60
    while gateway.api("GET", f"volumes/{volume}")["state"] != "ready":
        assert time.monotonic() < deadline, gateway.log()
        time.sleep(0.1)


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Two loop devices of 8 MiB: one of zeros, one of foreign bytes."""
    devices: list[str] = []
    for name, byte in (("own", b"\0"), ("foreign", b"F")):
        (tmp_path / name).write_bytes(byte * (8 << 20))
        command = ["losetup", "--find", "--show", str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop devices here: {done.stderr.strip()}")
        devices.append(done.stdout.strip())
    yield devices[0], devices[1]
    for device in devices:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_foreign_disk_in_a_devices_place_is_not_written_to(
    first: Gateway, disks: tuple[str, str], tmp_path: Path
) -> None:
    own, foreign = disks
    link = tmp_path / "link"
    link.symlink_to(own)
    first.api("POST", "pools", {"name": "blk", "device": str(link)})
    first.api("POST", "volumes", {"pool": "blk", "name": "v", "size": "4M"})
    link.unlink()
    link.symlink_to(foreign)
    assert first.api("GET", "volumes/blk/v")["state"] == "missing"
    for method, path, body in (
        ("POST", "volumes/blk/v/resize", {"size": "5M"}),
        ("POST", "volumes/blk/v/resize", {"size": "1M", "force": True}),
        ("POST", "volumes/blk/v/rename", {"new_name": "w"}),
        ("DELETE", "volumes/blk/v", None),
        ("POST", "exports", {"volume": "blk/v", "name": "v"}),
    ):
        said = message(first, method, path, body)
        assert said.startswith("volume-missing:") and "Attach its own" in said, (path, said)
    assert (tmp_path / "foreign").read_bytes() == b"F" * (8 << 20)
    link.unlink()
    link.symlink_to(own)
    assert first.api("GET", "volumes/blk/v")["state"] == "ready"
    first.add_export("blk/v", "v")
    # Exchanged under a volume that is open.
    link.unlink()
    link.symlink_to(foreign)
    assert message(first, "POST", "volumes/blk/v/rename", {"new_name": "w"})
    assert (tmp_path / "foreign").read_bytes() == b"F" * (8 << 20)


def test_a_device_that_grew_is_served_and_says_what_to_type(
    first: Gateway, disks: tuple[str, str], tmp_path: Path
) -> None:
    own, _ = disks
    first.api("POST", "pools", {"name": "blk", "device": own})
    first.api("POST", "volumes", {"pool": "blk", "name": "v", "size": "4M"})
    first.add_export("blk/v", "v")
    assert "wrote" in qemu_io(first, "v", "write -f -P 5 3M 1M")
    os.truncate(tmp_path / "own", 16 << 20)
    subprocess.run(["losetup", "--set-capacity", own], check=True)
    first.restart()
    info = first.api("GET", "volumes/blk/v")
    assert (info["state"], info["health"]) == ("ready", "ok")
    assert f"blockgate volume resize blk/v --size {15 << 20}" in info["reason"]
    first.api("POST", "volumes/blk/v/reopen")
    info = first.api("POST", "volumes/blk/v/resize", {"size": 15 << 20})
    assert (info["size"], info["state"], info["health"]) == (15 << 20, "ready", "ok")
    assert info["reason"] == ""
    assert "read 1048576/1048576" in qemu_io(first, "v", "read -P 5 3M 1M", "read -P 0 4M 11M")
    found = first.api("POST", "pools/blk/scan", {"dry_run": True})
    assert [(one["status"], one["size"]) for one in found] == [("known", 15 << 20)]
