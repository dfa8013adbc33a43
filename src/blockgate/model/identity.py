"""What stays the same about a volume for its whole life, wherever it moves."""

from __future__ import annotations

import uuid as _uuid

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import shown

# NAA type 6, then the company id 001405 that LIO uses: a volume that moves between LIO and
# blockgate keeps its name for multipath.
_NAA_PREFIX = "6001405"


def new_uuid() -> str:
    """A fresh identity, in canonical form."""
    return str(_uuid.uuid4())


def parse_uuid(text: object) -> str:
    """`text` as a canonical UUID, or `InvalidInput`."""
    try:
        if not isinstance(text, str):
            raise ValueError
        return str(_uuid.UUID(text))
    except ValueError:
        raise InvalidInput(
            f"{shown(text)} is not a UUID.", "For example: 653e4072-8aad-4e9d-900e-4059f0e19e7e."
        ) from None


def wwn_of(uuid: str) -> str:
    """The world wide name of the volume `uuid`: NAA 6, LIO's company id, 25 digits of the UUID."""
    return _NAA_PREFIX + uuid.replace("-", "")[:25]
