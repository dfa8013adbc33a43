//! How other threads reach a shard: completions and control messages, and one wake-up.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use crossbeam_queue::{ArrayQueue, SegQueue};

use super::control::Control;
use super::tasks::TaskHandle;
use crate::block::command::{Flags, Op, Outcome, Request};

/// Something that a task has waited for.
pub struct Done {
    pub task: TaskHandle,
    pub news: News,
}

/// What has become of a task's request.
#[derive(Debug)]
pub enum News {
    /// The request with its buffer, and how it ended.
    Ended(Outcome),
    /// It has the range that it waited for. It passes the gate again, then
    /// [`Volume::resume`](crate::block::volume::Volume::resume); or it is dropped.
    Granted(Request),
}

/// A shard's letter box. Anyone posts; the shard alone reads, and is woken only if it sleeps.
pub struct Mailbox {
    /// Bounded by the shard's task slots: each task has at most one message under way.
    completions: ArrayQueue<Done>,
    control: SegQueue<Control>,
    sleeping: AtomicBool,
    closed: AtomicBool,
    /// Somebody drops what is in a closed one.
    emptying: AtomicBool,
    eventfd: OwnedFd,
}

impl Mailbox {
    /// A mailbox for a shard of at most `tasks` tasks.
    pub fn new(tasks: usize) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            completions: ArrayQueue::new(tasks),
            control: SegQueue::new(),
            sleeping: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            emptying: AtomicBool::new(false),
            eventfd: new_eventfd()?,
        }))
    }

    /// Readable when the shard was asleep and something was posted.
    pub fn fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Posts a control message. With the shard gone it is dropped, and so its sender's answer.
    pub fn post_control(&self, message: Control) {
        self.control.push(message);
        if self.closed.load(Ordering::SeqCst) {
            self.close();
        }
        self.wake();
    }

    /// The shard ends: drops what it has not read, and all that comes. A request that is dropped
    /// counts itself out of its volume.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        // A request that is dropped may let another one go on, which is then posted here: it is dropped by the
        // loop that runs already, not by one inside it, and another.
        while !(self.completions.is_empty() && self.control.is_empty()) {
            if self.emptying.swap(true, Ordering::SeqCst) {
                return;
            }
            while self.control.pop().is_some() {}
            while self.completions.pop().is_some() {}
            self.emptying.store(false, Ordering::SeqCst);
        }
    }

    fn post_done(&self, done: Done) {
        let full = self.completions.push(done).is_err();
        assert!(!full, "a task has one message at a time, and tasks are bounded by this queue's size");
        if self.closed.load(Ordering::SeqCst) {
            self.close();
        }
        self.wake();
    }

    fn wake(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            signal(&self.eventfd);
        }
    }

    /// The next completion, if there is one.
    pub fn next_done(&self) -> Option<Done> {
        self.completions.pop()
    }

    /// The next control message, if there is one.
    pub fn next_control(&self) -> Option<Control> {
        self.control.pop()
    }

    /// Completions that wait to be read.
    pub fn depth(&self) -> usize {
        self.completions.len()
    }

    /// Says that the shard is about to sleep; false if something has come in the meantime.
    pub fn may_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        let empty = self.completions.is_empty() && self.control.is_empty();
        if !empty {
            self.sleeping.store(false, Ordering::SeqCst);
        }
        empty
    }

    /// Says that the shard is awake, whatever woke it.
    pub fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Resets the eventfd after it became readable.
    pub fn clear(&self) {
        drain(&self.eventfd);
    }
}

/// Whom to tell when a request has ended. Posting consumes it: a task completes exactly once.
pub struct Completion {
    mailbox: Option<Arc<Mailbox>>,
    task: TaskHandle,
}

impl Completion {
    /// The completion of one task.
    pub fn new(mailbox: Arc<Mailbox>, task: TaskHandle) -> Self {
        Self { mailbox: Some(mailbox), task }
    }

    /// Hands the request back to its shard. From any thread, also before `submit` returns.
    pub fn post(mut self, outcome: Outcome) {
        if let Some(mailbox) = self.mailbox.take() {
            mailbox.post_done(Done { task: self.task, news: News::Ended(outcome) });
        }
    }

    /// Hands a request back that has got the range that it waited for. The shard makes it another completion.
    pub fn grant(mut self, request: Request) {
        if let Some(mailbox) = self.mailbox.take() {
            mailbox.post_done(Done { task: self.task, news: News::Granted(request) });
        }
    }

    /// There will be nothing to tell: the shard has taken the request back.
    pub fn forget(mut self) {
        self.mailbox = None;
    }
}

impl Drop for Completion {
    /// A back end that forgets a request still ends it: with EIO, its buffer gone.
    fn drop(&mut self) {
        if let Some(mailbox) = self.mailbox.take() {
            let outcome = Outcome { request: Request::new(Op::Flush, Flags::default(), 0, 0), result: Err(libc::EIO) };
            mailbox.post_done(Done { task: self.task, news: News::Ended(outcome) });
        }
    }
}

/// A non-blocking eventfd.
pub fn new_eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked.
    let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes an eventfd readable.
pub fn signal(eventfd: &OwnedFd) {
    let one = 1u64;
    // SAFETY: eight readable bytes. EAGAIN (counter full) leaves it readable, as wanted.
    unsafe { libc::write(eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
}

/// Makes an eventfd not readable again.
pub fn drain(eventfd: &OwnedFd) {
    let mut count = 0u64;
    // SAFETY: eight writable bytes; the descriptor does not block.
    unsafe { libc::read(eventfd.as_raw_fd(), (&raw mut count).cast(), 8) };
}
