"""Transmission flags of an export, from the facts of its volume and what was negotiated."""

from __future__ import annotations

from blockgate.nbd.constants import TransmissionFlag
from blockgate.nbd.exports import ExportView

# What every volume can do. All connections of a volume share one handle, so a FLUSH on one covers
# what another was answered: that is all that CAN_MULTI_CONN promises.
_ALWAYS = (
    TransmissionFlag.NBD_FLAG_HAS_FLAGS
    | TransmissionFlag.NBD_FLAG_SEND_FUA
    | TransmissionFlag.NBD_FLAG_CAN_MULTI_CONN
    | TransmissionFlag.NBD_FLAG_SEND_CACHE
)
_WRITABLE = (
    TransmissionFlag.NBD_FLAG_SEND_TRIM
    | TransmissionFlag.NBD_FLAG_SEND_WRITE_ZEROES
    | TransmissionFlag.NBD_FLAG_SEND_FAST_ZERO
)


def transmission_flags(
    view: ExportView, *, structured: bool, extended: bool, contexts: bool
) -> TransmissionFlag:
    """The 16 flags that NBD_INFO_EXPORT and the answer to NBD_OPT_EXPORT_NAME carry.

    ``structured`` and ``extended``: what the client negotiated; ``contexts``: whether it has
    selected metadata contexts for this export.
    """
    flags = _ALWAYS
    flags |= TransmissionFlag.NBD_FLAG_READ_ONLY if view.read_only else _WRITABLE
    if view.write_back:
        # A client takes SEND_FLUSH for "there is a volatile cache" (the kernel's nbd driver sets
        # the queue up by it); a write-through volume has none and says so by leaving it out.
        flags |= TransmissionFlag.NBD_FLAG_SEND_FLUSH
    if structured or extended:
        flags |= TransmissionFlag.NBD_FLAG_SEND_DF
    if extended and contexts:
        # "SHOULD NOT advertise this bit ... if the client does not negotiate metacontexts".
        flags |= TransmissionFlag.NBD_FLAG_BLOCK_STATUS_PAYLOAD
    return flags
