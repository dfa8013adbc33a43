"""The chain of timeouts, and the files that an initiator needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from blockgate.cli.client_files import read_iscsid, read_multipath
from blockgate.cli.client_settings import (
    access_state_conf,
    failover_conf,
    iscsid_conf,
    multibus_conf,
    udev_rule,
    wwid,
)
from blockgate.cli.timeouts import (
    FOREVER,
    InitiatorSettings,
    advised,
    check_initiator,
    check_target,
)
from blockgate.model.errors import InvalidInput
from blockgate.model.parameters import TargetParameters

USUAL = TargetParameters().plain()
WEB = {
    "pool": "main",
    "name": "web",
    "wwn": "6001405653e40728aad4e9d900e4059f",
    "vendor": "BLKGATE",
    "product": "volume",
    "scsi_id": "",
}


def closed_target(parameters: dict[str, Any], *acls: dict[str, Any]) -> dict[str, Any]:
    """A target as the API shows it, which asks for no CHAP of its own."""
    shown = {"chap": None, "mutual_chap": None, "access": "closed"}
    return {"parameters": parameters, "acls": list(acls), **shown}


def levels(parameters: dict[str, Any], settings: InitiatorSettings) -> list[str]:
    return [one.level for one in check_initiator(parameters, settings)]


@pytest.mark.parametrize("recovery", [1, 15, 30, 60, 600])
@pytest.mark.parametrize("multipath", [True, False])
def test_what_is_advised_fits(recovery: int, multipath: bool) -> None:
    parameters = {**USUAL, "recovery_time": recovery}
    assert levels(parameters, advised(parameters, multipath=multipath)) == []


def test_the_defaults_of_targets_fit() -> None:
    assert list(check_target(USUAL)) == []
    assert [one.level for one in check_target({**USUAL, "nop_interval": 0})] == ["warning"]
    assert [one.level for one in check_target({**USUAL, "recovery_time": 29})] == ["error"]


def test_what_does_not_fit() -> None:
    several, alone = (advised(USUAL, multipath=kind) for kind in (True, False))
    for settings, wanted in (
        (replace(alone, replacement_timeout=29), ["error"]),
        (replace(alone, replacement_timeout=FOREVER), []),
        (replace(alone, noop_out_interval=0), ["error"]),
        (replace(alone, noop_out_interval=60), ["error"]),
        (replace(alone, command_timeout=20), ["warning"]),
        (replace(alone, command_timeout=10), ["error", "warning"]),
        (replace(several, replacement_timeout=31), ["warning"]),
        (replace(several, replacement_timeout=FOREVER), ["error"]),
        (replace(several, no_path_retry=0), ["error"]),
        (replace(several, no_path_retry=5), ["error"]),
        (replace(several, no_path_retry=6), []),
        (replace(several, no_path_retry=FOREVER), []),
    ):
        assert levels(USUAL, settings) == wanted, settings


def test_reading_an_initiator_s_files() -> None:
    base = InitiatorSettings(multipath=True, replacement_timeout=120)
    text = (
        "# node.session.timeo.replacement_timeout = 1\n"
        "node.session.timeo.replacement_timeout = 20\n"
        "node.session.timeo.replacement_timeout = 10 # the last holds\n"
        "node.conn[0].timeo.noop_out_interval=3\n"
        "node.startup = automatic\n"
    )
    read = read_iscsid(text, base)
    assert (read.replacement_timeout, read.noop_out_interval, read.noop_out_timeout) == (10, 3, 5)
    with pytest.raises(InvalidInput, match="soon"):
        read_iscsid("node.session.timeo.replacement_timeout = soon", base)
    text = (
        'defaults {\n polling_interval 2\n}\ndevices {\n device {\n no_path_retry "queue"\n}\n}\n'
    )
    read = read_multipath(text, base)
    assert (read.polling_interval, read.no_path_retry, read.replacement_timeout) == (2, -1, 120)
    read = read_multipath("no_path_retry fail\nfast_io_fail_tmo 7\n", base)
    assert (read.no_path_retry, read.replacement_timeout) == (0, 7)
    assert read_multipath("fast_io_fail_tmo off\n", base).replacement_timeout == FOREVER


@pytest.mark.parametrize(
    ("read", "text", "words"),
    [
        (read_iscsid, "# fine\nnode.startup = manual\ngarbage\n", "Line 3 is no setting"),
        (read_multipath, "defaults {\n\tgarbage\n}\n", "Line 2 is no setting"),
        (read_multipath, "devices {\n device {\n vendor x\n }\n", "within the block 'devices'"),
        (read_multipath, "defaults {\n}\n}\n", "Line 3 .* none is open"),
    ],
)
def test_a_file_that_is_none_is_not_passed(
    read: Callable[[str, InitiatorSettings], object], text: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        read(text, InitiatorSettings(multipath=True, replacement_timeout=120))


def test_what_a_multipath_conf_says_of_others_does_not_count() -> None:
    """multipath.conf(5): comments begin with # or !, `vendor` is a regular expression, and
    overrides hold over devices."""
    base = InitiatorSettings(multipath=True, replacement_timeout=120)
    text = """
