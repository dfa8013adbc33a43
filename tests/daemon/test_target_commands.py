"""The commands about targets, groups and CHAP users against a real daemon."""

from __future__ import annotations

import json

import pytest

from tests.daemon.test_cli import fails, text
from tests.lab.processes import Gateway
from tests.lab.processes.gateway import CliError

NAME = "iqn.2026-11.org.example:web"
HOST = "iqn.1994-05.com.example:host"
OTHER = "iqn.1994-05.com.example:other"
SECRET = "a secret of the test"


@pytest.fixture
def lab(gateway: Gateway) -> Gateway:
    """A gateway with volumes main/a and main/b."""
    gateway.add_pool("main")
    for name in "ab":
        gateway.add_volume("1M", pool="main", name=name)
    return gateway


def test_a_target_from_making_to_removing(lab: Gateway) -> None:
    assert text(lab, "target", "list").startswith("There is no target")
    made = lab.cli(
        *("target", "create", NAME, "--lun", "main/a", "--acl", HOST, "--alias", "the web"),
        *("--parameter", "queue_depth=32", "--portal", "127.0.0.1"),
    )
    assert made["luns"][0]["ready"] and made["luns"][0]["volume"] == "main/a"
    assert not made["ready"] and "does not listen for iSCSI" in made["reason"]
    assert (made["access"], made["portals"]) == ("closed", ["127.0.0.1:3260"])
    assert [one["name"] for one in lab.cli("target", "list")] == [NAME]
    assert NAME in text(lab, "target", "list")
    shown = text(lab, "target", "info", NAME)
    assert "main/a (1MiB)" in shown and HOST in shown and "queue_depth=32" in shown
    shown = text(lab, "target", "set", NAME, "--portal", "192.0.2.1")
    assert "changed, not ready: " in shown and "does not listen for iSCSI" in shown
    changed = lab.cli("target", "set", NAME, "--open", "--all-portals", "--alias", "")
    assert (changed["access"], changed["portals"], changed["alias"]) == ("open", [], "")
    lab.cli("target", "set", NAME, "--closed")

    added = lab.cli("target", "lun", "add", NAME, "main/b", "--lun", "7", "--read-only")
    assert [one["lun"] for one in added["luns"]] == [0, 7]
    lab.cli("target", "acl", "set", NAME, HOST, "--read-only")
    lab.cli("target", "lun", "remove", NAME, "7")
    assert "LUN 1 of" in text(lab, "target", "lun", "add", NAME, "main/b", "--acl", HOST)
    listed = lab.cli("target", "acl", "list", NAME)
    assert [one["volume"] for one in listed[0]["luns"]] == ["main/a", "main/b"]
    lab.cli("target", "acl", "set", NAME, HOST, "--target-luns")
    assert "may log in" in text(lab, "target", "acl", "add", NAME, OTHER, "--lun", "3=main/b:ro")
    assert "3=main/b" in text(lab, "target", "acl", "list", NAME)
    assert "acl set" in fails(lab, 4, "target", "acl", "add", NAME, OTHER)
    lab.cli("target", "acl", "remove", NAME, OTHER)

    tree = text(lab, "tree")
    assert f"target {NAME}" in tree and "LUN 0: main/a" in tree
    assert lab.cli("status")["counts"]["targets"] == 1
    assert "LUN of target" in fails(lab, 4, "volume", "delete", "main/a", "--yes")
    assert NAME in text(lab, "volume", "info", "main/a")
    text(lab, "target", "remove", NAME)
    assert lab.cli("target", "list") == []
    assert "target list" in fails(lab, 3, "target", "info", NAME)


def test_groups(lab: Gateway) -> None:
    assert text(lab, "group", "list").startswith("There is no group")
    lab.cli("group", "create", "db", "--initiator", HOST)
    lab.cli("target", "create", NAME, "--acl", "group:db")
    assert "group:db" in text(lab, "target", "info", NAME)
    assert lab.cli("group", "set", "db", "--add", OTHER, "--remove", HOST)["initiators"] == [OTHER]
    assert NAME in text(lab, "group", "info", "db") and "db" in text(lab, "group", "list")
    assert "acl remove" in fails(lab, 4, "group", "remove", "db")
    lab.cli("target", "remove", NAME)
    lab.cli("group", "remove", "db")


