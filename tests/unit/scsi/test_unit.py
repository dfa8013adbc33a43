"""What happens to a logical unit from outside, and the gate that follows from it."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from blockgate.scsi import (
    Command,
    GateChanged,
    LogicalUnit,
    Part,
    Port,
    Reaction,
    Reply,
    Situation,
    Status,
)
from blockgate.scsi.alua import Access, PortGroup
from blockgate.scsi.answers import ANSWERS
from blockgate.scsi.diagnostics import PoolUsage
from blockgate.scsi.families import _BY_OPCODE, _HANDLERS
from blockgate.scsi.opcodes import table
from tests.unit.scsi.golden import make_unit, nexus, octets, shown

SWP = octets("00 00 00 00 0a 0a 22 10 08 00*7")
GIB = 1 << 30


def record_of(unit: LogicalUnit) -> bytes:
    """What the state store has of the operation that runs."""
    assert unit.sanitizer._operation is not None
    return unit.sanitizer._operation.record()


def send(unit: LogicalUnit, cdb: str, out: bytes = b"", who: str = "A") -> Reply:
    reply = unit.execute(nexus(who), Command(octets(cdb), out)).reply
    assert reply is not None
    return reply


def names(effects: object) -> list[str]:
    assert isinstance(effects, tuple)
    return [shown(effect) for effect in effects]


def test_every_row_has_somebody_who_executes_it() -> None:
    for row in table().commands:
        code = (row.opcode, row.service_action)
        known = code in ANSWERS or code in _HANDLERS or row.opcode in _BY_OPCODE
        by_transport = row.name == "REPORT LUNS"
        assert known or by_transport == (row.action in ("handed", "canned")), row.name


def test_a_new_nexus_finds_power_on_a_returning_one_its_loss() -> None:
    unit = make_unit()
    assert names(unit.attach(nexus("A"))) == ["attend POWER_ON A"]
    assert unit.detach(nexus("A")) == ()
    again = replace(nexus("A"), number=9)
    assert names(unit.attach(again)) == ["attend NEXUS_LOSS I"]


def test_what_a_nexus_prevented_ends_with_it() -> None:
    unit = make_unit(removable="yes")
    unit.attach(nexus("A"))
    send(unit, "1e 00 00 00 01 00")
    assert send(unit, "1b 00 00 00 06 00", who="B").status is Status.CHECK_CONDITION
    unit.detach(nexus("A"))
    assert send(unit, "1b 00 00 00 06 00", who="B").status is Status.GOOD


def test_a_reset_allows_starts_and_goes_back_to_saved_pages() -> None:
    unit = make_unit(removable="yes")
    send(unit, "1e 00 00 00 01 00")
    send(unit, "15 10 00 00 10 00", SWP)
    assert unit.write_protected
    assert names(unit.reset()) == ["gate"]
    assert not unit.write_protected
    assert send(unit, "1b 00 00 00 06 00").status is Status.GOOD
    assert unit.reset() == ()
    send(unit, "15 11 00 00 10 00", SWP)  # SP
    assert unit.reset() == ()
    assert unit.write_protected


def test_a_stopped_unit_is_started_by_a_reset() -> None:
    unit = make_unit()
    send(unit, "1b 00 00 00 04 00")
    assert names(unit.reset()) == ["gate"]
    assert send(unit, "00 00*5").status is Status.GOOD


def test_a_grown_volume_is_told_to_every_nexus() -> None:
    unit = make_unit(blocks="1000")
    assert names(unit.set_capacity(2000)) == ["gate", "attend CAPACITY_DATA_HAS_CHANGED all"]
    assert unit.set_capacity(2000) == ()
    assert send(unit, "25 00*9").data == octets("00 00 07 cf 00 00 02 00")
    assert unit.gate().canned[octets("25 00*9")] == octets("00 00 07 cf 00 00 02 00")


def test_other_facts_are_told_as_what_they_are() -> None:
    unit = make_unit()
    facts = replace(unit.facts, read_only=True)
    assert names(unit.set_facts(facts)) == ["gate", "attend MODE_PARAMETERS_CHANGED all"]
    assert send(unit, "1a 08 0a 00 04 00").data == octets("0f 00 90 00")  # WP
    named = replace(facts, identity=replace(facts.identity, revision="0002"))
    assert names(unit.set_facts(named)) == ["gate", "attend INQUIRY_DATA_HAS_CHANGED all"]


@pytest.mark.parametrize(
    ("before", "after", "out_of_use"), [("yes", "no", "06"), ("no", "yes", "04")]
)
def test_a_medium_of_the_other_kind_is_in_use(before: str, after: str, out_of_use: str) -> None:
    unit = make_unit(removable=before)
    send(unit, f"1b 00 00 00 {out_of_use} 00")  # ejected, or stopped; NO_FLUSH
    assert unit.not_ready is not None
    grown = replace(unit.facts, blocks=1 << 22)
    unit.set_facts(grown)
    assert unit.not_ready is not None, "of the same kind it stays as it is"
    other = make_unit(removable=after).facts
    told = ["gate", "attend MEDIUM_MAY_HAVE_CHANGED|INQUIRY_DATA_HAS_CHANGED all"]
    assert names(unit.set_facts(replace(grown, identity=other.identity))) == told
    assert unit.not_ready is None and unit.gate().not_ready is None
    back = names(unit.set_facts(grown))
    assert back == ["gate", "attend INQUIRY_DATA_HAS_CHANGED all"], "it was in use"


def test_what_was_selected_outlives_other_facts() -> None:
    unit = make_unit()
    send(unit, "15 10 00 00 10 00", SWP)
    unit.set_facts(replace(unit.facts, write_back=False))
    assert unit.write_protected
    caching = send(unit, "1a 08 08 00 ff 00").data
    assert caching[4:7] == octets("88 12 00")  # WCE 0


def test_a_pool_that_runs_low_is_told_once() -> None:
    unit = make_unit()
    assert unit.set_pool(PoolUsage(1 << 40, 0), low=False) == ()
    low = unit.set_pool(PoolUsage(1 << 30, 5 << 20), low=True)
    assert names(low) == ["attend THIN_PROVISIONING_SOFT_THRESHOLD_REACHED all"]
    assert unit.set_pool(PoolUsage(1 << 29, 6 << 20), low=True) == ()
    unit.set_pool(PoolUsage(1 << 40, 0), low=False)
    assert unit.set_pool(PoolUsage(1 << 30, 5 << 20), low=True) != ()
    full = make_unit(thin="no")
    assert full.set_pool(PoolUsage(1 << 30, 0), low=True) == ()


def test_who_has_read_of_a_threshold_is_told_when_it_is_another_one() -> None:
    """SBC-3 6.4.7: what no initiator has changed. With the first look at a pool the page comes."""
    unit = make_unit(threshold="10")
    page = "1a 08 1c 02 ff 00"
    assert send(unit, page).status is Status.CHECK_CONDITION
    assert unit.set_pool_size(1 << 30) == ()
    assert send(unit, page).data[-4:] == octets("00 00 00 66")
    assert unit.set_pool_size((1 << 30) + 4096) == (), "the same number of sets"
    told = "attend MODE_PARAMETERS_CHANGED all"
    assert names(unit.set_pool_size(1 << 31)) == [told]
    assert names(unit.set_facts(replace(unit.facts, threshold=20))) == ["gate", told]
    assert send(unit, page).data[-4:] == octets("00 00 01 9a")


def test_the_log_page_counts_threshold_sets() -> None:
    """Logical Block Provisioning log page (SBC-3 6.3.4): sets of 2**11 blocks, 1 MiB each."""
    unit = make_unit()
    unit.set_pool(PoolUsage(1 << 30, 5 << 20), low=False)
    assert send(unit, "4d 00 40 00 00 00 00 00 ff 00").data == octets("00 00 00 02 00 0c")
    available = octets("00 01 03 08 00 00 04 00 02 00 00 00")
    used = octets("00 02 03 08 00 00 00 05 01 00 00 00")
    log = send(unit, "4d 00 4c 00 00 00 00 00 ff 00").data
    assert log == octets("0c 00 00 18") + available + used
    later = send(unit, "4d 00 4c 00 00 00 02 00 ff 00").data  # PARAMETER POINTER 2
    assert later == octets("0c 00 00 0c") + used


def test_saved_pages_outlive_a_restart() -> None:
    unit = make_unit()
    send(unit, "15 11 00 00 10 00", SWP)
    record = unit.pages.record()
    other = make_unit()
    assert other.restore({Part.MODE_PAGES: record}) == ()
    assert other.write_protected
    assert send(other, "1a 08 ca 00 ff 00").data[8] == 0x08


def test_a_saved_page_does_not_bring_back_another_cache_mode() -> None:
    unit = make_unit(write_back="yes")
    send(unit, "15 11 00 00 18 00", octets("00 00 00 00 08 12 04 00*17"))
    other = make_unit(write_back="no")
    other.restore({Part.MODE_PAGES: unit.pages.record()})
    for control in ("08", "c8"):
        assert send(other, f"1a 08 {control} 00 ff 00").data[4:7] == octets("88 12 00")


def test_a_page_of_another_form_keeps_its_default() -> None:
    unit = make_unit()
    unit.restore({Part.MODE_PAGES: b'{"0a/00": "0a04", "3e/00": "3e00"}'})
    assert unit.pages.saved == {}


def test_a_sanitize_operation_goes_on_after_a_restart() -> None:
    unit = make_unit(blocks="2048")
    overwrite = octets("82 00 00 04 00*4")  # two passes, inverted in between
    begun = unit.execute(nexus("A"), Command(octets("48 01 00*5 00 08 00"), overwrite))
    assert names(begun.effects)[-1] == "fill 0 1048576 with ffffffff in 512"
    unit.job_done(1, 0, 1 << 20)
    other = make_unit(blocks="2048")
    resumed = other.restore({Part.SANITIZE: record_of(unit)})
    assert names(resumed) == ["gate", "fill 0 1048576 with 00000000 in 512"]
    assert other.gate().not_ready is not None
    over = other.job_done(1, 0, 1 << 20)
    assert over.reply is None and names(over.effects) == ["persist sanitize nothing", "gate"]


def test_a_sanitize_operation_is_recorded_stretch_by_stretch() -> None:
    blocks = str(3 * GIB // 4 // 512)
    unit = make_unit(blocks=blocks)
    # OVERWRITE, two passes, inverted in between
    overwrite = Command(octets("48 01 00*5 00 08 00"), octets("82 00 00 04 00*4"))
    reaction = unit.execute(nexus("A"), overwrite)
    stretches = ((0, GIB // 2), (GIB // 2, GIB // 4))
    work = [
        f"fill {offset} {length} with {pattern} in 512"
        for pattern in ("ffffffff", "00000000")
        for offset, length in stretches
    ]
    for number, stretch in enumerate(work, 1):
        assert names(reaction.effects) == ["persist sanitize", "gate", stretch]
        other = make_unit(blocks=blocks)
        resumed = other.restore({Part.SANITIZE: record_of(unit)})
        assert names(resumed) == ["gate", stretch], "a gateway that is started again"
        assert reaction.reply is None
        reaction = unit.job_done(number, 0, 1)
    assert names(reaction.effects) == ["persist sanitize nothing", "gate"]
    assert reaction.reply is not None and reaction.reply.status == 0


def test_what_a_volume_grows_by_meanwhile_is_sanitized_as_well() -> None:
    unit = make_unit(blocks="2048")
    unit.execute(nexus("A"), Command(ERASE))
    unit.set_capacity(4096)
    grown = unit.job_done(1, 0, 1 << 20)
    assert names(grown.effects) == ["persist sanitize", "gate", "punch 1048576 1048576"]
    assert names(unit.job_done(2, 0, 1 << 20).effects) == ["persist sanitize nothing", "gate"]


def test_erasing_is_cut_less_finely() -> None:
    unit = make_unit(blocks=str(65 * GIB // 512))
    begun = unit.execute(nexus("A"), Command(ERASE))
    assert names(begun.effects)[-1] == f"punch 0 {64 * GIB}"
    assert names(unit.job_done(1, 0, 1).effects)[-1] == f"punch {64 * GIB} {GIB}"


def test_a_record_that_counts_passes_alone_is_understood() -> None:
    unit = make_unit(blocks="2048")
    record = (
        b'{"done": 0, "invert": false, "passes": 1, "pattern": "", '
        b'"stage": "running", "unrestricted": false}'
    )
    assert names(unit.restore({Part.SANITIZE: record})) == ["gate", "punch 0 1048576"]


@pytest.mark.parametrize("error", [errno.ESHUTDOWN, errno.ECANCELED, errno.ENOENT])
def test_a_sanitize_operation_that_is_stopped_from_below_goes_on(error: int) -> None:
    unit = make_unit(blocks="2048")
    unit.execute(nexus("A"), Command(octets("48 82 00*8")))  # block erase, IMMED
    assert unit.sanitizer.resume() == (), "a job is at it"
    assert unit.job_done(1, error, 4096) == Reaction(None)
    assert unit.not_ready is not None
    assert names(unit.sanitizer.resume()) == ["gate", "punch 0 1048576"]
    over = unit.job_done(2, 0, 1 << 20)
    assert names(over.effects) == ["persist sanitize nothing", "gate"]
    assert unit.not_ready is None


def test_what_the_job_of_a_closed_volume_says_late_is_of_no_account() -> None:
    unit = make_unit(blocks="2048")
    unit.execute(nexus("A"), Command(octets("48 82 00*8")))
    unit.sanitizer.closed()
    assert len(unit.sanitizer.resume()) == 2
    assert unit.job_done(1, 0, 1 << 20) == Reaction(None), "the second job still writes"
    assert unit.not_ready is not None


def test_a_gateway_that_stops_leaves_the_operation_recorded() -> None:
    unit = make_unit(blocks="2048")
    unit.execute(nexus("A"), Command(octets("48 82 00*8")))
    assert unit.job_done(1, errno.ECANCELED, 0).effects == ()
    assert unit.sanitizer.running


ERASE = octets("48 82 00*8")


class TestNotDone:
    """What an effect stood for has not happened where it could not be had."""

    def test_pages_that_could_not_be_saved(self) -> None:
        unit = make_unit()
        reaction = unit.execute(nexus("A"), Command(octets("15 11 00 00 10 00"), SWP))
        assert unit.not_done(reaction.effects) == (GateChanged(),)
        assert not unit.write_protected
        assert unit.pages.saved == {}

    def test_an_operation_that_could_not_be_recorded_has_not_begun(self) -> None:
        unit = make_unit(blocks="2048")
        reaction = unit.execute(nexus("A"), Command(ERASE))
        assert names(unit.not_done(reaction.effects)) == ["gate"]
        assert send(unit, "00 00*5").status is Status.GOOD
        assert unit.job_done(1, 0, 1 << 20).effects == ()

    def test_an_end_that_could_not_be_recorded_is_a_failure(self) -> None:
        """Else a gateway that is started again would erase what has been written since."""
        unit = make_unit(blocks="2048")
        unit.execute(nexus("A"), Command(ERASE))
        over = unit.job_done(1, 0, 1 << 20)
        unit.not_done(over.effects)
        assert send(unit, "00 00*5").sense[12:14] == octets("31 03")

    def test_a_pass_that_could_not_begin(self) -> None:
        unit = make_unit(blocks="2048")
        reaction = unit.execute(nexus("A"), Command(ERASE))
        left = unit.not_done(reaction.effects[2:])
        assert names(left) == ["persist sanitize", "gate"]
        assert send(unit, "00 00*5").sense[12:14] == octets("31 03")

    def test_an_effect_after_which_nothing_has_to_be_taken_back(self) -> None:
        unit = make_unit()
        reaction = unit.execute(nexus("A"), Command(octets("15 10 00 00 10 00"), SWP))
        assert unit.not_done(reaction.effects) == ()


def test_progress_is_in_the_gate_in_steps() -> None:
    unit = make_unit(blocks="2048")
    unit.execute(nexus("A"), Command(octets("48 82 00*8")))
    assert unit.job_progress(1, 1000) == ()
    assert names(unit.job_progress(1, 1 << 19)) == ["gate"]
    not_ready = unit.gate().not_ready
    assert not_ready is not None
    assert not_ready.encode(descriptor=False)[-3:] == octets("80 80 00")
    assert unit.job_progress(2, 1 << 20) == ()


class TestGate:
    """The gate has what the unit answers: not another thing, and not when it would be wrong."""

    def test_ready_answers_are_what_execute_answers(self) -> None:
        unit = make_unit()
        gate = unit.gate()
        ready = {**gate.canned, **gate.ports[7].canned}
        assert len(ready) > 40
        for key, data in ready.items():
            row = table().find(key)
            cdb = bytearray(key)
            if row.allocation is not None:
                end = row.allocation.offset + row.allocation.length
                cdb[row.allocation.offset : end] = b"\xff" * row.allocation.length
            reply = unit.execute(nexus("A"), Command(bytes(cdb))).reply
            assert reply == Reply(data=data), row.name

    def test_ports_have_their_own_identification(self) -> None:
        unit = make_unit()
        ports = [Port(7, "iqn.a,t,0x0001", 1), Port(8, "iqn.b,t,0x0001", 2)]
        assert names(unit.set_ports(ports)) == ["gate"]
        assert unit.set_ports(ports) == ()
        gate = unit.gate()
        page = octets("12 01 83 00 00 00")
        assert b"iqn.a,t,0x0001\0\0" in gate.ports[7].canned[page]
        assert b"iqn.b,t,0x0001\0\0" in gate.ports[8].canned[page]
        standard = gate.ports[7].canned[bytes.fromhex("120000000000")]
        assert standard[6] & 0x10  # MULTIP

    def test_flags(self) -> None:
        unit = make_unit()
        gate = unit.gate()
        assert not (gate.descriptor_sense or gate.software_write_protect or gate.tas or gate.qerr)
        send(unit, "15 10 00 00 10 00", octets("00 00 00 00 0a 0a 26 16 08 40 00*6"))
        gate = unit.gate()
        assert gate.descriptor_sense and gate.software_write_protect and gate.tas
        assert gate.qerr == 3
        assert (gate.limits.compare_and_write, gate.limits.unmap_descriptors) == (255, 256)

    def test_situations(self) -> None:
        unit = make_unit()
        for letter in "AB":
            unit.attach(nexus(letter))
        send(unit, "16 00*5")
        gate = unit.gate()
        assert gate.default_access is Situation.LEGACY_OTHER
        assert gate.access == {1: Situation.FREE}

    def test_without_a_medium(self) -> None:
        unit = make_unit(removable="yes")
        send(unit, "1b 00 00 00 06 00")
        gate = unit.gate()
        assert gate.not_ready is not None and gate.not_ready.asc == 0x3A
        assert bytes(6) not in gate.canned  # TEST UNIT READY
        assert octets("25 00*9") not in gate.canned
        assert octets("1a 00 3f 00 00 00") in gate.canned

    def test_while_it_is_sanitized(self) -> None:
        unit = make_unit()
        unit.execute(nexus("A"), Command(octets("48 82 00*8")))
        gate = unit.gate()
        assert gate.canned == {}
        assert octets("12 00*5") in gate.ports[7].canned

    def test_write_protection_that_not_all_nexuses_have(self) -> None:
        """Then MODE SENSE, which says so, has no ready answer."""
        unit = make_unit()
        control = octets("1a 08 0a 00 00 00")
        assert control in unit.gate().canned
        assert "gate" in names(unit.attach(nexus("B"), read_only=True))
        assert control not in unit.gate().canned
        cdb = octets("1a 08 0a 00 04 00")
        seen = unit.execute(nexus("B"), Command(cdb, read_only=True)).reply
        assert seen is not None and seen.data == octets("0f 00 90 00")
        assert send(unit, "1a 08 0a 00 04 00").data == octets("0f 00 10 00")
        assert "gate" in names(unit.detach(nexus("B")))
        assert control in unit.gate().canned

    def test_write_protection_that_comes_and_goes_during_a_session(self) -> None:
        unit = make_unit()
        control = octets("1a 08 0a 00 00 00")
        unit.attach(nexus("B"))
        assert names(unit.remap(nexus("B"), read_only=True)) == ["gate"]
        assert control not in unit.gate().canned
        assert names(unit.remap(nexus("B"), read_only=True)) == []
        assert names(unit.remap(nexus("B"), read_only=False)) == ["gate"]
        assert control in unit.gate().canned


def test_a_nexus_that_may_only_read_cannot_sanitize() -> None:
    unit = make_unit()
    command = Command(octets("48 02 00*8"), read_only=True)
    reply = unit.execute(nexus("A"), command).reply
    assert reply is not None
    assert reply.sense == octets("70 00 07 00*4 0a 00*4 27 00 00*4")
    send(unit, "15 10 00 00 10 00", SWP)
    assert send(unit, "48 02 00*8").sense == octets("70 00 07 00*4 0a 00*4 27 02 00*4")


@pytest.mark.parametrize(
    ("cdb", "data"),
    [
        ("1b 00 00 00 00 00", b""),  # stop
        ("1b 00 00 00 02 00", b""),  # eject
        ("15 10 00 00 10 00", SWP),
        ("55 10 00*5 00 14 00", octets("00*4") + SWP),
        ("a4 0a 00*10", b""),
        ("16 00*5", b""),  # RESERVE
        ("56 00*9", b""),
        ("48 1f 00*8", b""),  # SANITIZE, EXIT FAILURE MODE: of no failure, it is GOOD
    ],
)
def test_a_nexus_that_may_only_read_does_not_decide_for_the_others(cdb: str, data: bytes) -> None:
    unit = make_unit(removable="yes" if cdb == "1b 00 00 00 02 00" else "no")
    unit.port_groups.configure(Access((PortGroup(1, (1,)),), explicit=True))
    command = Command(octets(cdb), data, read_only=True)
    refused = unit.execute(nexus("A"), command)
    assert refused.effects == () and refused.reply is not None
    assert refused.reply.sense == octets("70 00 07 00*4 0a 00*4 27 00 00*4")
    other = unit.execute(nexus("B"), replace(command, read_only=False))
    assert other.reply is None or other.reply.status == Status.GOOD


@pytest.mark.parametrize("action", ["01", "02", "03", "04", "05", "07"])
def test_a_nexus_that_may_only_read_reserves_for_nobody(action: str) -> None:
    unit = make_unit()
    register = Command(octets("5f 00 00*6 18 00"), octets("00*15 0a 00*8"), read_only=True)
    registered = unit.execute(nexus("A"), register).reply
    assert registered is not None and registered.status == Status.GOOD
    before = unit.reservations.state
    cdb = octets(f"5f {action} 01 00*5 18 00")
    command = Command(cdb, octets("00*7 0a 00*7 0a 00*8"), read_only=True)
    refused = unit.execute(nexus("A"), command)
    assert refused.effects == () and refused.reply is not None
    assert refused.reply.sense == octets("70 00 07 00*4 0a 00*4 27 00 00*4")
    assert unit.reservations.state == before


@pytest.mark.parametrize("action", ["00", "06"])
def test_a_nexus_that_may_only_read_registers_itself(action: str) -> None:
    unit = make_unit()
    cdb = octets(f"5f {action} 00*6 18 00")
    for data, keys in (("00*15 0a 00*8", [0xA]), ("00*7 0a 00*16", [])):
        reply = unit.execute(nexus("A"), Command(cdb, octets(data), read_only=True)).reply
        assert reply is not None and reply.status == Status.GOOD
        assert list(unit.reservations.state.registrations.values()) == keys


def test_a_nexus_that_may_only_read_registers_nobody_else() -> None:
    unit = make_unit()
    other = octets("00*15 0a 00*4 08 00*3 00 00 00 30 45 00 00 2c")
    other += nexus("B").name.initiator_port.encode().ljust(44, b"\0")
    command = Command(octets("5f 00 00*6 4c 00"), other, read_only=True)
    refused = unit.execute(nexus("A"), command).reply
    assert refused is not None
    assert refused.sense == octets("70 00 07 00*4 0a 00*4 27 00 00*4")
    reply = unit.execute(nexus("A"), replace(command, read_only=False)).reply
    assert reply is not None and reply.status == Status.GOOD
    assert unit.reservations.state.registrations.keys() == {nexus("A").name, nexus("B").name}


def test_a_nexus_that_may_only_read_gives_back_what_it_has() -> None:
    unit = make_unit()
    send(unit, "16 00*5")
    reply = unit.execute(nexus("A"), Command(octets("17 00*5"), read_only=True)).reply
    assert reply is not None and reply.status == Status.GOOD
    assert unit.reservations.state.legacy is None


def test_a_nexus_that_may_only_read_starts_and_asks() -> None:
    unit = make_unit()
    send(unit, "1b 00 00 00 04 00")
    for cdb in ("1b 00 00 00 01 00", "1a 00 3f 00 ff 00", "1e 00 00 00 00 00", "5e 00*6 00 ff 00"):
        reply = unit.execute(nexus("B"), Command(octets(cdb), read_only=True)).reply
        assert reply is not None and reply.status == Status.GOOD


@pytest.mark.parametrize("size", ["511", "1000"])
def test_impossible_blocks(size: str) -> None:
    with pytest.raises(ValueError):
        make_unit(block_size=size)
