//! Takes in connections and spreads them over the shards.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::control::{Control, NewConn, Protocol};
use super::net;
use super::shared::Shared;

/// Connections that are taken in at a time; then the shard's others have their turn.
const BATCH: usize = 128;

/// What is left to do after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Nobody waits any more.
    All,
    /// There may be more: to be continued at once.
    More,
    /// The system has no descriptors or memory left: to be continued in a while, without spinning.
    Exhausted,
}

/// A listening socket.
pub struct Acceptor {
    id: u64,
    fd: OwnedFd,
    label: Arc<str>,
    protocol: Protocol,
}

impl Acceptor {
    /// Takes over a non-blocking listening socket.
    pub fn new(id: u64, fd: OwnedFd, label: Arc<str>, protocol: Protocol) -> Self {
        Self { id, fd, label, protocol }
    }

    /// The listener's number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The socket.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Accepts what waits and hands each connection to the shard that has the fewest.
    pub fn run(&self, shared: &Shared) -> Accepted {
        for _ in 0..BATCH {
            match net::accept(self.fd()) {
                Ok((fd, peer)) => self.hand_over(shared, fd, peer),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Accepted::All,
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => return Accepted::Exhausted,
                    Some(libc::EINVAL | libc::EBADF | libc::ENOTSOCK) => return Accepted::All,
                    // That one connection failed (ECONNABORTED and the like); the next may not.
                    _ => {}
                },
            }
        }
        Accepted::More
    }

    fn hand_over(&self, shared: &Shared, fd: OwnedFd, peer: String) {
        // As many as there may be: this one is closed here and now.
        if !shared.lanes.admit_connection() {
            return;
        }
        let (shard, id) = shared.place_connection();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        // Portals matter to iSCSI alone.
        let local = if self.protocol == Protocol::Iscsi { net::local_name(&fd) } else { String::new() };
        let (listener, label, protocol) = (self.id, self.label.clone(), self.protocol);
        let new = NewConn { id, fd, listener, label, protocol, peer, local, since };
        shared.mailboxes[shard].post_control(Control::Adopt(new));
    }
}
