"""Where the suite (1.19) leaves something out and CUnit counts a pass: found in its source.

Most tests say `CU_PASS("[SKIPPED] reason")`, which the witness sees. These do not:

* `NoMedia.NoMediaSBC`, `StartStopUnit.PwrCnd`, `StartStopUnit.NoLoej` return after a line in the
  log when the unit is not removable. They assert nothing then, and the line is marked [SKIPPED].
* `WriteSame10.ZeroBlocks` and `WriteSame16.ZeroBlocks` log [SKIPPED] without CU_PASS when the
  unit announces WSNZ; so do `CHECK_SIZE` and `ReadCapacity16.Support`.
* Those in `SAID_ONLY_IN_THE_LOG` use no mark at all.
* A test that cannot log in again returns as if all were well: `LOST`.
* Whatever asserted nothing counts as skipped in any case, but for those in `ONLY_FAULTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# (words in the log, reason)
SAID_ONLY_IN_THE_LOG: Final[tuple[tuple[str, str], ...]] = (
    ("does not support 0-blocks.WSNZ == 1", "WSNZ is set: no WRITE SAME to the end of the unit"),
    ("CONTROL page was not returned", "no control mode page"),
    ("Could not read CONTROL page", "no control mode page"),
    ("skipping MAXIMUM WRITE SAME LENGTH asserts", "MAXIMUM WRITE SAME LENGTH is not announced"),
)

# The test returns early, but for a fault of the target.
LOST: Final[tuple[str, ...]] = ("Failed to login to target",)

# Tests whose body runs although one side issue is left out: test, words of the suite.
SUBTESTS: Final[Mapping[str, tuple[str, ...]]] = {
    "SCSI.ExtendedCopy.ValidTgtDescr": ("Skipping NUL bit test",),
    "SCSI.Sanitize.Readonly": ("SANITIZE CRYPTO_ERASE is not implemented",),
    "SCSI.Sanitize.Reservations": ("SANITIZE CRYPTO_ERASE is not implemented",),
}

# Tests that assert only what is wrong, and say in the log what is right, as [SUCCESS].
ONLY_FAULTS: Final = ("SCSI.Unmap.VPD", "SCSI.WriteSame10.UnmapVPD", "SCSI.WriteSame16.UnmapVPD")

# Tests that hold no assertion: they say in the log what they found, a fault as [WARNING].
ONLY_LOGS: Final = ("SCSI.Inquiry.VersionDescriptors",)
