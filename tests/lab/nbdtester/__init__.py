"""nbd's own tester, built from Debian's source package `nbd`, to be run against the gateway."""

from tests.lab.nbdtester.build import Tester, build
from tests.lab.nbdtester.fetch import SourceUnavailable
from tests.lab.nbdtester.sources import source_entries

__all__ = ["SourceUnavailable", "Tester", "build", "source_entries"]
