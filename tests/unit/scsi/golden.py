"""Reads scenario files and plays them to a logical unit: bytes in, bytes out.

A line is a word and what belongs to it; ``#`` begins a comment::

    unit thin=no removable=yes   a fresh unit (the keys are those of make_unit)
    nexus B                      who sends what follows; A at first
    > 12 00 00 00 60 00          a CDB
    out 00 00*7                  its Data-Out; bytes, or a byte and how often
    < GOOD                       its status, or "pending": the reply comes later
    in 00 00 06 12               its Data-In, all of it
    sense 70 00 05 ...           its sense data, all of it
    effect gate                  what is done before the reply, in order and all of it
    done ok                      the job that was started last has ended; or an errno's name
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from blockgate.model.units import UnitIdentity
from blockgate.scsi import (
    AbortNexus,
    Attend,
    CancelJob,
    Command,
    CopyJob,
    Effect,
    Facts,
    FillJob,
    FlushJob,
    GateChanged,
    LogicalUnit,
    Nexus,
    NexusName,
    Persist,
    Port,
    Reaction,
    StartJob,
    Status,
    ZeroJob,
)
from blockgate.scsi.alua import TargetPortGroups
from blockgate.scsi.copy_manager import Neighbour, Neighbours
from blockgate.scsi.reservations import Reservations

UUID = "653e4072-8aad-4e9d-900e-4059f0e19e7e"
TARGET_PORT = "iqn.2026-01.org.example:t,t,0x0001"


def make_unit(
    *,
    vendor: str = "BLKGATE",
    product: str = "VOLUME",
    serial: str = UUID,
    uuid: str = UUID,
    scsi_id: str = "",
    backend: str = "",
    thin: str = "yes",
    zeroes: str = "yes",
    removable: str = "no",
    rotational: str = "no",
    read_only: str = "no",
    write_back: str = "yes",
    blocks: str = "2097152",
    block_size: str = "512",
    physical: str = "4096",
    pool: str = "0",
    threshold: str = "0",
    neighbours: Neighbours | None = None,
) -> LogicalUnit:
    """A unit with one port, number 7, and nobody attached; unless ``neighbours`` says something
    else, it is all that a session has mapped."""
    digits = uuid.replace("-", "")
    identity = UnitIdentity(
        vendor=vendor,
        product=product,
        revision="0001",
        serial=serial,
        uuid=uuid,
        wwn="6001405" + digits[:25],
        scsi_id=scsi_id,
        backend=backend,
        removable=removable == "yes",
        rotational=rotational == "yes",
        physical_block_size=int(physical),
        thin=thin == "yes",
        unmap_zeroes_data=zeroes == "yes",
    )
    facts = Facts(
        identity,
        int(blocks),
        int(block_size),
        write_back == "yes",
        read_only == "yes",
        pool_size=int(pool),
        threshold=int(threshold),
    )

    def alone(nexus: Nexus) -> list[Neighbour]:
        return [Neighbour(unit, nexus, read_only=False)]

    groups = TargetPortGroups.single([1])
    unit = LogicalUnit(facts, Reservations(), groups, neighbours or alone)
    unit.set_ports([Port(7, TARGET_PORT, 1)])
    return unit


def nexus(letter: str) -> Nexus:
    """Nexus A has number 1, and so on."""
    number = ord(letter) - ord("A") + 1
    name = f"iqn.2026-01.org.example:{letter.lower()},i,0x80{number:010x}"
    return Nexus(number, 7, NexusName(name, TARGET_PORT, 1))


def octets(text: str) -> bytes:
    """``00 1f 00*3`` as bytes."""
    data = b""
    for token in text.split():
        byte, _, times = token.partition("*")
        data += bytes.fromhex(byte) * int(times or "1")
    return data


def shown(effect: Effect) -> str:
    """An effect as a scenario writes it."""
    match effect:
        case GateChanged():
            return "gate"
        case Attend(attentions, nexuses, but):
            who = "all" if nexuses is None else _letters(nexuses)
            spared = f" but {_letters(but)}" if but else ""
            return f"attend {attentions.name} {who}{spared}"
        case Persist(part, record):
            return f"persist {part.value}{'' if record else ' nothing'}"
        case StartJob(_, FillJob(offset, length, pattern)):
            return f"fill {offset} {length} with {pattern[:4].hex()} in {len(pattern)}"
        case StartJob(_, ZeroJob(offset, length, punch)):
            return f"{'punch' if punch else 'zero'} {offset} {length}"
        case StartJob(_, FlushJob()):
            return "flush"
        case StartJob(_, CopyJob(_, begin, _, to, length)):
            return f"copy {begin} to {to} {length}"
        case CancelJob():
            return "cancel"
        case AbortNexus(nexuses, status):
            return f"abort {_letters(nexuses)} {status.name if status else 'silently'}"
    raise AssertionError(f"no word for {effect}")


def _letters(numbers: frozenset[int]) -> str:
    return " ".join(chr(ord("A") + number - 1) for number in sorted(numbers))


@dataclass
class Step:
    """One exchange of a scenario, with where it stands."""

    line: int
    who: str
    unit: dict[str, str] | None = None
    cdb: bytes = b""
    out: bytes = b""
    done: str = ""
    status: str = ""
    data: bytes = b""
    sense: bytes = b""
    effects: list[str] = field(default_factory=list)


def steps(path: Path) -> Iterator[Step]:
    """The exchanges of a scenario file."""
    who, fresh = "A", dict[str, str]()
    step: Step | None = None
    renew: dict[str, str] | None = fresh
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        word, _, rest = raw.partition("#")[0].strip().partition(" ")
        if not word:
            continue
        if word in ("unit", "nexus", ">", "done") and step is not None:
            yield step
            step = None
        match word:
            case "unit":
                renew = dict(pair.split("=", 1) for pair in rest.split())
            case "nexus":
                who = rest.strip()
            case ">" | "done":
                step = Step(number, who, unit=renew)
                renew = None
                if word == ">":
                    step.cdb = octets(rest)
                else:
                    step.done = rest.strip()
            case _:
                assert step is not None, f"{path.name}:{number}: nothing was sent"
                _expect(step, word, rest)
    if step is not None:
        yield step


def _expect(step: Step, word: str, rest: str) -> None:
    match word:
        case "out":
            step.out += octets(rest)
        case "<":
            step.status = rest.strip()
        case "in":
            step.data += octets(rest)
        case "sense":
            step.sense += octets(rest)
        case "effect":
            step.effects.append(rest.strip())
        case _:
            raise AssertionError(f"line {step.line}: what is {word!r}?")


def play(path: Path) -> None:
    """Plays a file; fails at the first exchange that goes another way."""
    unit, key = make_unit(), 0
    for step in steps(path):
        if step.unit is not None:
            unit = make_unit(**step.unit)  # type: ignore[arg-type]
            for letter in "AB":
                unit.attach(nexus(letter))
        if step.done:
            error = 0 if step.done == "ok" else getattr(errno, step.done)
            reaction = unit.job_done(key, error, 0)
        else:
            reaction = unit.execute(nexus(step.who), Command(step.cdb, step.out))
        for effect in reaction.effects:
            if isinstance(effect, StartJob):
                key = effect.key
        assert told(reaction) == (step.status, step.data, step.sense, step.effects), (
            f"{path.name}:{step.line}: {step.cdb.hex(' ') or step.done}"
        )


def told(reaction: Reaction) -> tuple[str, bytes, bytes, list[str]]:
    """A reaction in the terms of a step."""
    effects = [shown(effect) for effect in reaction.effects]
    if reaction.reply is None:
        return "pending", b"", b"", effects
    reply = reaction.reply
    assert (reply.status is Status.CHECK_CONDITION) == bool(reply.sense)
    return reply.status.name, reply.data, reply.sense, effects
