"""EXTENDED COPY between units, its bounds, and how it ends early."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from blockgate.scsi import Command, CopyJob, LogicalUnit, Nexus, Reaction, StartJob
from blockgate.scsi.alua import Access, AccessState, PortGroup
from blockgate.scsi.copy_manager import Neighbour
from tests.unit.scsi.golden import make_unit, nexus, octets, shown

OTHER = "00000000-1111-2222-3333-444444444444"


def cscd(unit: LogicalUnit, block_size: int = 512) -> bytes:
    """An identification descriptor (SPC-4 6.4.5.4) with a unit's NAA designator."""
    name = bytes.fromhex(unit.facts.identity.wwn)
    head = bytes((0xE4, 0, 0, 0, 0x01, 0x03, 0x00, len(name)))
    return (head + name).ljust(28, b"\0") + block_size.to_bytes(4, "big")


def segment(source: int, destination: int, blocks: int, begin: int, to: int, *, dc: int = 0):
    numbers = source.to_bytes(2, "big") + destination.to_bytes(2, "big")
    lbas = begin.to_bytes(8, "big") + to.to_bytes(8, "big")
    return bytes((0x02, dc << 1, 0, 0x18)) + numbers + bytes(2) + blocks.to_bytes(2, "big") + lbas


def extended_copy(
    cscds: list[bytes], segments: list[bytes], list_id: int = 1, *, usage: int = 0
) -> Command:
    head = bytes((list_id, usage << 3)) + (32 * len(cscds)).to_bytes(2, "big") + bytes(4)
    head += sum(map(len, segments)).to_bytes(4, "big") + bytes(4)
    data = head + b"".join(cscds) + b"".join(segments)
    return Command(bytes((0x83, *bytes(9))) + len(data).to_bytes(4, "big") + bytes(2), data)


def started(reaction: Reaction) -> tuple[int, CopyJob]:
    (effect,) = reaction.effects
    assert reaction.reply is None
    assert isinstance(effect, StartJob) and isinstance(effect.job, CopyJob)
    return effect.key, effect.job


def sense(reaction: Reaction) -> bytes:
    assert reaction.reply is not None and not reaction.effects
    return reaction.reply.sense


def pair(**mapped: bool) -> tuple[LogicalUnit, LogicalUnit]:
    """Two units that nexus A's session has mapped, the second one as ``mapped`` says. At that one
    its target port has another identifier."""
    other = make_unit(uuid=OTHER, serial=OTHER, block_size="4096", blocks="1024")
    other.port_groups.configure(Access((PortGroup(1, (1,)), PortGroup(2, (2,)))))
    here, seats = seated()
    seats.append(Neighbour(other, there(), mapped.get("read_only", False)))
    return here, other


def there() -> Nexus:
    """Nexus A at the second unit."""
    here = nexus("A")
    return replace(here, name=replace(here.name, relative_port=2))


def seated() -> tuple[LogicalUnit, list[Neighbour]]:
    """A unit, and what a session has mapped: that one."""
    seats: list[Neighbour] = []
    here = make_unit(neighbours=lambda _nexus: seats)
    seats.append(Neighbour(here, nexus("A"), read_only=False))
    return here, seats


def test_from_one_unit_to_another_segment_by_segment() -> None:
    here, other = pair()
    copy = extended_copy(
        [cscd(here), cscd(other, 4096)],
        [segment(0, 1, 16, 8, 2), segment(0, 1, 0, 0, 0), segment(1, 0, 1, 3, 64, dc=0)],
    )
    key, job = started(here.execute(nexus("A"), copy))
    uuid = here.facts.identity.uuid
    assert job == CopyJob(uuid, 8 * 512, OTHER, 2 * 4096, 16 * 512)
    key, job = started(here.job_done(key, 0, job.length))  # a segment of nothing is no error
    assert job == CopyJob(OTHER, 3 * 4096, uuid, 64 * 512, 4096)
    status = here.execute(nexus("A"), Command(octets("84 00 01 00*7 00 00 00 0c 00 00")))
    assert status.reply is not None
    assert status.reply.data == octets("00 00 00 08 00 00 02 00 00 00 20 00")
    assert here.job_done(key, 0, job.length).reply is not None


