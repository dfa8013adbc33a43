"""``blockgate volume``: virtual disks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from blockgate.cli import names
from blockgate.cli.output import (
    Column,
    done,
    field,
    flags,
    show_facts,
    show_table,
    size,
    when,
    yes_no,
)
from blockgate.cli.progress import change
from blockgate.cli.session import changing, command, confirm, current
from blockgate.cli.volume_words import NOTHING_SAID, ScsiOptions, parse_block_size
from blockgate.model.errors import InvalidInput
from blockgate.model.names import VolumeRef, pool_name, volume_name
from blockgate.model.showing import shown
from blockgate.model.sizes import format_size

app = typer.Typer(no_args_is_help=True, help="Volumes: virtual disks, named POOL/VOLUME.")

VolumeArgument = Annotated[
    str,
    typer.Argument(metavar="POOL/VOLUME", help="The volume.", autocompletion=names.volumes),
]
NewVolumeArgument = Annotated[
    str, typer.Argument(metavar="POOL/VOLUME", help="Its name from now on.")
]
SizeOption = Annotated[
    str, typer.Option("--size", metavar="SIZE", help="For example 1.5GiB, 2T, or bytes.")
]
CacheOption = Annotated[
    Literal["write-back", "write-through"],
    typer.Option(
        "--cache",
        metavar="write-back|write-through",
        help="write-through: stable before it is answered.",
    ),
]
IoOption = Annotated[
    Literal["buffered", "direct"],
    typer.Option(
        "--io", metavar="buffered|direct", help="direct: around the gateway's page cache."
    ),
]
BlockSizeOption = Annotated[
    str, typer.Option("--block-size", metavar="512|4096", help="Logical block size in bytes.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Do it in spite of what it loses.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _new(volume: str) -> dict[str, Any]:
    ref = VolumeRef.parse(volume)
    return {"pool": ref.pool, "name": ref.name}


def _at(volume: str) -> tuple[str, str]:
    ref = VolumeRef.parse(volume)
    return ref.pool, ref.name


def _face(one: Any) -> str:
    """A volume's SCSI face in words."""
    words = [f"{one['vendor']} {one['product']} {one['revision']}", one["provisioning"]]
    words.append(f"physical blocks of {one['physical_block_size']}")
    words += [f"serial {one['serial']}"] if one["serial"] else []
    words += [f"ScsiId {one['scsi_id']}"] if one["scsi_id"] else []
    words += ["removable"] if one["removable"] else []
    words += [] if one["unmap_zeroes_data"] else ["unmapped blocks not promised to be zeroes"]
    return ", ".join(words)


@changing(app, "create")
def create(
    volume: NewVolumeArgument,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="SIZE", help="For example 1.5GiB, 2T, or bytes."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="SOURCE",
            help="Copy POOL/VOLUME, or an image file on the gateway (a path from / on).",
            autocompletion=names.volumes,
        ),
    ] = None,
    prealloc: Annotated[
        bool, typer.Option("--prealloc", help="Take all of its space at once.")
    ] = False,
    block_size: Annotated[
        str | None,
        typer.Option(
            "--block-size", metavar="512|4096", help="Logical block size in bytes; 512 if not said."
        ),
    ] = None,
    cache: Annotated[
        Literal["write-back", "write-through"] | None,
        typer.Option(
            "--cache",
            metavar="write-back|write-through",
            help="write-through: stable before it is answered; write-back if not said.",
        ),
    ] = None,
    io: Annotated[
        Literal["buffered", "direct"] | None,
        typer.Option(
            "--io",
            metavar="buffered|direct",
            help="direct: around the gateway's page cache; buffered if not said.",
        ),
    ] = None,
    scsi: ScsiOptions = NOTHING_SAID,
) -> None:
    """Make a volume: empty, of a --size; or as a copy, with --from.

    A copy has the source's size, unless a larger --size is given, and its cache mode, I/O mode and
    block size unless they are. A volume that is copied must not be exported read-write.
    """
    if size is None and source is None:
        raise InvalidInput("A new volume needs a size.", "Give --size, or --from with a source.")
    options = {"size": size, "from": source, "cache": cache, "io": io}
    body = {
        **_new(volume),
        "prealloc": prealloc,
        **{key: value for key, value in options.items() if value is not None},
    }
    if block_size is not None:
        body["block_size"] = parse_block_size(block_size)
    if given := scsi.given():
        body["scsi"] = given
    made = change("POST", "volumes", body=body)
    done(f"Volume {volume} created: {format_size(made['size'])}, WWN {made['wwn']}.", made)


@changing(app, "set")
def set_volume(
    volume: VolumeArgument,
    cache: Annotated[
        Literal["write-back", "write-through"] | None,
        typer.Option(
            "--cache",
            metavar="write-back|write-through",
            help="write-through: stable before it is answered.",
        ),
    ] = None,
    io: Annotated[
        Literal["buffered", "direct"] | None,
        typer.Option(
            "--io", metavar="buffered|direct", help="direct: around the gateway's page cache."
        ),
    ] = None,
    scsi: ScsiOptions = NOTHING_SAID,
    force: Annotated[bool, typer.Option("--force", help="End the sessions that use it.")] = False,
) -> None:
    """Change a volume's modes, and what iSCSI initiators know it by; what is not named stays.

    It is closed and opened again for that: refused while sessions use it, unless --force.
    """
    at = _at(volume)
    options = {"cache": cache, "io": io, "scsi": scsi.given() or None}
    body: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if not body:
        raise InvalidInput(
            "Nothing to change was given.", "For example: --cache write-through, --vendor TEXT."
        )
    made = change("PATCH", "volumes", *at, body={**body, "force": force})
    done(f"Volume {volume} changed.", made)


