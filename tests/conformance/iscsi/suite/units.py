"""The named units that the suite runs on: together they let the body of every test run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from tests.conformance.iscsi.suite.program import every_test
from tests.lab.processes import Gateway, Target, add_target

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Unit:
    """A volume and how it presents itself. READ(6) reaches 1 GiB of 512 bytes: all are smaller.

    `tests` are patterns of the tests that run on it, `without` those of them that do not, and why;
    `limit_s` is a test's time limit.
    """

    name: str
    why: str
    size: int = 256 * MIB
    block_size: int = 512
    physical: int = 512
    removable: bool = False
    provisioning: str = "thin"
    zeroes: bool = True  # promised of blocks that were given back
    read_only: bool = False
    tests: tuple[str, ...] = ("*",)
    without: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False  # every write goes to the disk before it is answered
    limit_s: float = 240

    def chosen(self) -> list[str]:
        """Its tests. SANITIZE comes last: a unit that fails it lets nothing else be done."""
        chosen = [t for t in every_test() if any(fnmatchcase(t, p) for p in self.tests)]
        chosen = [t for t in chosen if t not in self.without]
        return sorted(chosen, key=lambda test: test.startswith("SCSI.Sanitize."))

    def serve(self, gateway: Gateway) -> Target:
        """A target of the unit's own: a target reset reaches no other unit."""
        face = {
            "removable": self.removable,
            "provisioning": self.provisioning,
            "physical_block_size": self.physical,
            "unmap_zeroes_data": self.zeroes,
        }
        volume: dict[str, Any] = {"block_size": self.block_size, "scsi": face}
        if self.slow:
            volume |= {"io": "direct", "cache": "write-through"}
        # The suite sleeps a minute without looking at its connection: it answers no NOP-In then.
        patient = {"nop_interval": 0}
        return add_target(
            gateway,
            {1: self.size},
            volume=volume,
            read_only=self.read_only,
            parameters=patient,
        )


# It looks at a SANITIZE that began three seconds ago: LARGE is where it still runs.
_RESET: Final = {"SCSI.Sanitize.Reset": "done before the test looks"}
# It sends a block of FFh with UNMAP and, where LBPRZ is set, wants zeroes back: a read gives what
# was sent, whether blocks were unmapped or not. UNPROMISED has no LBPRZ, and runs all of it.
_EVERYWHERE: Final = _RESET | {
    "SCSI.WriteSame10.UnmapUntilEnd": "it wants other data than it sends"
}
_ALIGNED: Final = {
    "SCSI.GetLBAStatus.UnmapSingle": "it asks for the block after the first and compares the "
    "answer with the one after the first physical block",
}

_READING: Final = (
    "SCSI.ReadOnly.*",
    "SCSI.Inquiry.*",
    "SCSI.Mandatory.*",
    "SCSI.Read10.*",
    "SCSI.Read12.*",
    "SCSI.Read16.*",
    "SCSI.Read6.*",
    "SCSI.ReadCapacity*",
    "SCSI.ReportSupportedOpcodes.*",
    "SCSI.TestUnitReady.*",
    "SCSI.ModeSense6.AllPages",
    "SCSI.PrinReadKeys.*",
    "SCSI.Prefetch*",
)

UNITS: Final = (
    Unit("plain", "blocks of 512 bytes in both senses, thin", without=_EVERYWHERE),
    Unit(
        "aligned",
        "512 logical, 4096 physical: what is not aligned",
        physical=4096,
        without=_EVERYWHERE | _ALIGNED,
    ),
    # WRITE SAME tests write 65536 blocks at once where there are so many: here that is too long
    # for one command.
    Unit(
        "native",
        "4096 in both senses",
        128 * MIB,
        block_size=4096,
        physical=4096,
        without=_EVERYWHERE,
    ),
    Unit("full", "fully provisioned", provisioning="full", without=_EVERYWHERE),
    Unit("removable", "a medium that can be ejected", removable=True, without=_EVERYWHERE),
    Unit(
        "unpromised",
        "nothing is promised of what blocks read as that were given back",
        zeroes=False,
        tests=("SCSI.Unmap.*", "SCSI.WriteSame*", "SCSI.GetLBAStatus.*", "SCSI.ReadCapacity16.*"),
    ),
    Unit(
        "read-only",
        "mapped read-only: writes are refused, reads are as anywhere",
        read_only=True,
        tests=_READING,
    ),
    Unit(
        "large",
        "an honest overwrite takes longer than the test waits; it looks again after a minute",
        6144 * MIB,
        tests=("SCSI.Sanitize.Reset",),
        slow=True,
        limit_s=300,
    ),
)
