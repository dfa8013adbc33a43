"""Texts for an initiator's configuration files that fit a target. Pure: views in, text out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from blockgate.cli.timeouts import InitiatorSettings

Row = Mapping[str, Any]

_VENDOR_BYTES = 8
_SCSI_ID_BYTES = 16
_LEAST_CMDS = 16
_DIGESTS = (("header_digest", "HeaderDigest"), ("data_digest", "DataDigest"))


def wwid(volume: Row) -> str:
    """What udev's scsi_id, and so multipath, calls a volume.

    Page 83h: an NAA designator (type 3) is taken before a T10 one (type 1). A volume with a ScsiId
    has the latter alone: vendor and id, each padded with NUL.
    """
    if not volume["scsi_id"]:
        return f"3{volume['wwn']}"
    vendor = str(volume["vendor"]).encode("ascii").ljust(_VENDOR_BYTES, b"\0")
    scsi_id = str(volume["scsi_id"]).encode("ascii").ljust(_SCSI_ID_BYTES, b"\0")
    return f"1{(vendor + scsi_id).hex()}"


def alias(volume: Row) -> str:
    """A name for the multipath device."""
    return f"{volume['pool']}-{volume['name']}"


def iscsid_conf(target: Row, settings: InitiatorSettings, discovery: Row | None = None) -> str:
    """The lines of /etc/iscsi/iscsid.conf. `discovery`: the CHAP users that it asks for."""
    parameters = target["parameters"]
    depth = int(parameters["queue_depth"])
    # Linux takes a power of two, and begins no session with less than 16.
    most = 1 << (max(depth, _LEAST_CMDS).bit_length() - 1)
    lines = [
        "node.startup = automatic",
        f"node.session.timeo.replacement_timeout = {settings.replacement_timeout}",
        f"node.conn[0].timeo.noop_out_interval = {settings.noop_out_interval}",
        f"node.conn[0].timeo.noop_out_timeout = {settings.noop_out_timeout}",
        f"node.session.cmds_max = {most}",
        f"node.session.queue_depth = {min(depth, 32)}",
    ]
    for parameter, key in _DIGESTS:
        if "none" not in parameters[parameter]:
            lines += [f"node.conn[0].iscsi.{key} = CRC32C"]
    # The target's own asks those whom no ACL names.
    others = [target] if target["access"] == "open" else []
    lines += _chap("node.session.auth", [*target["acls"], *others])
    lines += _chap("discovery.sendtargets.auth", [discovery] if discovery else [])
    return "\n".join(lines) + "\n"


def _chap(prefix: str, rows: Iterable[Row]) -> list[str]:
    """How the first of those that ask for CHAP is answered, without its secrets."""
    asks = next((row for row in rows if row["chap"]), None)
    if asks is None:
        return []
    lines = [f"{prefix}.authmethod = CHAP", f"{prefix}.username = {asks['chap']}"]
    lines += [f"# {prefix}.password = the secret of that user"]
    if asks["mutual_chap"]:
        lines += [f"{prefix}.username_in = {asks['mutual_chap']}"]
        lines += [f"# {prefix}.password_in = the secret of that user"]
    return lines


def udev_rule(volumes: Iterable[Row], settings: InitiatorSettings) -> str:
    """A rule that sets the SCSI command timer of the target's disks."""
    return "".join(
        f'ACTION=="add", SUBSYSTEM=="scsi", ATTR{{vendor}}=="{_glob(vendor)}*", ATTR{{model}}=='
        f'"{_glob(product)}*", ATTR{{timeout}}="{settings.command_timeout}"\n'
        for vendor, product in _models(volumes)
    )


def multibus_conf(volumes: Iterable[Row], settings: InitiatorSettings) -> str:
    """/etc/multipath.conf: all paths at once, the least loaded one first."""
    lines = ("path_grouping_policy multibus", "path_checker directio", "prio const")
    return _devices_conf(volumes, settings, lines)


def access_state_conf(volumes: Iterable[Row], settings: InitiatorSettings) -> str:
    """/etc/multipath.conf: the paths in the best access state at once, others when these are lost.
    A path in standby is sound, which TEST UNIT READY tells from lost, and a READ does not."""
    lines = (
        *("path_grouping_policy group_by_prio", "path_checker tur"),
        *('hardware_handler "1 alua"', "prio alua"),
    )
    return _devices_conf(volumes, settings, lines)


def _devices_conf(volumes: Iterable[Row], settings: InitiatorSettings, lines: Iterable[str]) -> str:
    own = "".join(f"        {line}\n" for line in lines)
    devices = [
        "    device {\n"
        f'        vendor "{_regex(vendor)}"\n'
        f'        product "{_regex(product)}"\n'
        f"{own}"
        '        path_selector "queue-length 0"\n'
        "        failback immediate\n"
        f"        fast_io_fail_tmo {settings.replacement_timeout}\n"
        f"        no_path_retry {settings.no_path_retry}\n"
        "    }\n"
        for vendor, product in _models(volumes)
    ]
    return _defaults(settings) + "devices {\n" + "".join(devices) + "}\n"


def failover_conf(volumes: Iterable[Row], settings: InitiatorSettings) -> str:
    """/etc/multipath.conf: one path at a time, each device under a name of its own."""
    volumes = list(volumes)
    times = Counter(alias(volume) for volume in volumes)
    own = [alias(v) if times[alias(v)] == 1 else f"{alias(v)}-{v['wwn'][-8:]}" for v in volumes]
    named = [
        "    multipath {\n"
        f"        wwid {wwid(volume)}\n"
        f"        alias {name}\n"
        "        path_grouping_policy failover\n"
        "        failback immediate\n"
        f"        no_path_retry {settings.no_path_retry}\n"
        "    }\n"
        for name, volume in zip(own, volumes, strict=True)
    ]
    return _defaults(settings) + "multipaths {\n" + "".join(named) + "}\n"


def _defaults(settings: InitiatorSettings) -> str:
    return (
        "defaults {\n"
        f"    polling_interval {settings.polling_interval}\n"
        "    find_multipaths yes\n"
        "    user_friendly_names yes\n"
        "}\n"
    )


def _regex(name: str) -> str:
    """A name as multipath matches it, an extended regular expression in double quotes. What could
    end the quotes, and the two that a bracket expression does not make plain, match any one
    character: versions differ in how they are escaped."""
    return "".join(
        "." if one in '"\\^' else f"[{one}]" if one in ".[](){}*+?|$" else one for one in name
    )


def _glob(name: str) -> str:
    """A name as udev matches it, a shell pattern in double quotes with "|" between alternatives."""
    return "".join("?" if one in '"\\*?[]|' else one for one in name)


def _models(volumes: Iterable[Row]) -> list[tuple[str, str]]:
    return sorted({(str(one["vendor"]), str(one["product"])) for one in volumes})
