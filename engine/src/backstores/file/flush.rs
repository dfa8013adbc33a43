//! FLUSH: one fdatasync for all that wait for one.

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
}

/// FLUSHes that came while one was running; the next one serves them all. A FLUSH covers what
/// was acknowledged before it came, so it must not share an fdatasync that had begun by then.
#[derive(Default)]
pub struct Flushes {
    state: Mutex<State>,
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
    pub fn flush(&self) -> Result<(), Fault> {
        if self.read_only {
            return Ok(());
        }
        if self.health.writes_refused() {
            return Err(Fault::Refused(libc::EIO));
        }
        sys::sync(self.fd.as_raw_fd()).map_err(|e| Fault::Sync(e.raw_os_error().unwrap_or(libc::EIO)))?;
        self.check_present()
    }
}
