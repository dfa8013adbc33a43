"""The kernel's NBD client."""

from __future__ import annotations

from tests.lab.kernel import KernelLab
from tests.lab.processes import Gateway

SCRIPT = """
modprobe nbd
nbd-client -N "$EXPORT" 10.0.2.2 "$PORT" /dev/nbd0 -block-size 4096
"mkfs.$FS" -q /dev/nbd0
mount /dev/nbd0 /mnt
head -c 5000000 /dev/urandom >/mnt/file
sha256sum </mnt/file >before
umount /mnt
nbd-client -d /dev/nbd0
nbd-client -N "$EXPORT" 10.0.2.2 "$PORT" /dev/nbd0 -block-size 4096
$CHECK /dev/nbd0
mount /dev/nbd0 /mnt
sha256sum -c before </mnt/file
fstrim -v /mnt
umount /mnt
nbd-client -d /dev/nbd0
"""
CHECKS = {"ext4": "e2fsck -fn", "xfs": "xfs_repair -n"}


def test_file_systems(kernel_lab: KernelLab, shared_gateway: Gateway) -> None:
    """mkfs, mount, write, unmount, check, and all is there after the device has gone and come."""
    for fs, check in CHECKS.items():
        export = shared_gateway.serve("300MiB")
        port = shared_gateway.nbd_port
        kernel_lab.run(SCRIPT, [port], PORT=port, EXPORT=export, FS=fs, CHECK=check)
