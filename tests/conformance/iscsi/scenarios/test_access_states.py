"""Asymmetric logical unit access (SPC-4 5.15): what each state lets through on its port, with which
sense the rest is refused, who sets it, who is told, and for how long it holds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import PORTALS, CliError, Gateway, Target, add_target
from tests.lab.site import wait_until

CHANGED: Final = (6, 0x2A, 0x06)  # ASYMMETRIC ACCESS STATE CHANGED
INQUIRY_CHANGED: Final = (6, 0x3F, 0x03)
# ASYMMETRIC ACCESS STATE (SPC-4 table 276)
CODES: Final = {
    "active-optimized": 0x0,
    "active-nonoptimized": 0x1,
    "standby": 0x2,
    "unavailable": 0x3,
    "offline": 0xE,
    "transitioning": 0xF,
}
# LOGICAL UNIT NOT ACCESSIBLE: in transition, port in standby, in unavailable state; OFFLINE
SENSE: Final = {
    "transitioning": (2, 0x04, 0x0A),
    "standby": (2, 0x04, 0x0B),
    "unavailable": (2, 0x04, 0x0C),
    "offline": (2, 0x04, 0x12),
}
EXPLICIT, IMPLICIT = 1, 2  # STATUS CODE (table 278)

# The commands that SPC-4 5.15.2.4 names for standby, for unavailable and for transitioning
ALWAYS: Final = {
    "INQUIRY": cdbs.inquiry(36),
    "REPORT LUNS": cdbs.report_luns(16),
    "REPORT TARGET PORT GROUPS": bytes.fromhex("a30a00000000 00000400 0000"),
    "REQUEST SENSE": bytes.fromhex("030000001200"),
}
NOT_IN_TRANSITION: Final = {"SET TARGET PORT GROUPS, of none": bytes.fromhex("a40a") + bytes(10)}
IN_STANDBY: Final = {
    "MODE SENSE(6)": bytes.fromhex("1a080a00ff00"),
    "LOG SENSE": bytes.fromhex("4d004000000000010000"),
    "PERSISTENT RESERVE IN": cdbs.reserve_in(0),
}
MEDIUM: Final = {
    "TEST UNIT READY": cdbs.TEST_UNIT_READY,
    "READ(10)": cdbs.read10(0, 1),
    "SYNCHRONIZE CACHE(10)": bytes.fromhex("35") + bytes(9),
}
EVERYTHING: Final = ALWAYS | NOT_IN_TRANSITION | IN_STANDBY | MEDIUM
LET_THROUGH: Final = {
    "active-optimized": EVERYTHING,
    "active-nonoptimized": EVERYTHING,
    "standby": ALWAYS | NOT_IN_TRANSITION | IN_STANDBY,
    "unavailable": ALWAYS | NOT_IN_TRANSITION,
    "offline": ALWAYS | NOT_IN_TRANSITION,
    "transitioning": ALWAYS,
}

LogIn = Callable[[Target], Session]


def make_paths(gateway: Gateway) -> tuple[Target, Target]:
    """Two targets of one unit: two ports, each of them a target port group of its own."""
    parameters = {"alua": "both"}
    one = add_target(gateway, parameters=parameters)
    return one, add_target(gateway, {1: one.volumes[1]}, parameters=parameters)


@pytest.fixture
def paths(iscsi: Gateway) -> tuple[Target, Target]:
    return make_paths(iscsi)


@pytest.fixture
def log_in() -> Iterator[LogIn]:
    made: list[Session] = []

    def start(target: Target) -> Session:
        session = Session(target.address, target.name).login()
        made.append(session)
        while session.command(cdbs.TEST_UNIT_READY).sense_code[0] == 6:
            pass
        return session

    yield start
    for session in made:
        session.close()


def set_state(target: Target, state: str) -> None:
    """The gateway's own change, as its operator asks for it."""
    state = f"access_state={state}"
    target.gateway.cli("target", "set", target.name, "--parameter", state, "--force")


def set_by(session: Session, states: dict[int, str]) -> tuple[int, int, int]:
    """SET TARGET PORT GROUPS (SPC-4 6.45); the sense, zeroes if it went well."""
    data = bytes(4)
    for group, state in states.items():
        data += bytes([CODES[state], 0]) + group.to_bytes(2, "big")
    cdb = bytes.fromhex("a40a00000000") + len(data).to_bytes(4, "big") + bytes(2)
    return session.command(cdb, write=data).sense_code


