"""iSCSI names: checked and normalised (RFC 7143 section 4.2.7, RFC 3722, RFC 3980).

Two spellings that normalise alike are one name, so everything that compares names compares what
:func:`iscsi_name` returns.
"""

from __future__ import annotations

import re
import unicodedata

from blockgate.iscsi.constants import NAME_BYTES

# "iqn." yyyy-mm "." reversed domain [":" anything of the alphabet]
_IQN = re.compile(r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[^:.][^:]*(:.*)?\Z", re.DOTALL)
_EUI = re.compile(r"eui\.[0-9a-f]{16}\Z")
# RFC 3980: NAA types 2, 5 and 3 have 64 bits, type 6 has 128
_NAA = re.compile(r"naa\.([0-9a-f]{16}|[0-9a-f]{32})\Z")
# RFC 3722 section 6.2 forbids the rest of ASCII. "_" is on its list too, but names of machines
# have it, QEMU passes them on, and nothing here gives it a meaning.
_ASCII = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.:_")
# Letters, marks and digits of other scripts; not spaces, controls, private or unassigned ones.
_CATEGORIES = frozenset({"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"})


def iscsi_name(text: str) -> str | None:
    """The normalised name, or None where ``text`` is no iSCSI name."""
    if not text or len(text) > NAME_BYTES:  # characters first: what follows looks at each
        return None
    name = unicodedata.normalize("NFKC", text.casefold() if not text.isascii() else text.lower())
    if len(name.encode(errors="replace")) > NAME_BYTES or not all(map(_allowed, name)):
        return None
    if _IQN.match(name) or _EUI.match(name) or _NAA.match(name):
        return name
    return None


def _allowed(character: str) -> bool:
    if character.isascii():
        return character in _ASCII
    return unicodedata.category(character) in _CATEGORIES
