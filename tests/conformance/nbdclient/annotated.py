"""Bytes written out as in the protocol's text: hex, with what they mean beside them."""

from __future__ import annotations

import re


def annotated(text: str) -> bytes:
    """``"3e88 9045  # magic"`` lines into bytes.

    What follows ``#`` on a line is comment; ``"..."`` stands for ASCII characters; ``N*XX`` for N
    times the byte XX; everything else is hex digits, spaces at will.
    """
    out = bytearray()
    for line in text.splitlines():
        code = re.sub(r'("[^"]*")|#.*', lambda m: m.group(1) or "", line)
        for quoted, count, byte, digits in re.findall(
            r'"([^"]*)"|(\d+)\*([0-9a-fA-F]{2})\b|([0-9a-fA-F]+)', code
        ):
            if count:
                out += bytes([int(byte, 16)]) * int(count)
            elif digits:
                out += bytes.fromhex(digits)
            else:
                out += quoted.encode("ascii")
    return bytes(out)