def group_of(session: Session) -> int:
    """Which group its port is in: the designator of type 5 in VPD page 83h (SPC-4 7.8.6.8)."""
    page = session.command(cdbs.inquiry(255, 0x83), read=255).data
    at = 4
    while page[at + 1] & 0x0F != 5:
        at += 4 + page[at + 3]
    return int.from_bytes(page[at + 6 : at + 8], "big")


def reported(session: Session) -> dict[int, tuple[int, int]]:
    """By group: its state, and what the last change was due to (SPC-4 table 275)."""
    data = session.command(ALWAYS["REPORT TARGET PORT GROUPS"], read=1024).data
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    found, at = {}, 4
    while at < len(data):
        found[int.from_bytes(data[at + 2 : at + 4], "big")] = (data[at] & 0x0F, data[at + 5])
        at += 8 + 4 * data[at + 7]
    return found


def assert_enforced(session: Session, state: str) -> None:
    """Each command goes through, or is refused with the state's sense; a write leaves no trace."""
    for name, cdb in EVERYTHING.items():
        answer = session.command(cdb, read=0 if cdb[0] in (0x00, 0x35, 0xA4) else 1024)
        expected = (0, 0, 0) if name in LET_THROUGH[state] else SENSE[state]
        assert answer.sense_code == expected, name
    write = session.command(cdbs.write10(8, 1), write=b"\x55" * cdbs.BLOCK)
    assert write.sense_code == SENSE.get(state, (0, 0, 0))


@pytest.mark.parametrize("state", CODES)
def test_set_by_the_gateway(paths: tuple[Target, Target], log_in: LogIn, state: str) -> None:
    path, beside = (log_in(target) for target in paths)
    if state == "active-optimized":  # it was that before
        set_state(paths[0], "standby")
    set_state(paths[0], state)
    for session in (path, beside):  # nobody has asked for it, so everybody is told
        assert session.command(cdbs.TEST_UNIT_READY).sense_code == CHANGED
    assert_enforced(path, state)
    groups = {group_of(path): (CODES[state], IMPLICIT), group_of(beside): (0, 0)}
    assert reported(beside) == reported(path) == groups
    written = beside.command(cdbs.read10(8, 1), read=cdbs.BLOCK)
    assert written.data == (bytes(512) if state in SENSE else b"\x55" * 512)
    assert_enforced(beside, "active-optimized")


@pytest.mark.parametrize(
    "state", ["active-optimized", "active-nonoptimized", "standby", "unavailable"]
)
def test_set_by_an_initiator(paths: tuple[Target, Target], log_in: LogIn, state: str) -> None:
    path, beside = (log_in(target) for target in paths)
    group = group_of(path)
    if state == "active-optimized":
        assert set_by(path, {group: "standby"}) == (0, 0, 0)
        assert beside.command(cdbs.TEST_UNIT_READY).sense_code == CHANGED
    assert set_by(beside, {group: state}) == (0, 0, 0)
    assert beside.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD, "told of its own doing"
    assert path.command(cdbs.TEST_UNIT_READY).sense_code == CHANGED
    assert_enforced(path, state)
    assert reported(beside)[group] == (CODES[state], EXPLICIT)
    # By the very port that can hardly be used it is set back.
    assert set_by(path, {group: "active-optimized"}) == (0, 0, 0)
    assert_enforced(path, "active-optimized")


@pytest.mark.parametrize("state", ["offline", "transitioning"])
def test_states_that_no_initiator_can_set(
    paths: tuple[Target, Target], log_in: LogIn, state: str
) -> None:
    path = log_in(paths[0])
    before = reported(path)
    assert set_by(path, {group_of(path): state}) == (5, 0x26, 0x00)
    assert reported(path) == before


def test_what_is_under_way_meets_the_new_state(paths: tuple[Target, Target], log_in: LogIn) -> None:
    """A WRITE that was admitted before, and whose data comes after: it is not carried out."""
    beside = log_in(paths[1])
    keys = {"InitialR2T": "Yes", "ImmediateData": "No"}
    with Session(paths[0].address, paths[0].name, keys=keys) as path:
        path.clear_attentions()
        data = b"\x66" * 4096
        itt = path.start(cdbs.write10(0, 8), write=data)
        r2t, _ = path.connection.receive_until(lambda pdu: pdu.itt == itt)
        assert set_by(beside, {group_of(path): "unavailable"}) == (0, 0, 0)
        path.send_data(r2t, data)
        assert path.finish(itt, write=data).sense_code == SENSE["unavailable"]
    assert beside.command(cdbs.read10(0, 8), read=4096).data == bytes(4096)


