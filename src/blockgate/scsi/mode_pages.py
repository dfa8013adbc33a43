"""Mode pages: their values, which bits can be changed, which are saved (SPC-4 7.5, SBC-3 6.4).

The cache mode is the volume's, set where volumes are administered and kept by every front end: WCE
says what it is and cannot be changed from here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from blockgate.scsi.facts import Facts
from blockgate.scsi.sense import invalid_parameter

ERROR_RECOVERY: Final = 0x01
CACHING: Final = 0x08
CONTROL: Final = 0x0A
EXCEPTIONS: Final = 0x1C
PROVISIONING: Final = (EXCEPTIONS, 0x02)
ALL_PAGES: Final = 0x3F
ALL_SUBPAGES: Final = 0xFF

Code = tuple[int, int]
"""Page code and subpage code."""


class PageControl(IntEnum):
    """PC of MODE SENSE (SPC-4 table 181)."""

    CURRENT = 0
    CHANGEABLE = 1
    DEFAULT = 2
    SAVED = 3


# Control mode page (SPC-4 7.5.8). TST=001b: each nexus has a task set of its own. QUEUE ALGORITHM
# MODIFIER=1h: the order of SIMPLE commands is not kept. GLTSD: nothing is logged by itself.
_D_SENSE: Final = 0x04
_QERR: Final = 0x06
_SWP: Final = 0x08
_TAS: Final = 0x40
_CONTROL_DEFAULT: Final = bytes.fromhex("0a0a22100000000000000000")
_CONTROL_CHANGEABLE: Final = bytes((0x0A, 0x0A, _D_SENSE, _QERR, _SWP, _TAS, *bytes(6)))
_RESERVED_QERR: Final = 0x04
_WCE: Final = 0x04
_LBPERE: Final = 0x80
_ENABLED: Final = 0x80


def defaults(facts: Facts) -> Mapping[Code, bytes]:
    """The pages of a unit that nobody has changed, in the order in which they are sent."""
    recovery = bytearray(12)
    recovery[:2] = ERROR_RECOVERY, 10
    # LBPERE: reaching a provisioning threshold is told by a unit attention (SBC-3 6.4.8).
    recovery[7] = _LBPERE if facts.thin and facts.watched else 0
    caching = bytearray(20)
    caching[:3] = CACHING, 18, _WCE if facts.write_back else 0
    # DEXCPT: there is no informational exception to report (SPC-4 7.5.14).
    exceptions = bytes((EXCEPTIONS, 10, 0x08)).ljust(12, b"\0")
    pages = {
        (ERROR_RECOVERY, 0): bytes(recovery),
        (CACHING, 0): bytes(caching),
        (CONTROL, 0): _CONTROL_DEFAULT,
        (EXCEPTIONS, 0): exceptions,
    }
    if facts.thin and facts.watched and facts.pool_size:
        pages[PROVISIONING] = _provisioning(facts)
    return MappingProxyType(pages)


def _provisioning(facts: Facts) -> bytes:
    """Logical Block Provisioning (SBC-3 6.4.7). SITUA zero: every nexus is told. One descriptor: a
    soft threshold (type 000b) of available sets (resource 01h), armed decreasing (000b)."""
    count = facts.soft_threshold
    descriptor = struct.pack(">BBxxI", _ENABLED if count else 0, 0x01, count)
    return struct.pack(">BBH12x", *PROVISIONING, 12 + len(descriptor)) + descriptor


def changeable(code: Code, page: bytes) -> bytes:
    """A page with ones where bits can be changed."""
    if code == (CONTROL, 0):
        return _CONTROL_CHANGEABLE
    head = header_bytes(code)
    return page[:head].ljust(len(page), b"\0")


def header_bytes(code: Code) -> int:
    """How long a page's header is: a subpage has the long form (SPC-4 7.5.6)."""
    return 4 if code[1] else 2


