"""A real Linux kernel as the client: a script runs as root in a guest of a few seconds' life.

The guest has the kernel's own iSCSI and NBD initiators, device-mapper multipath, XFS, ext4, fio and
sg3-utils. It is User-Mode Linux, an ordinary process that boots in three seconds. Where that does
not run, or a module is wanted that it lacks (`scsi_dh_alua`), QEMU emulates a machine for Debian's
stock kernel: slower, ten seconds to boot, and no virtualisation is needed either. Both are made of
Debian packages, once, and cached.

* The guest reaches the host's ports that `ports` names, and nothing else: `127.0.0.2:3260` under
  the same name; 127.0.0.1 is its own, the host's is 10.0.2.2 there.
* `path-down ADDRESS` and `path-up ADDRESS` lose a path and give it back. `by-lun LUN` waits for
  disks. `tell WORD` and `hear WORD` keep step with the test (:class:`Script`).
* `$JOB` is a folder of the host. What the script prints is the result.
"""

from tests.lab.kernel.guests import GuestFailed, KernelLab, Script

__all__ = ["GuestFailed", "KernelLab", "Script"]
