"""Standard output that cannot be written: a full disk, a pipe that nobody reads any more, or none
that was opened at all."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from typing import NoReturn

from blockgate.cli.session import report
from blockgate.model.errors import Failed


class OutputLost(Exception):
    """Something could not be written to standard output. No OSError: what prints would take that
    for its own affair, and end the program in its way."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.errno = error.errno or errno.EIO

    def end(self, *, as_json: bool) -> NoReturn:
        """Ends the program: by SIGPIPE, as programs end whose reader has left, or with an error."""
        # What is left in the buffer has nowhere to go, and Python would try once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if self.errno == errno.EPIPE:
            # Not before: connections to the gateway, too, have an end that may be gone.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGPIPE)
        error = Failed(
            f"The output cannot be written: {os.strerror(self.errno)}.",
            "Nothing was sent. Give it a standard output, be it /dev/null."
            if sys.stdout is None
            else "Whether a change was made is in: blockgate log commands.",
        )
        report(error, as_json=as_json)
        sys.exit(error.exit_code)


class _Stdout(io.TextIOWrapper):
    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputLost(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputLost(error) from error


def watch_stdout() -> None:
    """From now on whatever is printed and cannot be written raises :class:`OutputLost`.

    So does this itself where the caller has closed standard output: before anything is sent, since
    a secret that is generated then would be shown to nobody.
    """
    if sys.stdout is None:
        raise OutputLost(OSError(errno.EBADF, os.strerror(errno.EBADF)))
    if isinstance(sys.stdout, io.TextIOWrapper):
        terminal = sys.stdout.isatty()
        encoding, errors = sys.stdout.encoding, sys.stdout.errors
        sys.stdout = _Stdout(
            sys.stdout.detach(), encoding=encoding, errors=errors, line_buffering=terminal
        )


def flush_stdout() -> None:
    """Raises OutputLost."""
    sys.stdout.flush()