def test_the_number_of_blocks_may_be_the_destinations() -> None:
    here, other = pair()
    copy = extended_copy([cscd(here), cscd(other, 4096)], [segment(0, 1, 2, 0, 0, dc=1)])
    assert started(here.execute(nexus("A"), copy))[1].length == 2 * 4096


def test_the_unit_that_was_asked_by_its_reserved_number() -> None:
    here = make_unit()
    copy = extended_copy([], [segment(0xFFFF, 0xFFFF, 1, 0, 1)])
    assert started(here.execute(nexus("A"), copy))[1].destination_offset == 512


UNREACHABLE = "70 00 0a 00*4 0a 00*4 08 04"
INVALID = "70 00 0a 00*4 0a 00*4 26 00"
FAILURE = "70 00 0a 00*4 0a 00*4 0d 01"
PROTECTED = "70 00 0a 00*4 0a 00*4 27 00"


def refused(here: LogicalUnit, copy: Command) -> str:
    return sense(here.execute(nexus("A"), copy))[:14].hex(" ")


def test_what_the_nexus_itself_could_not_do() -> None:
    here, other = pair(read_only=True)
    to_other = extended_copy([cscd(here), cscd(other, 4096)], [segment(0, 1, 8, 0, 0)])
    from_other = extended_copy([cscd(here), cscd(other, 4096)], [segment(1, 0, 1, 0, 0)])
    assert refused(here, to_other) == octets(PROTECTED).hex(" ")
    started(here.execute(nexus("A"), from_other))
    here, other = pair()
    other.attach(nexus("B"))
    other.execute(nexus("B"), Command(octets("16 00*5")))
    assert refused(here, to_other) == octets(FAILURE).hex(" ")
    assert refused(here, from_other) == octets(FAILURE).hex(" ")
    here, other = pair()
    other.execute(nexus("A"), Command(octets("1b 00*5")))  # stopped
    assert refused(here, to_other) == octets(UNREACHABLE).hex(" ")


@pytest.mark.parametrize(
    ("descriptor", "wanted"),
    [
        (segment(0, 0, 1, 1 << 40, 0), "70 00 0a 00*4 0a 00*4 00 00"),
        (segment(0, 3, 1, 0, 0), UNREACHABLE),
        (segment(0, 1, 1, 0, 0), INVALID),  # 512 bytes into blocks of 4096
    ],
)
def test_segments_that_cannot_be_done(descriptor: bytes, wanted: str) -> None:
    here, other = pair()
    copy = extended_copy([cscd(here), cscd(other, 4096)], [descriptor])
    assert refused(here, copy) == octets(wanted).hex(" ")


def test_a_block_length_that_is_not_the_units() -> None:
    here = make_unit()
    assert refused(here, extended_copy([cscd(here, 4096)], [segment(0, 0, 1, 0, 1)])) == (
        octets(INVALID).hex(" ")
    )


def test_bounds_of_a_list() -> None:
    here = make_unit()
    one = cscd(here)
    piece = segment(0, 0, 1, 0, 1)
    for cscds, segments, asc in [
        (17, 1, "26 06"),  # TOO MANY TARGET DESCRIPTORS
        (1, 65, "26 08"),  # TOO MANY SEGMENT DESCRIPTORS
        (17, 128, "1a 00"),  # PARAMETER LIST LENGTH ERROR: more than 4096 bytes of descriptors
    ]:
        copy = extended_copy([one] * cscds, [piece] * segments)
        data = sense(here.execute(nexus("A"), copy))
        assert (data[2], data[12:14].hex(" ")) == (0x05, asc)
    started(here.execute(nexus("A"), extended_copy([one] * 16, [piece] * 64)))


def test_a_list_identifier_that_is_in_use() -> None:
    here = make_unit()
    copy = extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)])
    started(here.execute(nexus("A"), copy))
    assert sense(here.execute(nexus("A"), copy))[12:14] == octets("00 16")
    started(here.execute(nexus("B"), copy))  # another nexus has its own


