//! FLUSH, and whatever else needs all that was acknowledged to be stable: one fdatasync for all that wait for one.

use std::mem;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::fault::Fault;
use super::{sys, File};
use crate::backstores::Completion;
use crate::block::command::{Errno, Flags, Op, Outcome, Request};

/// A FLUSH that waits for the sync of this number.
struct Waiting {
    sync: u64,
    request: Request,
    done: Completion,
}

#[derive(Default)]
struct State {
    /// In the order in which they came, and so of their syncs.
    waiting: Vec<Waiting>,
    /// A worker answers those that wait, or is about to.
    running: bool,
    /// Syncs that have begun, ever; they are numbered from 1.
    begun: u64,
    /// Those that have ended: all, or all but one.
    ended: u64,
}

/// Syncs, one at a time, each for all that came before it began. Who comes while one runs may have written what that
/// one does not cover: it waits for the next, together with all others that have come by then, and for no other.
#[derive(Default)]
pub struct Flushes {
    state: Mutex<State>,
    /// A sync has.
    has_ended: Condvar,
}

impl Flushes {
    /// Queue one; `true`: a worker must be sent.
    pub fn join(&self, request: Request, done: Completion) -> bool {
        let mut state = self.lock();
        let sync = state.begun + 1;
        state.waiting.push(Waiting { sync, request, done });
        !mem::replace(&mut state.running, true)
    }

    /// The sync that the oldest of them waits for; `None`: there are none, and the worker is done.
    fn next(&self) -> Option<u64> {
        let mut state = self.lock();
        let next = state.waiting.first().map(|oldest| oldest.sync);
        state.running = next.is_some();
        next
    }

    /// Takes those that wait for a sync up to this one.
    fn take(&self, sync: u64) -> Vec<Waiting> {
        let mut state = self.lock();
        let count = state.waiting.partition_point(|one| one.sync <= sync);
        state.waiting.drain(..count).collect()
    }

    /// The sync that covers who comes now: the next that begins.
    fn wanted(&self) -> u64 {
        self.lock().begun + 1
    }

