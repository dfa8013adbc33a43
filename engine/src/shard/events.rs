//! What goes up to Python: two lanes and one eventfd.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::SegQueue;

use super::mailbox::{drain, new_eventfd, signal};
use crate::iscsi::handed::HandedUp;
use crate::iscsi::management::Management;
use crate::iscsi::requests::Text;

/// Something that Python decides on, or is to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// A new connection; it waits for its greeting.
    Accepted {
        conn: u64,
        listener: u64,
        label: String,
        peer: String,
    },
    /// The client flags of the handshake.
    ClientFlags {
        conn: u64,
        flags: u32,
    },
    /// An option of the handshake.
    NbdOption {
        conn: u64,
        option: u32,
        data: Vec<u8>,
        oversize: bool,
    },
    /// TLS is up.
    TlsEstablished {
        conn: u64,
        identity: String,
        kind: &'static str,
    },
    /// A connection has ended.
    Lost {
        conn: u64,
        reason: String,
    },
    /// A new iSCSI connection.
    IscsiAccepted {
        conn: u64,
        listener: u64,
        label: String,
        peer: String,
        local: String,
    },
    /// A Login Request; it waits for its answer.
    Login {
        conn: u64,
        bhs: Vec<u8>,
        data: Vec<u8>,
    },
    /// A Text Request; it waits for its answer.
    Text(Text),
    /// A SCSI command that is Python's.
    Command(Box<HandedUp>),
    TaskManagement(Management),
    /// A Logout Request that closes a connection, or (0) its session.
    Logout {
        conn: u64,
        session: u64,
        closes: u64,
    },
    /// An abort is over.
    Aborted {
        request: u64,
    },
    /// Commands that Python has have failed with another one (QERR), and are over.
    Abandoned {
        volume: u64,
    },
    SessionEnded {
        session: u64,
    },
    /// A job is over. `errno` 0: it did all that it was to do.
    JobDone {
        job: u64,
        errno: i32,
        done_bytes: u64,
    },
    /// The lease has lapsed: nothing is given to a volume until it is renewed.
    Fenced,
    /// A volume has become worse.
    Degraded {
        volume: u64,
        reason: String,
        writes_refused: bool,
    },
}

/// The lanes. Neither can overflow: a connection has at most one event that Python has not answered, and one `Lost`,
/// and it counts against the limit of connections until its `Lost` has been read. An iSCSI session has as many as its
/// quotas of commands and functions allow; commands count until Python has taken them, whatever has become of them
/// in the meantime. What is abandoned stays in their quota until Python has answered it. A volume degrades at most
/// twice; a lease lapses once for each renewal.
pub struct Lanes {
    urgent: SegQueue<Event>,
    ordinary: SegQueue<Event>,
    eventfd: OwnedFd,
    signalled: AtomicBool,
    connections: AtomicU64,
    max_connections: u64,
}

impl Lanes {
    /// Lanes for an engine of at most `max_connections`.
    pub fn new(max_connections: u64) -> io::Result<Self> {
        Ok(Self {
            urgent: SegQueue::new(),
            ordinary: SegQueue::new(),
            eventfd: new_eventfd()?,
            signalled: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            max_connections,
        })
    }

    /// Readable while events wait.
    pub fn fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Counts a connection in, unless there are as many as may be.
    pub fn admit_connection(&self) -> bool {
        let bound = self.max_connections;
        self.connections.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < bound).then_some(n + 1)).is_ok()
    }

    /// Counts out a connection that Python was never told of.
    pub fn forget_connection(&self) {
        self.connections.fetch_sub(1, Ordering::AcqRel);
    }

    /// Connections whose end Python has not read yet.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Acquire)
    }

    /// Posts an event in turn.
    pub fn post(&self, event: Event) {
        self.ordinary.push(event);
        self.wake();
    }

    /// Posts an event that goes before all others.
    pub fn post_urgent(&self, event: Event) {
        self.urgent.push(event);
        self.wake();
    }

    fn wake(&self) {
        if !self.signalled.swap(true, Ordering::SeqCst) {
            signal(&self.eventfd);
        }
    }

    /// Up to `limit` events, urgent ones first. Commands that have ended meanwhile are dropped.
    pub fn take(&self, limit: usize) -> Vec<Event> {
        // In this order: a post in between signals again, which at worst is one empty call.
        drain(&self.eventfd);
        self.signalled.store(false, Ordering::SeqCst);
        let mut events = Vec::new();
        while events.len() < limit {
            let Some(event) = self.urgent.pop().or_else(|| self.ordinary.pop()) else { break };
            match &event {
                Event::Lost { .. } => self.forget_connection(),
                // An abort has overtaken it.
                Event::Command(command) if !command.fate.take() => continue,
                _ => {}
            }
            events.push(event);
        }
        if !self.urgent.is_empty() || !self.ordinary.is_empty() {
            self.wake();
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn degraded(volume: u64) -> Event {
        Event::Degraded { volume, reason: String::new(), writes_refused: false }
    }

    fn readable(lanes: &Lanes) -> bool {
        let mut fd = libc::pollfd { fd: lanes.fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut fd, 1, 0) == 1 }
    }

    #[test]
    fn urgent_events_go_first_and_the_descriptor_tells_the_truth() {
        let lanes = Lanes::new(10).unwrap();
        assert!(!readable(&lanes));
        lanes.post(Event::ClientFlags { conn: 1, flags: 3 });
        lanes.post_urgent(degraded(1));
        lanes.post_urgent(degraded(2));
        assert!(readable(&lanes));
        assert_eq!(lanes.take(1), [degraded(1)]);
        assert!(readable(&lanes));
        assert_eq!(lanes.take(9), [degraded(2), Event::ClientFlags { conn: 1, flags: 3 }]);
        assert!(!readable(&lanes));
    }

    #[test]
    fn a_connection_counts_until_its_loss_is_read() {
        let lanes = Lanes::new(1).unwrap();
        assert!(lanes.admit_connection());
        lanes.post_urgent(Event::Lost { conn: 1, reason: String::new() });
        assert!(!lanes.admit_connection());
        lanes.take(5);
        assert!(lanes.admit_connection());
    }
}