def test_chap_secrets_go_in_and_are_not_seen_again(lab: Gateway) -> None:
    secret = lab.directory / "secret"
    secret.write_text(SECRET + "\n")
    lab.cli("chap", "set", "host", "--secret-file", str(secret))
    made = text(lab, "chap", "set", "gate", "--generate")
    assert made.startswith("gate:") and len(made.strip()) == len("gate:") + 16
    assert text(lab, "chap", "rotate", "host", "--secret-file", "-", stdin=SECRET[::-1]) == (
        "CHAP user host has another secret now.\n"
    )
    lab.cli("target", "create", NAME, "--acl", HOST, "--chap", "host", "--mutual-chap", "gate")
    assert "initiators as host, the target as gate" in text(lab, "target", "info", NAME)
    assert "host" in text(lab, "chap", "list")
    assert "asks nobody while access is closed" in text(lab, "target", "info", NAME)
    assert NAME in fails(lab, 4, "chap", "remove", "host")
    assert "no CHAP" in text(lab, "target", "discovery")
    assert lab.cli("target", "discovery", "--chap", "host")["chap"] == "host"
    lab.cli("target", "discovery", "--no-chap")
    lab.cli("target", "set", NAME, "--no-chap")
    lab.cli("target", "acl", "set", NAME, HOST, "--no-chap")
    lab.cli("chap", "remove", "host")
    everywhere = lab.log() + json.dumps(lab.api("GET", "command-log", limit=1000))
    everywhere += json.dumps(lab.api("GET", "config"))
    for each in (SECRET, SECRET[::-1], made.strip().removeprefix("gate:")):
        assert each not in everywhere
    shown = lab.cli("config", "export", "--secrets")
    assert [user["user"] for user in shown["chap"]] == ["gate"]


def test_what_initiators_know_a_volume_by(lab: Gateway) -> None:
    made = lab.cli("volume", "set", "main/a", "--vendor", "IET", "--scsi-id", "149455403f160c00")
    assert (made["vendor"], made["scsi_id"]) == ("IET", "149455403f160c00")
    assert "ScsiId 149455403f160c00" in text(lab, "volume", "info", "main/a")
    new = lab.cli(
        *("volume", "create", "main/c", "--size", "1M", "--provisioning", "full"),
        *("--physical-block-size", "512", "--removable"),
    )
    assert (new["provisioning"], new["physical_block_size"], new["removable"]) == (
        "full",
        512,
        True,
    )
    lab.stop()
    lab.start()
    assert lab.cli("volume", "info", "main/a")["vendor"] == "IET"


def test_the_doctor(lab: Gateway) -> None:
    assert "There is no target" in text(lab, "doctor")
    lab.cli("target", "create", NAME, "--lun", "main/a", "--acl", HOST)
    told = text(lab, "doctor", NAME)
    wwn = lab.cli("volume", "info", "main/a")["wwn"]
    assert f"wwid 3{wwn}" in told and "path_grouping_policy multibus" in told
    assert "The timeouts fit together." in told
    (report,) = lab.cli("doctor")
    assert report["findings"] == [] and report["target"] == NAME
    bad = lab.directory / "iscsid.conf"
    bad.write_text("node.session.timeo.replacement_timeout = 5\n")
    done = lab.run_cli("doctor", NAME, "--iscsid-conf", str(bad))
    assert done.returncode == 4 and "read-only" in done.stdout
    with pytest.raises(CliError) as caught:
        lab.cli("doctor", "--iscsid-conf", str(bad))
    assert caught.value.status == 4
    fails(lab, 2, "doctor", "--iscsid-conf", str(lab.directory / "none"))


def test_parameters_are_listed(lab: Gateway) -> None:
    rows = {row["name"]: row for row in lab.cli("target", "parameters")}
    assert rows["queue_depth"]["default"] == 128
    assert "nop_interval" in text(lab, "target", "parameters")
