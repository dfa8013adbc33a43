"""What the commands about volumes have in common: options, and how they are read."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal

import typer

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import shown
from blockgate.model.units import Unit


def parse_block_size(text: str) -> int:
    """A block size in bytes, as an option says it."""
    if text not in ("512", "4096"):
        raise InvalidInput(f"{shown(text)} is not a block size.", "Use 512 or 4096.")
    return int(text)


@dataclass(frozen=True, slots=True)
class ScsiOptions:
    """The options of a volume's SCSI face, by the names of `Unit`'s fields; None: not said."""

    vendor: Annotated[
        str | None,
        typer.Option("--vendor", metavar="TEXT", help="SCSI vendor, up to 8 characters."),
    ] = None
    product: Annotated[
        str | None, typer.Option("--product", metavar="TEXT", help="SCSI product, up to 16.")
    ] = None
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="TEXT", help="SCSI revision, up to 4.")
    ] = None
    serial: Annotated[
        str | None,
        typer.Option("--serial", metavar="TEXT", help="SCSI serial number; the UUID if not said."),
    ] = None
    scsi_id: Annotated[
        str | None,
        typer.Option("--scsi-id", metavar="TEXT", help="ScsiId as of iSCSI Enterprise Target."),
    ] = None
    removable: Annotated[
        bool | None, typer.Option("--removable/--fixed", help="A medium that can be ejected?")
    ] = None
    provisioning: Annotated[
        Literal["thin", "full"] | None,
        typer.Option(
            "--provisioning", metavar="thin|full", help="thin: initiators may give blocks back."
        ),
    ] = None
    physical_block_size: Annotated[
        str | None,
        typer.Option(
            "--physical-block-size", metavar="512|4096", help="What is told to initiators; 4096."
        ),
    ] = None
    unmap_zeroes_data: Annotated[
        bool | None,
        typer.Option(
            "--unmap-zeroes-data/--no-unmap-zeroes-data",
            help="Promise that blocks given back read as zeroes? As LIO's attribute.",
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """What was said, checked."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        given = {name: value for name, value in said.items() if value is not None}
        if self.physical_block_size is not None:
            given["physical_block_size"] = parse_block_size(self.physical_block_size)
        Unit().changed(given)
        return given


NOTHING_SAID: Final = ScsiOptions()
