"""iscsi-inq, -readcapacity16, -swp and -perf: what they are told is what the volume is."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.conformance.clients.laboratory import run, succeed
from tests.conformance.iscsi.clients.conftest import every_way
from tests.conformance.iscsi.clients.disks import Disk

Serve = Callable[..., Disk]
SIZE = 16 << 20


@every_way
def test_standard_inquiry(serve: Serve, way: str) -> None:
    face = {"vendor": "ACME", "product": "Fine Disk", "revision": "7.2"}
    told = serve(way, SIZE, scsi=face).facts("iscsi-inq")
    assert told["Peripheral Qualifier"] == "CONNECTED"
    assert told["Peripheral Device Type"] == "DIRECT_ACCESS"
    assert told["Version"].startswith("6 ")  # SPC-4
    assert told["ReponseDataFormat"] == "2"  # as SPC-4 6.6.2 wants it, in the tool's own spelling
    assert {told[bit] for bit in ("Removable", "NormACA", "SCCS", "Protect", "MultiP")} == {"0"}
    assert {told[bit] for bit in ("HiSup", "3PC", "CmdQue")} == {"1"}
    assert (told["Vendor"], told["Product"], told["Revision"]) == ("ACME", "Fine Disk", "7.2")


def page(disk: Disk, code: int) -> dict[str, str]:
    return disk.facts("iscsi-inq", "--evpd=1", f"--pagecode={code}")


@every_way
def test_supported_pages(serve: Serve, way: str) -> None:
    told = serve(way, SIZE).tool("iscsi-inq", "--evpd=1", "--pagecode=0")
    codes = [int(line[7:9], 16) for line in told.splitlines() if line.startswith("Page:0x")]
    assert codes == [0x00, 0x80, 0x83, 0x86, 0x8F, 0xB0, 0xB1, 0xB2]


@every_way
def test_unit_serial_number(serve: Serve, way: str) -> None:
    disk = serve(way, SIZE)
    assert page(disk, 0x80)["Unit Serial Number"] == f"[{disk.info['uuid']}]"


def test_device_identification(serve: Serve) -> None:
    """SPC-4 7.8.6: of the unit a T10 and an NAA name, of the port its number and its name."""
    disk = serve("plain", SIZE, scsi={"vendor": "ACME"})
    told = disk.tool("iscsi-inq", "--evpd=1", f"--pagecode={0x83}")
    designators = told.split("DEVICE DESIGNATOR #")[:0:-1]  # it shows the last one first
    kinds = [
        tuple(line.split(":(")[1][0] for line in one.splitlines() if ":(" in line)[-2:]
        for one in designators
    ]
    # (association, designator type): unit 0, port 1; T10 1, NAA 3, vendor's own 0, port 4,
    # port group 5, SCSI name string 8
    assert kinds == [("0", "1"), ("0", "3"), ("0", "0"), ("1", "4"), ("1", "5"), ("1", "8")]
    assert f"[ACME    {disk.info['uuid']}]" in designators[0]
    assert f"[{disk.target.name},t,0x0001]" in designators[5]
    assert "ISCSI" in designators[5]  # the port's protocol


@pytest.mark.parametrize(("block_size", "physical"), [(512, 512), (512, 4096), (4096, 4096)])
def test_block_limits(serve: Serve, block_size: int, physical: int) -> None:
    disk = serve("plain", SIZE, block_size=block_size, scsi={"physical_block_size": physical})
    told = page(disk, 0xB0)
    ratio = str(physical // block_size)
    assert told["optimal transfer length granularity"] == ratio
    assert told["optimal unmap granularity"] == ratio
    assert (told["ugavalid"], told["unmap granularity alignment"]) == ("1", "0")
    assert int(told["maximum compare and write length"]) > 0
    assert int(told["maximum unmap lba count"]) > 0
    assert int(told["maximum unmap block descriptor count"]) > 0
    assert int(told["maximum transfer length"]) * block_size >= 1 << 20


def test_block_device_characteristics(serve: Serve) -> None:
    told = page(serve("plain", SIZE), 0xB1)
    assert told["Medium Rotation Rate"] == "1RPM"  # SBC-3 6.5.3: 0001h does not rotate


@pytest.mark.parametrize(
    ("provisioning", "unmaps", "kind"), [("thin", "1", "2"), ("full", "0", "0")]
)
def test_logical_block_provisioning(
    serve: Serve, provisioning: str, unmaps: str, kind: str
) -> None:
    told = page(serve("plain", SIZE, scsi={"provisioning": provisioning}), 0xB2)
    assert {told[bit] for bit in ("lbpu", "lbpws", "lbpws10", "lbprz")} == {unmaps}
    assert told["provisioning type"] == kind


def test_a_page_that_is_not_there(serve: Serve) -> None:
    done = serve("plain", SIZE).refused("iscsi-inq", "--evpd=1", f"--pagecode={0xB5}")
    assert b"ILLEGAL_REQUEST" in done.stderr and b"INVALID_FIELD_IN_CDB" in done.stderr


@pytest.mark.parametrize(
    ("way", "block_size", "physical"),
    [("plain", 512, 512), ("plain", 4096, 4096), ("chap", 512, 4096), ("digest", 512, 4096)],
)
def test_capacity(serve: Serve, way: str, block_size: int, physical: int) -> None:
    size = SIZE + 5 * 4096
    disk = serve(way, size, block_size=block_size, scsi={"physical_block_size": physical})
    told = disk.facts("iscsi-readcapacity16")
    assert told["RETURNED LOGICAL BLOCK ADDRESS"] == str(size // block_size - 1)
    assert told["LOGICAL BLOCK LENGTH IN BYTES"] == str(block_size)
    exponent = (physical // block_size).bit_length() - 1
    assert told["P_I_EXPONENT"].endswith(f"EXPONENT:{exponent}")
    assert told["LBPME"] == "1 LBPRZ:1"
    assert told["LOWEST ALIGNED LOGICAL BLOCK ADDRESS"] == "0"
    assert told["P_TYPE"] == "0 PROT_EN:0"
    assert disk.tool("iscsi-readcapacity16", "--size").strip() == str(size)


def test_capacity_after_a_resize(serve: Serve) -> None:
    disk = serve("plain", SIZE)
    disk.gateway.cli("volume", "resize", disk.volume, "--size", "24MiB")
    assert disk.tool("iscsi-readcapacity16", "--size").strip() == str(24 << 20)


@pytest.mark.parametrize(
    ("way", "options"),
    [("plain", ("-m", "1", "-b", "8", "-r")), ("chap+digest", ("-m", "32", "-b", "64", "-R"))],
)
def test_perf_meets_no_error(serve: Serve, way: str, options: tuple[str, ...]) -> None:
    told = serve(way, SIZE).tool("iscsi-perf", *options, "-t", "1")
    assert "finished." in told and "ABORTED" not in told


class Writer:
    """A qemu-io that stays connected and takes one command after another."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            ["stdbuf", "-oL", "qemu-io", "-f", "raw", "-t", "none", url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def write(self, pattern: int, offset: int) -> str:
        """Writes a block and says how that went, in qemu-io's words."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"write -P {pattern:#x} {offset} 4096\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            line = line.removeprefix("qemu-io> ").strip()
            if line.startswith(("wrote ", "write failed")):
                return line
        raise AssertionError("qemu-io has ended")

    def close(self) -> None:
        self._process.communicate("quit\n", timeout=30)


@every_way
def test_software_write_protect(serve: Serve, way: str) -> None:
    """SPC-4 7.5.8, SWP: set by one initiator, it stops another that writes."""
    disk = serve(way, SIZE)
    writer = Writer(disk.url())
    try:
        assert "wrote 4096/4096" in writer.write(0x11, 0)
        assert disk.tool("iscsi-swp", "--swp=on").split("\n")[:2] == ["SWP:0", "Turning SWP ON"]
        assert writer.write(0x22, 4096).startswith("write failed")
        again = run("qemu-io", "-f", "raw", "-c", "write 0 512", disk.url())
        assert again.returncode != 0 and b"write protected" in again.stderr
        succeed("qemu-io", "-f", "raw", "-r", "-c", "read -P 0x11 0 4096", disk.url())
        assert disk.tool("iscsi-swp", "--swp=off").split("\n")[:2] == ["SWP:1", "Turning SWP OFF"]
        assert disk.tool("iscsi-swp").strip() == "SWP:0"
        assert "wrote 4096/4096" in writer.write(0x33, 8192)
    finally:
        writer.close()
    data = disk.file.read_bytes()
    assert data[:4096] == b"\x11" * 4096
    assert data[4096:8192] == bytes(4096), "written although it was protected"
    assert data[8192:12288] == b"\x33" * 4096


@pytest.mark.parametrize(
    "command",
    [("iscsi-inq",), ("iscsi-readcapacity16",), ("iscsi-swp",), ("iscsi-perf", "-t", "1")],
    ids=lambda command: command[0],
)
def test_wrong_secrets(serve: Serve, command: tuple[str, ...]) -> None:
    disk = serve("chap", SIZE)
    done = run(*command, disk.url(secret="not-the-secret"))
    assert done.returncode != 0 and b"Login Failed" in done.stdout + done.stderr
    # and the other way round: the target cannot prove to be somebody else
    done = run(*disk.environment(target_secret="not-the-secret"), *command, disk.url())
    assert done.returncode != 0
    assert b"Invalid CHAP_R response from the target" in done.stdout + done.stderr
