//! FLUSH, and whatever else needs all that was acknowledged to be stable: one fdatasync for all that wait for one.

use std::mem;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fault::Fault;
use super::{sys, File};
use crate::backstores::Completion;
use crate::block::command::{Errno, Outcome, Request};

type Waiting = Vec<(Request, Completion)>;

#[derive(Default)]
struct State {
    waiting: Waiting,
    /// A worker answers those that wait, or is about to.
    running: bool,
    /// Syncs that have begun, ever.
    begun: u64,
}

/// FLUSHes that came while one was running; the next one serves them all. A FLUSH covers what
/// was acknowledged before it came, so it must not share an fdatasync that had begun by then.
#[derive(Default)]
pub struct Flushes {
    state: Mutex<State>,
    /// Held by the sync that runs.
    turn: Mutex<()>,
}

impl Flushes {
    /// Queue one; `true`: a worker must be sent.
    pub fn join(&self, req: Request, done: Completion) -> bool {
        let mut state = self.lock();
        state.waiting.push((req, done));
        !mem::replace(&mut state.running, true)
    }

    /// Those to be served by the next fdatasync; empty: the worker is done.
    fn next(&self) -> Waiting {
        let mut state = self.lock();
        state.running = !state.waiting.is_empty();
        mem::take(&mut state.waiting)
    }

    /// Run `sync`, unless one that began after this call has been run meanwhile. One runs at a time, and what it
    /// found has been noted before the next begins. Blocks.
    fn cover(&self, sync: impl FnOnce()) {
        let come = self.lock().begun;
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let is_covered = {
            let mut state = self.lock();
            let is_covered = state.begun > come;
            state.begun += u64::from(!is_covered);
            is_covered
        };
        if !is_covered {
            sync();
        }
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

fn answer(waiting: Waiting, result: Result<(), Errno>) {
    for (request, done) in waiting {
        done.post(Outcome { request, result });
    }
}

impl File {
    /// Serve the FLUSHes that wait until there are none. Blocks.
    pub fn run_flushes(&self) {
        loop {
            let batch = self.flushes.next();
            let Some((first, _)) = batch.first() else { return };
            let result = self.check_allowed(first).and_then(|()| self.flush());
            answer(batch, result.map_err(|fault| fault.settle("flush", &self.health)));
        }
    }

    /// Everything that was acknowledged before is stable when this returns. Blocks.
    ///
    /// Whoever needs that comes here, on whatever thread: nothing else syncs the volume's own descriptor, which
    /// is told once of what could not be written back. A failure is in the volume's health before another sync
    /// begins, and everybody looks there afterwards, whoever's sync it was.
    pub fn flush(&self) -> Result<(), Fault> {
        if self.read_only {
            return Ok(());
        }
        self.flushes.cover(|| self.sync_own());
        if self.health.writes_refused() {
            return Err(Fault::Refused(libc::EIO));
        }
        self.check_present()
    }

    fn sync_own(&self) {
        if self.health.writes_refused() {
            return;
        }
        if let Err(error) = sys::sync(self.fd.as_raw_fd()) {
            Fault::Sync(error.raw_os_error().unwrap_or(libc::EIO)).settle("flush", &self.health);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn a_sync_covers_who_came_before_it_began_and_nobody_else() {
        const LATER: usize = 8;
        let flushes = Flushes::default();
        let (running, syncs) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let sync = || {
            assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0, "one at a time");
            thread::yield_now();
            syncs.fetch_add(1, Ordering::SeqCst);
            running.fetch_sub(1, Ordering::SeqCst);
        };
        let (begun, has_begun) = channel();
        let (end, may_end) = channel::<()>();
        thread::scope(|scope| {
            let (flushes, syncs) = (&flushes, &syncs);
            scope.spawn(move || {
                flushes.cover(|| {
                    begun.send(()).unwrap();
                    may_end.recv().unwrap();
                    sync();
                });
            });
            has_begun.recv().unwrap();
            for _ in 0..LATER {
                scope.spawn(move || {
                    flushes.cover(sync);
                    assert!(syncs.load(Ordering::SeqCst) >= 2, "the first had begun before this came");
                });
            }
            end.send(()).unwrap();
        });
        let syncs = syncs.into_inner();
        assert!((2..=1 + LATER).contains(&syncs), "{syncs}");
        flushes.cover(|| ());
        assert_eq!(flushes.lock().begun as usize, syncs + 1, "what came after all of them syncs itself");
    }
}
