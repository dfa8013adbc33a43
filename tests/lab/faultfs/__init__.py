"""A file system that loses power and fails on demand, for the tests.

It runs as a process of its own over /dev/fuse and speaks the kernel's protocol directly, so it
needs root and Linux and nothing else. What is *volatile* (written, not synced) and what is
*durable* (synced) is kept apart for every file and for every directory:

* ``fsync``/``fdatasync`` of a file make its bytes and its size durable, not its name;
* ``fsync`` of a directory makes the names in it durable, not what they lead to;
* a write with ``O_DSYNC``, ``O_SYNC`` or ``RWF_DSYNC`` makes exactly its own range durable.

That is the least that POSIX promises, and less than ext4 gives: what survives here survives
everywhere. :class:`FaultFS` mounts one and steers it.
"""

from tests.lab.faultfs.client import FaultFS, HungOperation

__all__ = ["FaultFS", "HungOperation"]
