"""Whatever a command is made of, a logical unit answers it, and keeps what it promises."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from blockgate.scsi import Command, StartJob, Status, unmapped
from blockgate.scsi.opcodes import table
from tests.unit.scsi.golden import make_unit, nexus

KNOWN = st.sampled_from(table().commands)


@st.composite
def commands(draw: st.DrawFn) -> Command:
    """CDBs of rows that are known, with bits that mean something more often than not; or any."""
    if draw(st.booleans()):
        row = draw(KNOWN)
        noise = draw(st.binary(min_size=16, max_size=16))
        cdb = bytearray(byte & mask for byte, mask in zip(noise, row.usage, strict=False))
        cdb[0] = row.opcode
        if row.service_action is not None:
            cdb[1] = cdb[1] & 0xE0 | row.service_action
        cdb[-1] = draw(st.sampled_from([0, 0, 0, 4]))
        cdb = cdb[: draw(st.sampled_from([row.cdb_length] * 9 + [3]))]
    else:
        cdb = bytearray(draw(st.binary(max_size=16)))
    return Command(bytes(cdb), draw(st.binary(max_size=120)), draw(st.booleans()))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("AB"), commands()), max_size=30),
    st.booleans(),
    st.booleans(),
)
def test_every_command_is_answered(
    sent: list[tuple[str, Command]], thin: bool, removable: bool
) -> None:
    unit = make_unit(
        thin="yes" if thin else "no", removable="yes" if removable else "no", blocks="4096"
    )
    for letter in "AB":
        unit.attach(nexus(letter))
    for letter, command in sent:
        reaction = unit.execute(nexus(letter), command)
        jobs = [effect for effect in reaction.effects if isinstance(effect, StartJob)]
        if reaction.reply is None:
            assert len(jobs) == 1, "nobody would ever answer"
        else:
            assert (reaction.reply.status is Status.CHECK_CONDITION) == bool(reaction.reply.sense)
        unit.gate()
        for job in jobs:
            while True:
                ended = unit.job_done(job.key, 0, 512)
                more = [effect for effect in ended.effects if isinstance(effect, StartJob)]
                if not more:
                    break
                (job,) = more
    for letter in "AB":
        unit.detach(nexus(letter))
    assert not unit.medium.prevented_by


@settings(deadline=None)
@given(commands())
def test_no_lun_answers_too(command: Command) -> None:
    reply = unmapped.execute(command.cdb)
    assert (reply.status is Status.CHECK_CONDITION) == bool(reply.sense)