defaults {
    polling_interval 7 # seconds
    no_path_retry 3
}
devices {
    device {
        vendor "OTHER"
        no_path_retry fail
    }
    device {
        vendor "^BLK"   ! ours
        no_path_retry 12  # a minute
    }
}
multipaths {
    multipath {
        wwid 36001405deadbeefdeadbeefdeadbeefde
        no_path_retry fail
    }
}
"""
    read = read_multipath(text, base, [WEB])
    assert (read.polling_interval, read.no_path_retry) == (7, 12)
    overridden = text + "overrides {\n no_path_retry queue\n}\n"
    assert read_multipath(overridden, base, [WEB]).no_path_retry == FOREVER
    other = {**WEB, "vendor": "OTHER"}
    assert read_multipath(text, base, [other]).no_path_retry == 0


def test_no_two_disks_have_one_alias() -> None:
    disks = [
        {**WEB, "pool": "x", "name": "y-z", "wwn": "6001405" + "1" * 25},
        {**WEB, "pool": "x-y", "name": "z", "wwn": "6001405" + "2" * 25},
        WEB,
    ]
    text = failover_conf(disks, advised(USUAL, multipath=True))
    aliases = [line.split()[1] for line in text.splitlines() if "alias" in line]
    assert aliases == ["x-y-z-11111111", "x-y-z-22222222", "main-web"]


def test_names_that_multipath_gives() -> None:
    """Both are names that the documents blockgate follows show."""
    assert wwid(WEB) == "36001405653e40728aad4e9d900e4059f"
    san = {**WEB, "vendor": "IET", "scsi_id": "149455403f160c00"}
    assert wwid(san) == "1494554000000000031343934353534303366313630633030"
    # iSCSI Enterprise Target sends all 24 bytes, also of an id that is shorter.
    short = {**WEB, "vendor": "IET", "scsi_id": "short"}
    assert wwid(short) == "14945540000000000" + "73686f7274" + "00" * 11


def test_the_files_agree_with_what_is_advised() -> None:
    settings = advised(USUAL, multipath=True)
    target = closed_target(USUAL)
    base = InitiatorSettings(multipath=True, replacement_timeout=120, command_timeout=60)
    read = read_iscsid(iscsid_conf(target, settings), base)
    multibus, failover = multibus_conf([WEB], settings), failover_conf([WEB], settings)
    by_state = access_state_conf([WEB], settings)
    for text in (multibus, failover, by_state):
        assert read_multipath(text, read) == settings
        assert text.count("{") == text.count("}")
    assert 'path_selector "queue-length 0"' in multibus and "path_checker directio" in multibus
    assert 'hardware_handler "1 alua"' in by_state and "prio alua" in by_state
    assert "wwid 36001405653e40728aad4e9d900e4059f" in failover and "alias main-web" in failover
    assert 'ATTR{vendor}=="BLKGATE*"' in udev_rule([WEB, WEB], settings)
    assert udev_rule([WEB, WEB], settings).count("\n") == 1


def test_names_that_are_more_than_letters() -> None:
    """Vendor and product are any printable ASCII; the files have quotes and patterns."""
    settings = advised(USUAL, multipath=True)
    odd = {**WEB, "vendor": "A|B[1]", "product": 'C++ "x" ^\\.*'}
    text = multibus_conf([odd], settings)
    assert '        vendor "A[|]B[[]1[]]"\n' in text
    assert '        product "C[+][+] .x. ..[.][*]"\n' in text
    rule = udev_rule([odd], settings)
    assert 'ATTR{vendor}=="A?B?1?*", ATTR{model}=="C++ ?x? ^?.?*", ATTR{timeout}' in rule


def test_chap_is_said_without_its_secret() -> None:
    settings = advised(USUAL, multipath=False)
    acl = {"chap": "host", "mutual_chap": "gate"}
    target = closed_target(USUAL, acl)
    # The target's own CHAP asks those whom no ACL names: nobody, while access is closed.
    with_own = {**target, "chap": "anybody"}
    assert "username = host" in iscsid_conf(with_own, settings)
    open_to_all = {**with_own, "access": "open", "acls": []}
    assert "username = anybody" in iscsid_conf(open_to_all, settings)
    text = iscsid_conf(target, settings)
    assert "node.session.auth.username = host" in text
    assert "node.session.auth.username_in = gate" in text
    assert "\nnode.session.auth.password" not in text


def test_discovery_that_asks_for_chap() -> None:
    target = closed_target(USUAL)
    settings = advised(USUAL, multipath=False)
    text = iscsid_conf(target, settings, {"chap": "finder", "mutual_chap": "gate"})
    assert "discovery.sendtargets.auth.authmethod = CHAP\n" in text
    assert "discovery.sendtargets.auth.username = finder\n" in text
    assert "discovery.sendtargets.auth.username_in = gate\n" in text
    assert "node.session.auth" not in text and "\ndiscovery.sendtargets.auth.password" not in text
    assert "auth" not in iscsid_conf(target, settings, {"chap": None, "mutual_chap": None})


@pytest.mark.parametrize(("depth", "most"), [(1, 16), (8, 16), (16, 16), (100, 64), (128, 128)])
def test_linux_begins_no_session_with_few_commands(depth: int, most: int) -> None:
    parameters = {**USUAL, "queue_depth": depth}
    target = closed_target(parameters)
    text = iscsid_conf(target, advised(parameters, multipath=True))
    assert f"node.session.cmds_max = {most}\n" in text
    assert f"node.session.queue_depth = {min(depth, 32)}\n" in text


def test_digests_that_a_login_has_to_have() -> None:
    parameters = {**USUAL, "header_digest": ["crc32c"], "data_digest": ["crc32c", "none"]}
    target = closed_target(parameters)
    text = iscsid_conf(target, advised(parameters, multipath=True))
    assert "node.conn[0].iscsi.HeaderDigest = CRC32C\n" in text
    assert "DataDigest" not in text