def test_no_more_copies_at_a_time_than_are_announced() -> None:
    here = make_unit()
    for list_id in range(16):
        copy = extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)], list_id)
        key, _ = started(here.execute(nexus("A"), copy))
    more = extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)], 99)
    assert sense(here.execute(nexus("A"), more))[12:14] == octets("00 16")
    here.job_done(key, 0, 512)
    started(here.execute(nexus("A"), more))


def test_results_that_are_kept_are_bounded() -> None:
    here = make_unit()
    for list_id in range(40):
        copy = extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)], list_id)
        key, _ = started(here.execute(nexus("A"), copy))
        here.job_done(key, 0, 512)
    known = [
        not sense(here.execute(nexus("A"), Command(bytes((0x84, 0, n, *bytes(10), 12, 0, 0)))))
        for n in range(40)
    ]
    assert known == [False] * 24 + [True] * 16


def known(unit: LogicalUnit, list_id: int) -> bytes:
    """RECEIVE COPY RESULTS, COPY STATUS: its data, none where there is no such list."""
    reply = unit.execute(nexus("A"), Command(bytes((0x84, 0, list_id, *bytes(10), 12, 0, 0)))).reply
    assert reply is not None
    return reply.data


@pytest.mark.parametrize("aborted", [False, True])
def test_a_copy_without_an_identifier_leaves_the_result_of_identifier_zero(aborted: bool) -> None:
    here = make_unit()
    pieces = [segment(0, 0, 1, 0, 1)]
    held = extended_copy([cscd(here)], pieces, list_id=0)
    key, _ = started(here.execute(nexus("A"), held))
    here.job_done(key, 0, 512)
    assert (result := known(here, 0))
    unnamed = extended_copy([cscd(here)], pieces * 2, list_id=0, usage=3)
    key, _ = started(here.execute(nexus("A"), unnamed))
    if aborted:
        here.task_aborted(key)
        here.job_done(key, errno.ECANCELED, 0)
    else:
        key, _ = started(here.job_done(key, 0, 512))
        here.job_done(key, 0, 512)
    assert known(here, 0) == result


def test_a_copy_that_was_aborted_leaves_the_result_of_the_next_by_its_identifier() -> None:
    here = make_unit()
    copy = extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)])
    key, _ = started(here.execute(nexus("A"), copy))
    here.task_aborted(key)
    assert not known(here, 1)
    started(here.execute(nexus("A"), copy))
    here.job_done(key, errno.ECANCELED, 0)
    assert known(here, 1)


def test_a_session_that_ends_takes_its_copies_along() -> None:
    here = make_unit()
    here.attach(nexus("A"))
    copy = extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)])
    key, _ = started(here.execute(nexus("A"), copy))
    assert [shown(effect) for effect in here.detach(nexus("A"))] == ["cancel"]
    here.job_done(key, errno.ECANCELED, 0)
    status = here.execute(nexus("A"), Command(octets("84 00 01 00*7 00 00 00 0c 00 00")))
    assert sense(status)[12:14] == octets("24 00")


def test_an_aborted_command_stops_its_copy_but_no_sanitizing() -> None:
    here = make_unit()
    copy = extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)])
    key, _ = started(here.execute(nexus("A"), copy))
    assert [shown(effect) for effect in here.task_aborted(key)] == ["cancel"]
    here.execute(nexus("A"), Command(octets("48 02 00*8")))
    assert here.task_aborted(key + 1) == ()


def test_a_copy_that_is_aborted_when_a_segment_ends_begins_no_other() -> None:
    here = make_unit()
    two = [segment(0, 0, 1, 0, 1), segment(0, 0, 1, 0, 2)]
    key, _ = started(here.execute(nexus("A"), extended_copy([cscd(here)], two)))
    here.task_aborted(key)
    assert here.job_done(key, 0, 512).effects == ()


def test_who_loses_the_right_to_a_unit_may_not_go_on_with_a_copy_to_it() -> None:
    here, other = pair()
    for unit in (here, other):
        unit.attach(nexus("A"))
        unit.attach(nexus("B"))
    copy = extended_copy([cscd(here), cscd(other, 4096)], [segment(0, 1, 8, 0, 0)])
    key, _ = started(here.execute(nexus("A"), copy))
    assert here.copies.may_go_on(key)
    other.execute(nexus("B"), Command(octets("16 00*5")))  # RESERVE(6)
    assert not here.copies.may_go_on(key)
    ended = here.job_done(key, errno.ECANCELED, 0)
    assert sense(ended)[:14] == octets("70 00 0a 00*4 0a 00*4 0d 01")
    assert here.copies.may_go_on(key), "there is none any more"


