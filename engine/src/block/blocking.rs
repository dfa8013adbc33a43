//! One request at a time, for threads that may wait: what a shard does with messages, done by waiting for them.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::command::{Errno, Op, Outcome, Request};
use super::ranges::Place;
use super::volume::{Step, Volume};
use crate::shard::context::boottime_ns;
use crate::shard::lease::Lease;
use crate::shard::mailbox::{Completion, Mailbox, News};
use crate::shard::tasks::TaskHandle;

/// How often a thread that waits for a range looks whether it is still wanted, milliseconds.
const LOOK_MS: i32 = 50;

/// See the module's text. Of one thread.
pub struct Caller {
    mailbox: Arc<Mailbox>,
    lease: Arc<Lease>,
}

impl Caller {
    /// With a mailbox for one message.
    pub fn new(lease: Arc<Lease>) -> std::io::Result<Self> {
        Ok(Caller { mailbox: Mailbox::new(1)?, lease })
    }

    /// Carries a request out; it comes back when it has succeeded, its range given up. `cancelled`: a request that
    /// still waits for its range is not begun (`ECANCELED`). The fate of one that was begun is waited for, unless it
    /// only reads: nothing comes of a read that ends later, and its storage may hang while others wait for this end.
    /// (The caller is of no more use then: what comes late would come to its next request.)
    /// `ESHUTDOWN`: the lease has lapsed.
    pub fn run(&self, volume: &Arc<Volume>, request: Request, cancelled: &AtomicBool) -> Result<Request, Errno> {
        if self.is_fenced() {
            return Err(libc::ESHUTDOWN);
        }
        let only_reads = request.op == Op::Read;
        let mut step = volume.start(request, false, || self.completion());
        loop {
            let at = match step {
                Step::Done(request, result) => return ended(request, result),
                Step::Ring(..) => unreachable!("there is no ring here"),
                Step::Pending => At::BackEnd { only_reads },
                Step::Waiting(place) => At::Range(place),
            };
            match self.wait(volume, &at, cancelled)? {
                News::Ended(Outcome { request, result }) => return ended(request, result),
                News::Granted(_) if self.is_fenced() => return Err(libc::ESHUTDOWN),
                News::Granted(request) => step = volume.resume(request, false, || self.completion()),
            }
        }
    }

    fn is_fenced(&self) -> bool {
        self.lease.has_lapsed(boottime_ns())
    }

    fn completion(&self) -> Completion {
        Completion::new(self.mailbox.clone(), TaskHandle(0))
    }

    /// `ECANCELED`: it was withdrawn, or is not waited for.
    fn wait(&self, volume: &Volume, at: &At, cancelled: &AtomicBool) -> Result<News, Errno> {
        loop {
            if let Some(done) = self.mailbox.next_done() {
                self.mailbox.awake();
                return Ok(done.news);
            }
            if cancelled.load(Ordering::Relaxed) {
                let over = match at {
                    // Else it is too late to withdraw: its turn is on its way here.
                    At::Range(place) => volume.withdraw(*place).is_some(),
                    At::BackEnd { only_reads } => *only_reads,
                };
                if over {
                    return Err(libc::ECANCELED);
                }
            }
            if self.mailbox.may_sleep() {
                sleep(self.mailbox.fd());
                self.mailbox.clear();
            }
        }
    }
}

/// Where a request is that has not ended.
enum At {
    /// Waits for its range.
    Range(Place),
    BackEnd {
        only_reads: bool,
    },
}

fn ended(mut request: Request, result: Result<(), Errno>) -> Result<Request, Errno> {
    request.permit = None;
    result.map(|()| request)
}

fn sleep(fd: RawFd) {
    let mut fd = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd. Whatever wakes it, the caller looks again.
    unsafe { libc::poll(&raw mut fd, 1, LOOK_MS) };
}
