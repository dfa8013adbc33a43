"""nbd's own tester, built from Debian's source package `nbd`, to be run against the gateway."""

from tests.lab.nbdtester.build import SourceUnavailable, Tester, build
from tests.lab.nbdtester.sources import source_entries

__all__ = ["SourceUnavailable", "Tester", "build", "source_entries"]
