"""Reading an initiator's iscsid.conf and multipath.conf. Pure: text in, settings out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from blockgate.cli.client_settings import Row, wwid
from blockgate.cli.timeouts import FOREVER, InitiatorSettings
from blockgate.model.errors import InvalidInput
from blockgate.model.showing import shown

_ISCSID: Final = {
    "node.session.timeo.replacement_timeout": "replacement_timeout",
    "node.conn[0].timeo.noop_out_interval": "noop_out_interval",
    "node.conn[0].timeo.noop_out_timeout": "noop_out_timeout",
}
_MULTIPATH: Final = ("no_path_retry", "polling_interval", "fast_io_fail_tmo")
# multipath.conf(5): what a later one says holds; so does what is said outside of any, before all.
_SECTIONS: Final = ("", "defaults", "devices", "overrides", "multipaths")

Block = tuple[str, Mapping[str, str]]


def read_iscsid(text: str, settings: InitiatorSettings) -> InitiatorSettings:
    """`settings` with what an iscsid.conf says; of several lines for one name the last holds."""
    found: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        said = line.partition("#")[0]
        name, equals, value = said.partition("=")
        field = _ISCSID.get(name.strip())
        if said.strip() and not equals:
            raise _no_setting(number, line, "an iscsid.conf", "NAME = VALUE")
        if field is not None:
            found[field] = _number(value.strip(), name.strip())
    return replace(settings, **found)


def read_multipath(
    text: str, settings: InitiatorSettings, disks: Iterable[Row] = ()
) -> InitiatorSettings:
    """`settings` with what a multipath.conf says of `disks`: what it says of other vendors' devices
    and of other disks is left out."""
    disks = list(disks)
    found: dict[str, Any] = {}
    blocks = [block for block in _blocks(text) if block[0] in _SECTIONS]
    for section, values in sorted(blocks, key=lambda block: _SECTIONS.index(block[0])):
        if not _is_about(section, values, disks):
            continue
        for name in _MULTIPATH:
            if name in values:
                found |= _multipath_value(name, values[name])
    return replace(settings, **found)


def _multipath_value(name: str, value: str) -> dict[str, int]:
    if name == "no_path_retry" and value in ("fail", "queue"):
        return {name: 0 if value == "fail" else FOREVER}
    if name == "fast_io_fail_tmo":  # it takes the place of open-iscsi's own timer
        return {"replacement_timeout": FOREVER if value == "off" else _number(value, name)}
    return {name: _number(value, name)}


def _is_about(section: str, values: Mapping[str, str], disks: list[Row]) -> bool:
    """Does a block hold for one of the disks at least? Without disks: for any."""
    if section == "devices" and "vendor" in values and disks:
        try:
            vendor = re.compile(values["vendor"])
        except re.error:
            return False  # multipathd cannot use it either
        return any(vendor.search(str(disk["vendor"])) for disk in disks)
    if section == "multipaths" and "wwid" in values and disks:
        return values["wwid"] in {wwid(disk) for disk in disks}
    return True


def _blocks(text: str) -> Iterator[Block]:
    """Each block of values with its section: "defaults" and "overrides" are one, the blocks in
    "devices" and "multipaths" are one each."""
    path: list[str] = []
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = re.split(r"[#!]", line, maxsplit=1)[0].split(maxsplit=1)
        if not words:
            continue
        if words[-1].endswith("{"):
            yield (path[0] if path else "", values)
            path.append(words[0].rstrip("{"))
            values = {}
        elif words[0] == "}":
            if not path:
                raise InvalidInput(
                    f"Line {number} of the multipath.conf closes a block, and none is open.",
                    "Take that brace out, or open the block.",
                )
            yield (path[0], values)
            path.pop()
            values = {}
        elif len(words) == 2:
            values[words[0]] = words[1].strip().strip('"')
        else:
            raise _no_setting(number, line, "a multipath.conf", "NAME VALUE")
    if path:
        raise InvalidInput(
            f"The multipath.conf ends within the block {shown(path[-1])}.",
            "Close it with a brace on a line of its own.",
        )
    yield ("", values)


def _no_setting(number: int, line: str, file: str, form: str) -> InvalidInput:
    return InvalidInput(
        f"Line {number} is no setting of {file}: {shown(line.strip())}.",
        f"A line is {form}, or a comment.",
    )


def _number(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"{name} is {shown(text)}, and not a number.", "Correct it.") from None
