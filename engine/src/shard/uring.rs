//! The path with a ring: it waits for descriptors (multishot poll) and carries file I/O.
//!
//! Socket bytes go by plain recv and sendmsg: for what is at hand a ring costs more than it saves.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{cqueue, opcode, squeue, IoUring, Probe};

use super::mailbox::{new_eventfd, signal};
use super::poller::{FileIo, Poller, Ready, Source};
use super::tasks::TaskHandle;

const ENTRIES: u32 = 256;
const COMPLETIONS: u32 = 4096;

/// See the module's text.
pub struct Uring {
    ring: IoUring,
    /// What is being watched, to be armed again when the kernel ends a multishot poll.
    watched: HashMap<u64, (RawFd, u32)>,
    /// Taken off the ring while room was made in it, and not handed out yet.
    backlog: Vec<Ready>,
    /// Multishot polls that the kernel has ended.
    ended: Vec<u64>,
}

impl Uring {
    /// A ring, if this kernel and container give one that can do what is needed.
    pub fn new() -> io::Result<Self> {
        let ring = Self::ring()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::PollAdd::CODE, opcode::PollRemove::CODE];
        let complete = needed.iter().all(|code| probe.is_supported(*code));
        if !complete || !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut ring = Self { ring, watched: HashMap::new(), backlog: Vec::new(), ended: Vec::new() };
        ring.prove_multishot()?;
        Ok(ring)
    }

    fn ring() -> io::Result<IoUring> {
        IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(ENTRIES)
            // Linux before 6.1.
            .or_else(|_| IoUring::builder().setup_cqsize(COMPLETIONS).build(ENTRIES))
    }

    /// No probe tells of multishot polls: arm one and see.
    fn prove_multishot(&mut self) -> io::Result<()> {
        let eventfd = new_eventfd()?;
        signal(&eventfd);
        self.add(eventfd.as_raw_fd(), Source::Mailbox, false)?;
        let mut out = Vec::new();
        self.wait(Some(1000), &mut out)?;
        let told = !out.is_empty() && self.watched.contains_key(&Source::Mailbox.token());
        self.remove(eventfd.as_raw_fd(), Source::Mailbox);
        self.wait(Some(0), &mut out)?;
        if told {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(libc::EINVAL))
        }
    }

    /// Queues an entry; makes room by submitting when the queue is full.
    ///
    /// # Safety
    /// Whatever the entry points to must outlive the operation.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: as this function's caller has promised.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // Full of completions: taking them off is what makes room.
            self.reap();
            passing(self.ring.submit())?;
        }
        Ok(())
    }

    fn arm(&mut self, token: u64, fd: RawFd, mask: u32) -> io::Result<()> {
        let entry = opcode::PollAdd::new(Fd(fd), mask).multi(true).build().user_data(token);
        // SAFETY: a poll points to nothing.
        unsafe { self.push(&entry) }
    }

    fn enter(&mut self, timeout_ms: Option<u64>) -> io::Result<()> {
        let (pending, work) = {
            let queue = self.ring.submission();
            (!queue.is_empty(), queue.taskrun() || queue.cq_overflow())
        };
        if !self.ring.completion().is_empty() {
            // Something is here already: only hand over what is queued.
            return if pending { passing(self.ring.submit()) } else { Ok(()) };
        }
        match timeout_ms {
            Some(0) if !pending && !work => Ok(()),
            // Deferred completions are delivered only to one who asks for them.
            Some(0) => self.wait_for(0, None),
            Some(ms) => self.wait_for(1, Some(Timespec::from(Duration::from_millis(ms)))),
            None => self.wait_for(1, None),
        }
    }

    fn wait_for(&mut self, count: usize, timeout: Option<Timespec>) -> io::Result<()> {
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        if count == 0 {
            const GETEVENTS: u32 = 1;
            let queued = self.ring.submission().len() as u32;
            // SAFETY: no argument is passed; the kernel reads the queue that the ring owns.
            return passing(unsafe { self.ring.submitter().enter::<libc::sigset_t>(queued, 0, GETEVENTS, None) });
        }
        passing(self.ring.submitter().submit_with_args(count, &args))
    }

    /// Takes what has completed off the ring.
    fn reap(&mut self) {
        let Self { ring, backlog: out, ended, .. } = self;
        for completion in ring.completion() {
            let Some(source) = Source::of_token(completion.user_data()) else { continue };
            let result = completion.result();
            if let Source::File(task) = source {
                out.push(Ready::File { task, result });
                continue;
            }
            if result < 0 {
                // Cancelled by `remove`, or failed: then whoever reads the descriptor finds out why.
                if result != -libc::ECANCELED {
                    out.push(Ready::Fd { source, readable: true, writable: true });
                    ended.push(completion.user_data());
                }
                continue;
            }
            if !cqueue::more(completion.flags()) {
                ended.push(completion.user_data());
            }
            let gone = result & i32::from(libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0;
            out.push(Ready::Fd {
                source,
                readable: gone || result & (i32::from(libc::POLLIN) | libc::EPOLLRDHUP) != 0,
                writable: gone || result & i32::from(libc::POLLOUT) != 0,
            });
        }
    }
}

/// Conditions that pass: a signal, the time being over, completions to be taken off first.
fn passing(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Err(error) => match error.raw_os_error() {
            Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        },
        Ok(_) => Ok(()),
    }
}

impl Poller for Uring {
    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn add(&mut self, fd: RawFd, source: Source, write: bool) -> io::Result<()> {
        let mut mask = libc::POLLIN as u32 | libc::EPOLLRDHUP as u32;
        if write {
            mask |= libc::POLLOUT as u32;
        }
        self.arm(source.token(), fd, mask)?;
        self.watched.insert(source.token(), (fd, mask));
        Ok(())
    }

    fn remove(&mut self, _fd: RawFd, source: Source) {
        if self.watched.remove(&source.token()).is_none() {
            return;
        }
        // The poll holds the file open until it is gone.
        let entry = opcode::PollRemove::new(source.token()).build().user_data(0);
        // SAFETY: points to nothing.
        let _ = unsafe { self.push(&entry) };
        let _ = self.ring.submit();
    }

    fn has_ring(&self) -> bool {
        true
    }

    unsafe fn submit_file(&mut self, task: TaskHandle, io: FileIo) -> io::Result<()> {
        let token = Source::File(task).token();
        let entry = if io.write {
            opcode::Write::new(Fd(io.fd), io.start, io.len).offset(io.offset).build()
        } else {
            opcode::Read::new(Fd(io.fd), io.start, io.len).offset(io.offset).build()
        };
        // SAFETY: the caller keeps the buffer until the completion.
        unsafe { self.push(&entry.user_data(token)) }
    }

    fn wait(&mut self, timeout_ms: Option<u64>, out: &mut Vec<Ready>) -> io::Result<()> {
        let timeout_ms = if self.backlog.is_empty() { timeout_ms } else { Some(0) };
        self.enter(timeout_ms)?;
        self.reap();
        out.append(&mut self.backlog);
        while let Some(token) = self.ended.pop() {
            // A multishot poll that the kernel ended (its completion queue overflowed, say).
            if let Some((fd, mask)) = self.watched.get(&token).copied() {
                if let Err(error) = self.arm(token, fd, mask) {
                    // The wait that is tried again does it.
                    self.ended.push(token);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
