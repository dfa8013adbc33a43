"""What logical units keep beyond a restart: one record a volume, made of parts.

The store keeps bytes. Here they are a JSON object: each part as its unit wrote it, and the relative
identifiers of the target ports, which persistent reservations refer to (SPC-4 5.12.6) and which
must therefore be the same after a restart.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import Collection, Container, Mapping
from typing import Final

from blockgate.control.ports import UnitStore
from blockgate.scsi import Part

log = logging.getLogger(__name__)

_VERSION: Final = 1
# Target ports of one unit, beyond which those that do not lead to it now are forgotten. A target
# that maps the unit again later has its port again until then. Names have 223 bytes at most, and a
# record may have 1 MiB.
PORTS_KEPT: Final = 1024


class Record:
    """The record of one unit. ``store`` None: nothing is kept."""

    def __init__(self, uuid: str, store: UnitStore | None) -> None:
        self.uuid = uuid
        self.unreadable = False
        self.blank = True  # nothing is on record yet
        self._store = store
        self._parts: dict[Part, bytes] = {}
        self._ports: dict[str, int] = {}
        self._saved = b""
        self._turn = asyncio.Lock()

    @classmethod
    async def load(cls, uuid: str, store: UnitStore | None) -> Record:
        """The record as it was last saved. One that cannot be read is ``unreadable`` and otherwise
        counts as absent; the log says what was lost."""
        record = cls(uuid, store)
        raw = await store.load(uuid) if store is not None else None
        if raw is not None:
            record.blank = False
            try:
                record._decode(raw)
            except (ValueError, KeyError, TypeError, binascii.Error) as error:
                log.error("the record of unit %s cannot be read: %s", uuid, error)
                record.unreadable = True
            else:
                record._saved = raw
        return record

    async def reopen(self) -> None:
        """The volume is open again. Its record went with its data if that was deleted, and the data
        may have come back from a copy: what is in force must be on record then. Raises OSError."""
        if self._store is not None:
            self._saved = await self._store.load(self.uuid) or b""

    @property
    def parts(self) -> Mapping[Part, bytes]:
        """The parts that there are."""
        return self._parts

    def relative_port(self, name: str) -> int:
        """The relative identifier of a target port (SAM-5 4.7.4); a port that is new gets the
        lowest that is free. :meth:`save` keeps it."""
        if name not in self._ports:
            taken = set(self._ports.values())
            self._ports[name] = next(n for n in range(1, 0x10000) if n not in taken)
        return self._ports[name]

    def make_room(self, names: Collection[str], named: Container[int]) -> None:
        """Before these ports get their identifiers: where there have been very many, those of
        targets that map the unit no more are forgotten, unless they are ``named``."""
        if len(self._ports.keys() | names) > PORTS_KEPT:
            self._ports = {
                name: number
                for name, number in self._ports.items()
                if name in names or number in named
            }

    async def keep_ports(self, names: Collection[str], named: Container[int]) -> None:
        """Gives these target ports their identifiers, stable on return; see :meth:`make_room`.
        Raises OSError, and those that are new have none then."""
        former = dict(self._ports)
        self.make_room(names, named)
        for name in names:
            self.relative_port(name)
        try:
            await self.save()
        except OSError:
            self._ports = former
            raise

    def known_port(self, name: str) -> int | None:
        """The same of a port that has one."""
        return self._ports.get(name)

    def put(self, part: Part, record: bytes) -> None:
        """A part is another one now, or empty; :meth:`save` keeps it."""
        if record:
            self._parts[part] = record
        else:
            self._parts.pop(part, None)

    async def save(self) -> None:
        """Makes the record stable as it is now. Raises OSError."""
        async with self._turn:  # a later state must not be overtaken by an earlier one
            raw = self._encode()
            if raw == self._saved or self._store is None:
                return
            await self._store.save(self.uuid, raw)
            self._saved = raw

    def _encode(self) -> bytes:
        parts = {part.value: base64.b64encode(raw).decode() for part, raw in self._parts.items()}
        document = {"version": _VERSION, "ports": self._ports, "parts": parts}
        return json.dumps(document, sort_keys=True).encode()

    def _decode(self, raw: bytes) -> None:
        document = json.loads(raw)
        if document["version"] != _VERSION:
            raise ValueError(f"version {document['version']} is not known")
        ports = {str(name): int(number) for name, number in document["ports"].items()}
        if len(set(ports.values())) != len(ports):
            raise ValueError("two ports with one identifier")
        parts = {
            Part(name): base64.b64decode(text, validate=True)
            for name, text in document["parts"].items()
        }
        self._ports, self._parts = ports, parts