@command(app, "list")
def list_volumes(
    pool: Annotated[
        str | None,
        typer.Argument(metavar="[POOL]", help="Only this pool's.", autocompletion=names.pools),
    ] = None,
) -> None:
    """List all volumes, or those of one pool."""
    columns = (
        Column("VOLUME", lambda row: f"{row['pool']}/{row['name']}"),
        Column("SIZE", size("size"), right=True),
        Column("BLOCK", field("block_size"), right=True, spare=6),
        Column("CACHE", field("cache"), spare=4),
        Column("IO", field("io"), spare=5),
        Column("STATE", field("state")),
        Column("HEALTH", field("health")),
        Column("EXPORTS", lambda row: str(len(row["exports"])), right=True, spare=1),
        Column("TARGETS", lambda row: str(len(row["targets"])), right=True, spare=2),
        Column("SESSIONS", field("sessions"), right=True),
        Column("", flags(adopted="adopted", prealloc="preallocated"), spare=3),
    )
    empty = "There is no volume. Create one: blockgate volume create POOL/VOLUME --size SIZE"
    show_table(
        current().api.get("volumes", pool=None if pool is None else pool_name(pool)), columns, empty
    )


@command(app, "info")
def info(volume: VolumeArgument) -> None:
    """Show one volume."""
    one = current().api.get("volumes", *_at(volume))
    allocated = one["allocated"]
    show_facts(
        one,
        (
            ("Name", f"{one['pool']}/{one['name']}"),
            ("Size", f"{format_size(one['size'])} ({one['size']} bytes)"),
            ("Allocated", "" if allocated is None else format_size(allocated)),
            ("Block size", str(one["block_size"])),
            ("UUID", one["uuid"]),
            ("WWN", one["wwn"]),
            ("Cache", one["cache"]),
            ("I/O", one["io"]),
            ("Preallocated", yes_no(one["prealloc"])),
            ("Adopted", yes_no(one["adopted"])),
            ("Path", one["path"]),
            ("State", one["state"]),
            ("Health", one["health"]),
            ("Reason", one["reason"]),
            ("Degraded since", when(one["degraded_since"])),
            ("Writes", "refused until it is reopened" if one["writes_refused"] else ""),
            ("Exports", ", ".join(one["exports"])),
            ("Targets", ", ".join(one["targets"])),
            ("SCSI", _face(one)),
            ("Sessions", str(one["sessions"])),
        ),
    )


@changing(app, "resize")
def resize(volume: VolumeArgument, size: SizeOption, force: ForceOption = False) -> None:
    """Grow a volume, also while it is in use; to shrink it takes --force."""
    made = change("POST", "volumes", *_at(volume), "resize", body={"size": size, "force": force})
    done(f"Volume {volume} has {format_size(made['size'])} now.", made)


@changing(app, "rename")
def rename(
    volume: VolumeArgument,
    new_name: Annotated[str, typer.Argument(metavar="NEW", help="The new name, without pool.")],
) -> None:
    """Give a volume a new name in its pool; its identity and its exports stay."""
    if "/" in new_name:
        raise InvalidInput(
            f"A volume stays in its pool: {shown(new_name)} is no name within that.",
            "Give the new name alone, without the pool's.",
        )
    made = change(
        "POST", "volumes", *_at(volume), "rename", body={"new_name": volume_name(new_name)}
    )
    done(f"Volume {volume} is {made['pool']}/{made['name']} now.", made)


@changing(app, "delete")
def delete(volume: VolumeArgument, force: ForceOption = False, yes: YesOption = False) -> None:
    """Destroy a volume and its data. Refused while it is exported.

    It asks first, unless --yes is given; without a terminal it takes --yes.
    """
    at = _at(volume)
    confirm(f"Destroy the data of {volume}?", yes=yes)
    change("DELETE", "volumes", *at, force=force or None)
    done(f"Volume {volume} deleted.")


@changing(app, "adopt")
def adopt(
    volume: NewVolumeArgument,
    path: Annotated[
        str | None,
        typer.Option("--path", metavar="FILE", help="The file; not with a device pool."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="SIZE", help="Refuse unless it has this size."),
    ] = None,
    block_size: BlockSizeOption = "512",
    cache: CacheOption = "write-back",
    io: IoOption = "buffered",
) -> None:
    """Take an existing file or device as a volume; no byte of it is touched."""
    if path is not None and current().api.endpoint.local:
        path = str(Path(path).absolute())
    body = {**_new(volume), "block_size": parse_block_size(block_size), "cache": cache, "io": io}
    body.update(
        {key: value for key, value in (("path", path), ("size", size)) if value is not None}
    )
    made = change("POST", "volumes", "adopt", body=body)
    done(f"Volume {volume} adopted: {format_size(made['size'])}, WWN {made['wwn']}.", made)


@changing(app, "forget")
def forget(volume: VolumeArgument) -> None:
    """Know a volume no longer; its data stays where it is."""
    change("POST", "volumes", *_at(volume), "forget")
    done(f"Volume {volume} forgotten; its data is where it was.")


@changing(app, "reopen")
def reopen(volume: VolumeArgument) -> None:
    """Close and open a volume again, which ends its sessions and clears a degraded state."""
    made = change("POST", "volumes", *_at(volume), "reopen")
    done(f"Volume {volume} reopened: {made['health']}.", made)
