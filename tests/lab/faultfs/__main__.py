"""`python -m tests.lab.faultfs MOUNTPOINT CONTROL_SOCKET`: serve in the foreground."""

import ctypes
import resource
import signal
import sys
from pathlib import Path

from tests.lab.faultfs.server import serve

_PR_SET_PDEATHSIG = 1

if __name__ == "__main__":
    # Two memory files for each file; and gone, with the mount, when the test run is killed.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    serve(Path(sys.argv[1]), Path(sys.argv[2]))