    /// Until the sync of this number, which somebody wants, has ended: runs it as `sync` if nobody else does. Gives the
    /// last that has ended. What one has found has been noted before it counts as ended. Blocks.
    fn reach(&self, wanted: u64, sync: impl FnOnce()) -> u64 {
        let mut state = self.lock();
        while state.ended < wanted && state.ended < state.begun {
            state = self.has_ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended < wanted {
            state.begun += 1;
            debug_assert_eq!(state.begun, wanted, "no sync is wanted before the one before it has begun");
            drop(state);
            sync();
            state = self.lock();
            state.ended += 1;
            self.has_ended.notify_all();
        }
        state.ended
    }

    /// No worker could be sent: answer all that wait with `errno`.
    pub fn refuse(&self, errno: Errno) {
        let refused = {
            let mut state = self.lock();
            state.running = false;
            mem::take(&mut state.waiting)
        };
        answer(refused, Err(errno));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn answer(waiting: Vec<Waiting>, result: Result<(), Errno>) {
    for Waiting { request, done, .. } in waiting {
        done.post(Outcome { request, result });
    }
}

impl File {
    /// Serve the FLUSHes that wait until there are none. Blocks.
    pub fn run_flushes(&self) {
        let flush = Request::new(Op::Flush, Flags::default(), 0, 0);
        while let Some(wanted) = self.flushes.next() {
            let mut reached = wanted;
            let result = self.check_allowed(&flush).and_then(|()| {
                reached = self.reach(wanted);
                self.check_stable()
            });
            // Not those of a sync that has ended since: what it has found was not looked at.
            answer(self.flushes.take(reached), result.map_err(|fault| fault.settle("flush", &self.health)));
        }
    }

    /// Everything that was acknowledged before is stable when this returns. Blocks.
    ///
    /// Whoever needs that comes here, on whatever thread: nothing else syncs the volume's own descriptor, which
    /// is told once of what could not be written back. Whoever's sync it was that failed, see `underway.rs`:
    /// everybody looks at the volume's health afterwards.
    pub fn flush(&self) -> Result<(), Fault> {
        self.reach(self.flushes.wanted());
        self.check_stable()
    }

    /// See [`Flushes::reach`].
    fn reach(&self, wanted: u64) -> u64 {
        match self.read_only {
            true => wanted,
            false => self.flushes.reach(wanted, || self.sync_own()),
        }
    }

    /// What a request has written and synced itself: is it stable, whatever others' syncs have come to? Blocks.
    pub fn check_written(&self) -> Result<(), Fault> {
        self.underway.wait();
        self.check_stable()
    }

    /// Has no sync failed, so far, and is the file what it was?
    fn check_stable(&self) -> Result<(), Fault> {
        if self.read_only {
            return Ok(());
        }
        if self.health.writes_refused() {
            return Err(Fault::Refused(libc::EIO));
        }
        self.check_present()
    }

    fn sync_own(&self) {
        if self.health.writes_refused() {
            return;
        }
        let _noted = self.sync(self.fd.as_raw_fd(), "flush");
        // Once for all that share it.
        self.underway.wait();
    }

    /// fdatasync(2) of one of the volume's descriptors, in whose name whatever it has lost is noted.
    pub fn sync(&self, fd: RawFd, during: &str) -> Result<(), Fault> {
        self.sync_by(during, || sys::sync(fd).map_err(|e| Fault::Sync(e.raw_os_error().unwrap_or(libc::EIO))))
    }

    /// The same by a call that syncs beside other things. There is no sync of the volume that does not come here.
    pub fn sync_by(&self, during: &str, call: impl FnOnce() -> Result<(), Fault>) -> Result<(), Fault> {
        self.underway.run(|| {
            call().inspect_err(|fault| {
                if matches!(fault, Fault::Sync(_)) {
                    fault.note(during, &self.health);
                }
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::mailbox::Mailbox;
    use crate::shard::tasks::TaskHandle;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Barrier;
    use std::thread;

    #[test]
    fn all_that_come_while_a_sync_runs_share_the_next() {
        let flushes = Flushes::default();
        let (running, syncs) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let sync = || {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            thread::yield_now();
            syncs.fetch_add(1, Ordering::SeqCst);
            running.fetch_sub(1, Ordering::SeqCst);
        };
        let (begun, end) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                flushes.reach(flushes.wanted(), || {
                    begun.wait();
                    end.wait();
                    sync();
                })
            });
            begun.wait();
            let flushes = &flushes;
            for wanted in [(); 8].map(|()| flushes.wanted()) {
                scope.spawn(move || assert_eq!(flushes.reach(wanted, sync), 2));
            }
            end.wait();
        });
        assert_eq!(syncs.load(Ordering::SeqCst), 2);
        assert_eq!(flushes.reach(flushes.wanted(), || ()), 3, "what came after all of them syncs itself");
    }

    #[test]
    fn who_is_covered_does_not_wait_for_the_sync_after_that() {
        let flushes = Flushes::default();
        let wanted = flushes.wanted();
        flushes.reach(flushes.wanted(), || ());
        let (begun, end) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                flushes.reach(flushes.wanted(), || {
                    begun.wait();
                    end.wait();
                })
            });
            begun.wait();
            assert_eq!(flushes.reach(wanted, || panic!("it is covered")), 1);
            end.wait();
        });
    }

    #[test]
    fn flushes_are_served_by_whichever_sync_covers_them() {
        let flushes = Flushes::default();
        let mailbox = Mailbox::new(8).unwrap();
        let join = || {
            let flush = Request::new(Op::Flush, Flags::default(), 0, 0);
            flushes.join(flush, Completion::new(mailbox.clone(), TaskHandle(0)))
        };
        assert_eq!((join(), join()), (true, false), "one worker serves both");
        // A READ with FUA, say; the third comes while it syncs.
        flushes.reach(flushes.wanted(), || assert!(!join()));
        assert_eq!(flushes.next(), Some(1));
        assert_eq!(flushes.reach(1, || panic!("they are covered")), 1);
        assert_eq!(flushes.take(1).len(), 2);
        assert_eq!(flushes.next(), Some(2));
        assert_eq!(flushes.reach(2, || assert!(!join())), 2);
        assert_eq!((flushes.take(2).len(), flushes.next()), (1, Some(3)));
        assert_eq!((flushes.reach(3, || ()), flushes.take(3).len()), (3, 1));
        assert_eq!(flushes.next(), None);
        assert!(join(), "and then another worker is sent");
    }
}
