"""Policy of the NBD handshake: sans I/O, in the protocol's own words.

:class:`Handshake` answers what a client sends before the transmission phase, out of an
:class:`ExportDirectory`. Transmission itself is the engine's.
"""

from blockgate.nbd.exports import ExportDirectory, ExportView
from blockgate.nbd.flags import transmission_flags
from blockgate.nbd.handshake import Answer, Handshake, Next, TlsMode, Transmission
from blockgate.nbd.peers import Peer

__all__ = [
    "Answer",
    "ExportDirectory",
    "ExportView",
    "Handshake",
    "Next",
    "Peer",
    "TlsMode",
    "Transmission",
    "transmission_flags",
]