@pytest.mark.parametrize("number", [0, 0xFFFF])
def test_what_became_read_only_for_the_nexus_is_written_no_more(number: int) -> None:
    here, seats = seated()
    pieces = [segment(0, number, 1, 0, lba) for lba in (1, 2)]
    key, _ = started(here.execute(nexus("A"), extended_copy([cscd(here)], pieces)))
    seats[:] = [Neighbour(here, nexus("A"), read_only=True)]
    assert not here.copies.may_go_on(key)
    # the command-specific information is the number of the segment, which is the second one
    assert sense(here.job_done(key, 0, 512))[:14] == octets("70 00 0a 00*4 0a 00*3 01 27 00")


def test_what_is_not_mapped_any_more_is_not_reached() -> None:
    here, seats = seated()
    pieces = [segment(0xFFFF, 0xFFFF, 1, 0, lba) for lba in (1, 2)]
    key, _ = started(here.execute(nexus("A"), extended_copy([], pieces)))
    seats.clear()
    assert sense(here.job_done(key, 0, 512))[:14] == octets("70 00 0a 00*4 0a 00*3 01 08 04")


STATES = [state for state in AccessState if "ACTIVE" not in state.name]


@pytest.mark.parametrize("state", STATES)
def test_no_unit_is_reached_by_a_port_that_is_not_active_for_it(state: AccessState) -> None:
    here, other = pair()
    both = [cscd(here), cscd(other, 4096)]
    to_other = extended_copy(both, [segment(0, 1, 8, lba, 0) for lba in (0, 8)])
    from_other = extended_copy(both, [segment(1, 0, 1, 0, 0)], list_id=2)
    key, _ = started(here.execute(nexus("A"), to_other))
    other.port_groups.become({1: state})  # another port's
    assert here.copies.may_go_on(key)
    other.port_groups.become({2: state})
    assert not here.copies.may_go_on(key)
    assert sense(here.job_done(key, 0, 4096))[:14] == octets("70 00 0a 00*4 0a 00*3 01 08 04")
    assert refused(here, to_other) == octets(UNREACHABLE).hex(" ")
    assert refused(here, from_other) == octets(UNREACHABLE).hex(" ")
    other.port_groups.become({2: AccessState.ACTIVE_NONOPTIMIZED})
    started(here.execute(nexus("A"), to_other))


def test_nor_is_the_unit_that_was_asked_when_its_state_changes() -> None:
    here, other = pair()
    pieces = [segment(0, 1, 8, lba, 0) for lba in (0, 8)]
    copy = extended_copy([cscd(here), cscd(other, 4096)], pieces)
    key, _ = started(here.execute(nexus("A"), copy))
    here.port_groups.become({1: AccessState.STANDBY})
    assert sense(here.job_done(key, 0, 4096))[:14] == octets("70 00 0a 00*4 0a 00*3 01 08 04")


def test_a_reservation_at_a_unit_that_names_the_target_port_otherwise() -> None:
    here, other = pair()
    other.attach(there())
    other.execute(there(), Command(octets("16 00*5")))  # RESERVE(6)
    copy = extended_copy([cscd(here), cscd(other, 4096)], [segment(0, 1, 8, 0, 0)])
    started(here.execute(nexus("A"), copy))


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_pool(error: int) -> None:
    here = make_unit()
    key, _ = started(
        here.execute(nexus("A"), extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)]))
    )
    failed = here.job_done(key, error, 0)
    assert sense(failed)[:14] == octets("70 00 0a 00*4 0a 00*4 27 07")


def test_a_copy_whose_job_could_not_be_started() -> None:
    here = make_unit()
    copy = extended_copy([cscd(here)], [segment(0, 0, 1, 0, 1)])
    for _ in range(20):  # more than are announced at a time: none of them is left behind
        assert here.not_done(here.execute(nexus("A"), copy).effects) == ()
