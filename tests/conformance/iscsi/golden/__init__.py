"""Whole PDUs, byte for byte: what is sent and what must come back, from RFC 7143, SPC-4 and SBC-3.

The files below `pdus` read like a protocol trace; :mod:`.script` says how they are written, and
:mod:`.replay` plays them to a gateway over a socket. Whatever the standards leave no choice about
stands there as bytes; the tokens for what a target may choose are few, and each is held to be the
same wherever it comes again.
"""
