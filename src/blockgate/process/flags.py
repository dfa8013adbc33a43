"""The daemon's command line.  Each flag is a field of the configuration, see `config`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blockgate import __version__
from blockgate.process.logs import LEVELS

_EPILOG = """exit status:
  0  stopped as asked (SIGTERM, SIGINT)
  1  asked to stop a second time: left at once
  2  the configuration or the command line is not valid
  4  the state directory, a volume or a listener's address is in use
  5  something is not allowed: a file, a directory or an address that it may not use
  6  something that is needed is away (an address, a library, io_uring, a sound disk)
  7  any other failure, as a state that a newer version has written

signals: SIGTERM and SIGINT drain and stop; a second one stops at once. SIGHUP reads the
certificates, the tokens, the users' roles and the log level again.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser; also read by the script that writes the manual page."""
    parser = argparse.ArgumentParser(
        prog="blockgated",
        description="Gateway that exports files and block devices as network block devices.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"blockgated {__version__}")
    add("--config", type=Path, metavar="FILE", help="configuration file (TOML)")
    add("--state-dir", metavar="DIR", help="where the state lives [/var/lib/blockgate]")
    add("--secret-key", metavar="FILE", help="key that encrypts secrets [DIR/secret.key]")
    add("--drain-seconds", type=float, metavar="S", help="bound on draining at the end [10]")
    _add_api(parser)
    _add_nbd(parser)
    _add_iscsi(parser)
    engine = parser.add_argument_group("data plane")
    engine.add_argument("--io", choices=("auto", "io_uring", "epoll"), help="I/O path [auto]")
    engine.add_argument("--shards", type=int, metavar="N", help="threads [0: one per core, max 8]")
    log = parser.add_argument_group("log, on stderr")
    log.add_argument("--log-level", choices=LEVELS, help="least level that is logged [info]")
    log.add_argument("--log-format", choices=("text", "json"), help="key=value or JSON [text]")
    return parser


def _add_api(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("API").add_argument
    add("--api", metavar="unix:PATH", help="its Unix socket [unix:/run/blockgate/api.sock]")
    add("--api-mode", metavar="MODE", help="file mode of that socket [0660]")
    add("--api-group", metavar="GROUP", help="group that owns that socket")
    add("--api-tls", metavar="ADDR[:PORT]", help="listen with TLS too [port 10810]")
    add("--api-cert", metavar="FILE", help="certificate chain of the TLS listener (PEM)")
    add("--api-key", metavar="FILE", help="its private key (PEM)")
    add("--api-client-ca", metavar="FILE", help="CA of client certificates (PEM)")
    add("--api-tokens", metavar="FILE", help="token file: IDENTITY ROLE SHA256 on each line")


def _add_nbd(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("NBD").add_argument
    add(
        "--nbd",
        action="append",
        metavar="ADDR[:PORT]|unix:PATH",
        help="listen here [port 10809]; may be given several times",
    )
    add("--nbd-mode", metavar="MODE", help="file mode of Unix sockets [0660]")
    add("--nbd-group", metavar="GROUP", help="group that owns Unix sockets")
    add("--nbd-cert", metavar="FILE", help="certificate chain for STARTTLS (PEM)")
    add("--nbd-key", metavar="FILE", help="its private key (PEM)")
    add("--nbd-ca", metavar="FILE", help="CA of client certificates (PEM)")
    add(
        "--nbd-verify-client",
        action="store_true",
        default=None,
        help="TLS clients must have a certificate of that CA",
    )


def _add_iscsi(parser: argparse.ArgumentParser) -> None:
    parser.add_argument_group("iSCSI").add_argument(
        "--iscsi",
        action="append",
        metavar="ADDR[:PORT]",
        help="a portal: listen here [port 3260]; may be given several times",
    )


_FIELDS = {
    "state_dir": (None, "state_dir"),
    "secret_key": (None, "secret_key"),
    "drain_seconds": (None, "drain_seconds"),
    "api": ("api", "socket"),
    "api_mode": ("api", "socket_mode"),
    "api_group": ("api", "socket_group"),
    "api_tls": ("api", "tls_listen"),
    "api_cert": ("api", "certificate"),
    "api_key": ("api", "key"),
    "api_client_ca": ("api", "client_ca"),
    "api_tokens": ("api", "tokens"),
    "nbd": ("nbd", "listen"),
    "nbd_mode": ("nbd", "socket_mode"),
    "nbd_group": ("nbd", "socket_group"),
    "nbd_cert": ("nbd", "certificate"),
    "nbd_key": ("nbd", "key"),
    "nbd_ca": ("nbd", "ca"),
    "nbd_verify_client": ("nbd", "verify_client"),
    "iscsi": ("iscsi", "listen"),
    "io": ("engine", "io"),
    "shards": ("engine", "shards"),
    "log_level": ("log", "level"),
    "log_format": ("log", "format"),
}


def parse_flags(arguments: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
    """The configuration file and the flags that were given, as `config.load_config` takes them.

    Ends the process (status 2, usage on stderr) when they are wrong, as argparse does.
    """
    given = vars(build_parser().parse_args(arguments))
    flags: dict[str, Any] = {}
    for name, (section, field) in _FIELDS.items():
        value = given[name]
        if value is None:
            continue
        if section is None:
            flags[field] = value
        else:
            flags.setdefault(section, {})[field] = value
    return given["config"], flags
