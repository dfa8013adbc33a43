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

    `tests` are patterns of the tests that run on it; `limit_s` is a test's time limit, `limits_s`
    that of single ones.
    """

    name: str
    why: str
    size: int = 256 * MIB
    block_size: int = 512
    physical: int = 512
    removable: bool = False
    provisioning: str = "thin"
    read_only: bool = False
    tests: tuple[str, ...] = ("*",)
    limit_s: float = 60
    limits_s: Mapping[str, float] = field(default_factory=dict)

    def chosen(self) -> list[str]:
        """Its tests. SANITIZE comes last: a unit that fails it lets nothing else be done."""
        chosen = [t for t in every_test() if any(fnmatchcase(t, p) for p in self.tests)]
        return sorted(chosen, key=lambda test: test.startswith("SCSI.Sanitize."))

    def limit_of(self, test: str) -> float:
        return self.limits_s.get(test, self.limit_s)

    def serve(self, gateway: Gateway) -> Target:
        """A target of the unit's own: a target reset reaches no other unit."""
        face = {
            "removable": self.removable,
            "provisioning": self.provisioning,
            "physical_block_size": self.physical,
        }
        volume: dict[str, Any] = {"block_size": self.block_size, "scsi": face}
        return add_target(gateway, {1: self.size}, volume=volume, read_only=self.read_only)


UNITS: Final = (
    Unit("plain", "blocks of 512 bytes in both senses, thin"),
    Unit("aligned", "512 logical, 4096 physical: what is not aligned", physical=4096),
    Unit("native", "4096 in both senses", block_size=4096, physical=4096),
    Unit("full", "fully provisioned", provisioning="full"),
    Unit("removable", "a medium that can be ejected", removable=True),
    Unit("read-only", "mapped read-only", read_only=True),
)
