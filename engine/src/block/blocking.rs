//! One request at a time, for threads that may wait: what a shard does with messages, done by waiting for them.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::command::{Errno, Outcome, Request};
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

    /// Carries a request out; it comes back with its result, its range given up. `cancelled`: a request that still
    /// waits for its range is not begun (`ECANCELED`); the fate of one that was begun is waited for.
    /// `ESHUTDOWN`: the lease has lapsed.
    pub fn run(&self, volume: &Arc<Volume>, request: Request, cancelled: &AtomicBool) -> (Request, Result<(), Errno>) {
        if self.is_fenced() {
            return ended(request, Err(libc::ESHUTDOWN));
        }
        let mut step = volume.start(request, false, || self.completion());
        loop {
            let place = match step {
                Step::Done(request, result) => return ended(request, result),
                Step::Ring(..) => unreachable!("there is no ring here"),
                Step::Pending => None,
                Step::Waiting(place) => Some(place),
            };
            match self.wait(volume, place, cancelled) {
                Ok(News::Ended(Outcome { request, result })) => return ended(request, result),
                Ok(News::Granted(request)) if self.is_fenced() => return ended(request, Err(libc::ESHUTDOWN)),
                Ok(News::Granted(request)) => step = volume.resume(request, false, || self.completion()),
                Err(request) => return ended(*request, Err(libc::ECANCELED)),
            }
        }
    }

    fn is_fenced(&self) -> bool {
        self.lease.has_lapsed(boottime_ns())
    }

    fn completion(&self) -> Completion {
        Completion::new(self.mailbox.clone(), TaskHandle(0))
    }

    /// `Err`: it was withdrawn.
    fn wait(&self, volume: &Volume, place: Option<Place>, cancelled: &AtomicBool) -> Result<News, Box<Request>> {
        loop {
            if let Some(done) = self.mailbox.next_done() {
                self.mailbox.awake();
                return Ok(done.news);
            }
            if let (Some(place), true) = (place, cancelled.load(Ordering::Relaxed)) {
                // Too late to withdraw: its turn is on its way here.
                if let Some(request) = volume.withdraw(place) {
                    return Err(Box::new(request));
                }
            }
            if self.mailbox.may_sleep() {
                sleep(self.mailbox.fd());
                self.mailbox.clear();
            }
        }
    }
}

fn ended(mut request: Request, result: Result<(), Errno>) -> (Request, Result<(), Errno>) {
    request.permit = None;
    (request, result)
}

fn sleep(fd: RawFd) {
    let mut fd = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd. Whatever wakes it, the caller looks again.
    unsafe { libc::poll(&raw mut fd, 1, LOOK_MS) };
}