def test_states_outlive_a_kill(start_gateway: Callable[..., Gateway], log_in: LogIn) -> None:
    """What an initiator has set holds after SIGKILL, until somebody says something else."""
    gateway = start_gateway(iscsi=list(PORTALS))
    paths = make_paths(gateway)
    path, beside = (log_in(target) for target in paths)
    assert set_by(beside, {group_of(path): "unavailable"}) == (0, 0, 0)
    assert "unavailable" in gateway.run_cli("target", "info", paths[0].name).stdout
    gateway.kill()
    gateway.start()
    path, beside = (log_in(target) for target in paths)
    assert_enforced(path, "unavailable")
    shown = [gateway.api("GET", f"targets/{one.name}")["luns"][0] for one in paths]
    assert [lun["access_state"] for lun in shown] == ["unavailable", "active-optimized"]
    assert_enforced(beside, "active-optimized")
    assert reported(beside)[group_of(path)] == (CODES["unavailable"], EXPLICIT)
    wait_until(lambda: "initiators have set access states" in gateway.log())
    set_state(paths[0], "standby")
    assert beside.command(cdbs.TEST_UNIT_READY).sense_code == CHANGED
    gateway.kill()
    gateway.start()
    assert_enforced(log_in(paths[0]), "standby")


# TPGS, byte 5 bits 5 and 4 of standard INQUIRY data (SPC-4 table 159)
@pytest.mark.parametrize(
    ("who", "tpgs"), [("none", 0b00), ("implicit", 0b01), ("explicit", 0b10), ("both", 0b11)]
)
def test_who_sets_states(iscsi: Gateway, log_in: LogIn, who: str, tpgs: int) -> None:
    target = add_target(iscsi, parameters={"alua": "none" if who != "none" else "both"})
    session = log_in(target)
    iscsi.cli("target", "set", target.name, "--parameter", f"alua={who}")
    assert set(session.clear_attentions()) == {CHANGED, INQUIRY_CHANGED}
    assert session.command(cdbs.inquiry(36), read=36).data[5] >> 4 & 0b11 == tpgs
    report = session.command(ALWAYS["REPORT TARGET PORT GROUPS"], read=1024)
    asked = session.command(NOT_IN_TRANSITION["SET TARGET PORT GROUPS, of none"])
    # One service action of several that is not there is INVALID FIELD IN CDB; A4h has no other.
    assert report.sense_code == ((5, 0x24, 0x00) if who == "none" else (0, 0, 0))
    assert asked.sense_code == ((0, 0, 0) if tpgs & 0b10 else (5, 0x20, 0x00))
    shown = iscsi.run_cli("target", "info", target.name).stdout
    assert (f"alua={who}" in shown) == (who != "implicit")  # that is the default


def test_what_an_initiator_set_ends_with_its_say(
    paths: tuple[Target, Target], log_in: LogIn
) -> None:
    """Nobody else could set it back; and it is there again with the say."""
    path = log_in(paths[0])
    assert set_by(path, {group_of(path): "standby"}) == (0, 0, 0)
    for who, state in (("implicit", "active-optimized"), ("both", "standby")):
        for target in paths:
            target.gateway.cli("target", "set", target.name, "--parameter", f"alua={who}")
        while path.command(cdbs.TEST_UNIT_READY).sense_code[0] == 6:
            pass
        answer = path.command(cdbs.read10(0, 1), read=cdbs.BLOCK)
        assert answer.sense_code == SENSE.get(state, (0, 0, 0))


def test_as_a_document(iscsi: Gateway, paths: tuple[Target, Target], log_in: LogIn) -> None:
    path = log_in(paths[0])
    entry = {"name": paths[0].name, "parameters": {"alua": "both", "access_state": "offline"}}
    document = iscsi.directory / "states.json"
    document.write_text(json.dumps({"targets": [entry]}))
    iscsi.cli("apply", "-f", str(document), "--yes", "--force")
    assert path.command(cdbs.TEST_UNIT_READY).sense_code == CHANGED
    assert_enforced(path, "offline")


@pytest.mark.parametrize(
    "parameters", [["alua=always"], ["access_state=4"], ["alua=explicit", "access_state=standby"]]
)
def test_words_that_are_none(iscsi: Gateway, parameters: list[str]) -> None:
    target = add_target(iscsi)
    options = [part for one in parameters for part in ("--parameter", one)]
    with pytest.raises(CliError):
        iscsi.cli("target", "set", target.name, *options)
    shown = iscsi.api("GET", f"targets/{target.name}")["parameters"]
    assert (shown["alua"], shown["access_state"]) == ("implicit", "active-optimized")
