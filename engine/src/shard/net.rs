//! Socket calls, as thin as they can be.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

fn check(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Receives into one or two places; 0: the peer has closed.
pub fn recv(fd: RawFd, first: &mut [u8], second: &mut [u8]) -> io::Result<usize> {
    if second.is_empty() {
        // SAFETY: the slice is writable for its length.
        return check(unsafe { libc::recv(fd, first.as_mut_ptr().cast(), first.len(), 0) });
    }
    let parts = [
        libc::iovec { iov_base: first.as_mut_ptr().cast(), iov_len: first.len() },
        libc::iovec { iov_base: second.as_mut_ptr().cast(), iov_len: second.len() },
    ];
    // SAFETY: both parts are writable for their lengths, and distinct.
    check(unsafe { libc::readv(fd, parts.as_ptr(), 2) })
}

/// Sends what the vector of parts points to; no SIGPIPE.
///
/// # Safety
/// Every part must be readable for its length.
pub unsafe fn send_parts(fd: RawFd, parts: &mut [libc::iovec]) -> io::Result<usize> {
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len() as _;
    // SAFETY: the parts are readable, as the caller has promised.
    check(unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) })
}

/// Sends bytes; no SIGPIPE.
pub fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is readable for its length.
    check(unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) })
}

/// Tells the peer that nothing more will come (`SHUT_WR`), or that all is over (`SHUT_RDWR`).
pub fn shutdown(fd: RawFd, how: libc::c_int) {
    // SAFETY: no pointers. ENOTCONN means that the peer was faster.
    unsafe { libc::shutdown(fd, how) };
}

fn set_option(fd: RawFd, level: i32, name: i32, value: i32) {
    // SAFETY: an int, as these options take. A socket without the option works without it.
    unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t);
    }
}

/// Accepts one connection: non-blocking, no delay, kept alive. `WouldBlock`: none is waiting.
pub fn accept(listener: RawFd) -> io::Result<(OwnedFd, String)> {
    // SAFETY: zero is a valid sockaddr_storage.
    let mut address: libc::sockaddr_storage = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: address and length belong together.
    let fd = unsafe {
        libc::accept4(listener, (&raw mut address).cast(), &raw mut length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    if i32::from(address.ss_family) != libc::AF_UNIX {
        set_option(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
        set_option(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
        if is_loopback(&address) {
            do_not_pace(fd.as_raw_fd());
        }
    }
    let peer = peer_name(&fd, &address);
    Ok((fd, peer))
}

/// Bytes that a TCP peer has acknowledged, ever, if there are others that it has not (tcp(7), `TCP_INFO`; TIOCOUTQ).
/// Its kernel does that, as far as the peer makes room by reading.
pub fn acknowledged(fd: RawFd) -> Option<u64> {
    /// `tcpi_bytes_acked` (linux/tcp.h); fixed, like all of the structure that there is.
    const BYTES_ACKED: usize = 120;
    let mut info = [0u8; BYTES_ACKED + size_of::<u64>()];
    let mut length = info.len() as libc::socklen_t;
    let mut unsent: libc::c_int = 0;
    // SAFETY: the call writes at most `length` bytes, the other one int.
    let failed = unsafe {
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length) != 0
            || libc::ioctl(fd, libc::TIOCOUTQ, &raw mut unsent) != 0
    };
    let (_, acked) = info.split_last_chunk().expect("it is long enough");
    (!failed && length as usize == info.len() && unsent > 0).then(|| u64::from_ne_bytes(*acked))
}

/// Does the peer live on this machine?
fn is_loopback(address: &libc::sockaddr_storage) -> bool {
    internet_address(address).is_some_and(|address| address.ip().is_loopback())
}

/// A system whose congestion control paces (bbr) would hold replies back for a bandwidth that it
/// has to guess; between two processes of one machine there is no queue to be kind to
/// (docs/adr). Reno is built into every kernel; a refusal leaves things as they are.
fn do_not_pace(fd: RawFd) {
    let name = b"reno";
    // SAFETY: name and length belong together.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        );
    }
}

fn peer_name(fd: &OwnedFd, address: &libc::sockaddr_storage) -> String {
    internet_address(address).map_or_else(|| unix_peer(fd), |address| address.to_string())
}

/// The address that a connection's peer has connected to; "unix" where that is a path.
pub fn local_name(fd: &OwnedFd) -> String {
    // SAFETY: zero is a valid sockaddr_storage.
    let mut address: libc::sockaddr_storage = unsafe { zeroed() };
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: address and length belong together.
    let result = unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) };
    let address = if result == 0 { internet_address(&address) } else { None };
    address.map_or_else(|| "unix".into(), |address| address.to_string())
}

fn internet_address(address: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which member of the union it is.
            let inet = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(inet.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(inet.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let inet = unsafe { &*(&raw const *address).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(inet.sin6_addr.s6_addr);
            let port = u16::from_be(inet.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                // A client of a dual-stack socket is who it is by its IPv4 address.
                Some(ip) => SocketAddr::V4(SocketAddrV4::new(ip, port)),
                None => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, 0)),
            })
        }
        _ => None,
    }
}

fn unix_peer(fd: &OwnedFd) -> String {
    // SAFETY: zero is a valid ucred.
    let mut cred: libc::ucred = unsafe { zeroed() };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: value and length belong together.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut cred).cast(), &raw mut length)
    };
    match result {
        0 => format!("unix:uid={},gid={},pid={}", cred.uid, cred.gid, cred.pid),
        _ => "unix".into(),
    }
}

/// A descriptor of one's own for the same listening socket, made non-blocking. EINVAL: it does not listen.
pub fn own_listener(fd: RawFd) -> io::Result<OwnedFd> {
    let mut listening = 0i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: value and length belong together.
    let result = unsafe {
        libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN, (&raw mut listening).cast(), &raw mut length)
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if listening == 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: no pointers; the results are checked.
    unsafe {
        let own = libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0);
        if own < 0 {
            return Err(io::Error::last_os_error());
        }
        let own = OwnedFd::from_raw_fd(own);
        let flags = libc::fcntl(own.as_raw_fd(), libc::F_GETFL);
        if flags < 0 || libc::fcntl(own.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_neighbour_on_this_machine_is_not_paced() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (fd, peer) = accept(listener.as_raw_fd()).unwrap();
            assert!(peer.parse::<SocketAddr>().unwrap().ip().is_loopback());
            let mut name = [0u8; 16];
            let mut length = name.len() as libc::socklen_t;
            // SAFETY: name and length belong together.
            let result = unsafe {
                libc::getsockopt(
                    fd.as_raw_fd(),
                    libc::IPPROTO_TCP,
                    libc::TCP_CONGESTION,
                    name.as_mut_ptr().cast(),
                    &raw mut length,
                )
            };
            assert_eq!(result, 0);
            assert!(name.starts_with(b"reno\0"), "{name:?}");
        }
    }
}
