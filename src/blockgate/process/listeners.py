"""Every listening socket of the daemon, in one place.

A socket is bound here, or was passed by the service manager, and stays here until the daemon ends;
the engine and the HTTP servers work on duplicates.  So this registry is also what a successor would
be given (`descriptors`): names and sockets in the form of sd_listen_fds(3).
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from blockgate.model.addresses import Address, InetAddress, UnixAddress
from blockgate.model.errors import InUse, InvalidInput, Refused, Unavailable
from blockgate.model.showing import shown

Role = Literal["api", "api-tls", "nbd", "iscsi"]
ROLES: tuple[Role, ...] = ("api", "api-tls", "nbd", "iscsi")

BACKLOG = 1024


@dataclass(frozen=True, slots=True)
class SocketMode:
    """Who may connect to a Unix socket: file mode, and the group that owns the file."""

    mode: int = 0o600
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening socket. `address` is the real one (a port 0 has become a number)."""

    role: Role
    address: str
    sock: socket.socket
    inherited: bool = False
    """Passed by the service manager: its file is not ours to remove."""
    file_id: tuple[int, int] | None = None
    """Device and inode of a Unix socket's file that we made."""

    @property
    def met_at(self) -> tuple[str, ...]:
        """The addresses at which clients meet it: two, where a socket bound to ``::`` takes IPv4 as
        well (RFC 3493 5.3). None that we bind does; one that is passed may (BindIPv6Only=both)."""
        if self.sock.family == socket.AF_INET6:
            host, port = self.sock.getsockname()[:2]
            alone = self.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            if host == "::" and not alone:
                return (str(InetAddress("0.0.0.0", port)), self.address)
        return (self.address,)


class Listeners:
    """The registry. Binding looks up host names, so call `bind` from a thread."""

    def __init__(self) -> None:
        self._all: list[Listener] = []

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._all)

    def of(self, role: Role) -> list[Listener]:
        """The listeners of one role."""
        return [listener for listener in self._all if listener.role == role]

    def adopt(self, name: str, sock: socket.socket) -> None:
        """Take a socket that the service manager passed; its name says what it is for."""
        for role in ROLES:
            if name == role:
                address = socket_address(sock)
                self._all.append(Listener(role, address, sock, inherited=True))
                return
        raise InvalidInput(
            f"A socket named {name!r} was passed, and there is no such listener.",
            f"Set FileDescriptorName= to one of: {', '.join(ROLES)}.",
        )

    def bind(self, role: Role, address: Address, mode: SocketMode | None = None) -> None:
        """Bind and listen; a host name is bound at each of its addresses."""
        if isinstance(address, UnixAddress):
            self._all.append(_bind_unix(role, address, mode or SocketMode()))
        else:
            self._all.extend(_bind_inet(role, address))

    def descriptors(self) -> tuple[list[int], list[str]]:
        """File descriptors and their names, as LISTEN_FDS and LISTEN_FDNAMES carry them."""
        return [one.sock.fileno() for one in self._all], [one.role for one in self._all]

    def close(self) -> None:
        """Close all, and remove the files of Unix sockets that are still ours."""
        for listener in self._all:
            if listener.file_id is not None:
                _unlink_ours(Path(listener.address.removeprefix("unix:")), listener.file_id)
            listener.sock.close()
        self._all.clear()


def socket_address(sock: socket.socket) -> str:
    """Where a socket listens: ``192.0.2.1:10809``, ``[::]:10809`` or ``unix:/path``."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = os.fsdecode(name)
        return f"unix:{path}" if not path.startswith("\0") else f"unix:@{path[1:]}"
    return str(InetAddress(name[0], name[1]))


def _bind_inet(role: Role, address: InetAddress) -> list[Listener]:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except UnicodeError as error:  # it is looked up as IDNA (RFC 3490 4.1): labels of 1 to 63
        raise InvalidInput(
            f"{shown(address.host)}, where to listen, is not a host name.",
            "Name an address of this machine, such as 0.0.0.0 or [::].",
        ) from error
    except socket.gaierror as error:
        raise Unavailable(
            f"The host name {address.host!r} of a listener has no address: {error.strerror}.",
            "Name an address of this machine, such as 0.0.0.0 or [::].",
        ) from error
    made: list[Listener] = []
    try:
        for family, kind, protocol, _, where in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            made.append(Listener(role, "", sock))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # so that 0.0.0.0 and [::] may both be had
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(where)
            sock.listen(BACKLOG)
    except OSError as error:
        for listener in made:
            listener.sock.close()
        raise _bind_error(str(address), error) from error
    return [Listener(role, socket_address(one.sock), one.sock) for one in made]


def _bind_unix(role: Role, address: UnixAddress, mode: SocketMode) -> Listener:
    path = Path(address.path)
    group = None if mode.group is None else _group_id(mode.group)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    file_id: tuple[int, int] | None = None
    try:
        file_id = _bind_path(sock, path)
        if group is not None:
            os.chown(path, -1, group, follow_symlinks=False)
        sock.listen(BACKLOG)
        path.chmod(mode.mode)
    except (OSError, InUse) as error:
        if file_id is not None:
            _unlink_ours(path, file_id)
        sock.close()
        if isinstance(error, OSError):
            raise _bind_error(str(address), error) from error
        raise
    return Listener(role, str(address), sock, file_id=file_id)


def _bind_path(sock: socket.socket, path: Path) -> tuple[int, int]:
    """Bind, over the file of a dead process if need be; gives device and inode of the file."""
    with _umask(0o777):  # nobody connects before the mode is set
        try:
            sock.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(str(path))
    status = path.stat(follow_symlinks=False)
    return status.st_dev, status.st_ino


def _remove_stale(path: Path) -> None:
    """Remove the file of a dead process's socket; `InUse` where somebody answers on it."""
    if not stat.S_ISSOCK(path.stat(follow_symlinks=False).st_mode):
        raise InUse(f"{path} exists and is no socket.", "Name another path for the listener.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError:  # a full backlog: it is alive
            pass
    raise InUse(f"Another process listens on {path}.", "Stop it, or name another path.")


def _unlink_ours(path: Path, file_id: tuple[int, int]) -> None:
    with suppress(OSError):
        status = path.stat(follow_symlinks=False)
        if (status.st_dev, status.st_ino) == file_id:
            path.unlink()


def _bind_error(address: str, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return InUse(f"{address} is in use by another process.", "Stop it, or use another port.")
    if error.errno == errno.EADDRNOTAVAIL:
        # It may come yet, as that of an interface which is still down.
        return Unavailable(f"{address} is no address of this machine.", "`ip address` lists them.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refused(
            f"Cannot listen on {address}: {error.strerror}.",
            "Use a place that this user may use; a port below 1024 takes CAP_NET_BIND_SERVICE.",
        )
    hint = "Name another place."
    if error.errno == errno.ENOENT:
        hint = "Make the directory that is to hold it, or name another place."
    return Unavailable(f"Cannot listen on {address}: {error.strerror}.", hint)


def _group_id(name: str) -> int:
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidInput(f"There is no group {name!r} on this machine.") from None


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    former = os.umask(mask)
    try:
        yield
    finally:
        os.umask(former)