def _changed(facts: Facts, pages: Mapping[Code, bytes]) -> dict[Code, bytes]:
    """The default pages with the changeable bits of ``pages``: what they say of anything else may
    be of a unit that was another one then."""
    values = {}
    for code, plain in defaults(facts).items():
        other = pages.get(code, plain)
        head = header_bytes(code)
        mask = bytes(head) + changeable(code, plain)[head:]
        bits = zip(plain, other, mask, strict=True)
        values[code] = bytes(old & ~chosen & 0xFF | new & chosen for old, new, chosen in bits)
    return values


@dataclass(slots=True)
class ModePages:
    """The mode pages of one unit. ``saved`` has the pages that MODE SELECT with SP has stored;
    what is not there is saved as its default is."""

    facts: Facts
    saved: dict[Code, bytes] = field(default_factory=dict)
    current: dict[Code, bytes] = field(init=False)
    _before: tuple[dict[Code, bytes], dict[Code, bytes]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.current = _changed(self.facts, self.saved)
        self._before = (self.current, self.saved)

    @property
    def descriptor_sense(self) -> bool:
        return bool(self.current[CONTROL, 0][2] & _D_SENSE)

    @property
    def qerr(self) -> int:
        """0: other tasks go on when one fails; 1 and 3: those of its task set are aborted."""
        return (self.current[CONTROL, 0][3] & _QERR) >> 1

    @property
    def software_write_protect(self) -> bool:
        return bool(self.current[CONTROL, 0][4] & _SWP)

    @property
    def tas(self) -> bool:
        return bool(self.current[CONTROL, 0][5] & _TAS)

    def values(self, control: PageControl) -> dict[Code, bytes]:
        """All pages as MODE SENSE returns them with this page control."""
        plain = defaults(self.facts)
        match control:
            case PageControl.CURRENT:
                return self.current
            case PageControl.CHANGEABLE:
                return {code: changeable(code, page) for code, page in plain.items()}
            case PageControl.DEFAULT:
                return dict(plain)
            case PageControl.SAVED:
                return _changed(self.facts, self.saved)

    def check(self, code: Code, page: bytes, at: int) -> None:
        """Raises CheckCondition where a page that stands ``at`` a byte of a parameter list sets
        what cannot be changed (SPC-4 6.11: nothing of the list is done then)."""
        now = self.current[code]
        mask = changeable(code, now)
        for offset in range(header_bytes(code), len(now)):
            wrong = (page[offset] ^ now[offset]) & ~mask[offset] & 0xFF
            if wrong:
                raise invalid_parameter(at + offset, wrong.bit_length() - 1)
        if code == (CONTROL, 0) and page[3] & _QERR == _RESERVED_QERR:
            raise invalid_parameter(at + 3, 2)

    def take(self, pages: Mapping[Code, bytes], *, save: bool) -> bool:
        """Makes checked pages current, and saved where asked. Whether a current value changed."""
        changed = any(self.current[code] != page for code, page in pages.items())
        self._before = (self.current, self.saved)
        self.current = {**self.current, **pages}
        if save:
            self.saved = {**self.saved, **pages}
        return changed

    def take_back(self) -> None:
        """What was taken last could not be saved, and so is not current either."""
        self.current, self.saved = self._before

    def reset(self) -> bool:
        """Logical unit reset: the saved values are current again (SPC-4 6.11). Whether one
        changed."""
        before, self.current = self.current, _changed(self.facts, self.saved)
        return before != self.current

    def become(self, facts: Facts) -> None:
        """The unit's facts are others; what was changed stays."""
        self.facts = facts
        self.current = _changed(facts, self.current)

    def record(self) -> bytes:
        """The saved pages for stable storage."""
        pages = {f"{code:02x}/{sub:02x}": page.hex() for (code, sub), page in self.saved.items()}
        return json.dumps(pages, sort_keys=True).encode()

    def restore(self, record: bytes) -> None:
        """Takes what :meth:`record` gave. A page that no longer has this form keeps its default."""
        if not record:
            return
        for name, text in json.loads(record).items():
            code, _, sub = name.partition("/")
            key, page = (int(code, 16), int(sub, 16)), bytes.fromhex(text)
            if key in self.current and len(page) == len(self.current[key]):
                self.saved[key] = page
        self.current = _changed(self.facts, self.saved)
