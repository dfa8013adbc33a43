//! Syncs that run, of whatever descriptor: numbered, so that one can wait for what they find.
//!
//! A sync that fails may have dropped what others wrote, and nobody but its caller need be told. The kernel keeps
//! for each descriptor what could not be written back out of the page cache; but a device's cache that could
//! not be flushed, and what a server behind FUSE or a network has lost, are told to the one whose sync it was: the
//! next sync finds nothing left to do, and says that all is well.
//!
//! So who promises that something is stable (FLUSH, a write with FUA or to a write-through volume, WRITE AND
//! VERIFY, a READ with FUA) does three things, in this order:
//!
//! 1. a sync of its own, begun after the data was written;
//! 2. [`Underway::wait`]: all syncs that had begun before that one had ended, have ended;
//! 3. a look at the volume's health.
//!
//! No failure can go unseen. Whatever dropped the data did so before the own sync had ended (after that it is on
//! the medium), and so had begun by then, and had its number, for that is given before the system call. It has
//! either ended, or is waited for; and none ends before its failure is in the volume's health.
//!
//! The price: who promises waits for the slowest of those that ran beside it, and they come to run in step. What is
//! not promised to be stable comes here not at all.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
struct State {
    /// Syncs that have begun, ever; they are numbered from 1.
    begun: u64,
    /// Those that have not ended, the oldest first: at most one for each of the volume's threads, and a few more.
    running: Vec<u64>,
    /// Who waits.
    waiting: usize,
}

/// See the module's text.
#[derive(Default)]
pub struct Underway {
    state: Mutex<State>,
    /// The oldest sync has.
    has_ended: Condvar,
}

impl Underway {
    /// Run a sync, or a write that is one as well. `sync` must have noted a failure by the time it returns.
    pub fn run<T>(&self, sync: impl FnOnce() -> T) -> T {
        let _until_it_has_ended = self.begin();
        sync()
    }

    fn begin(&self) -> Running<'_> {
        let mut state = self.lock();
        state.begun += 1;
        let number = state.begun;
        state.running.push(number);
        Running { underway: self, number }
    }

    /// Until all that have begun so far have ended; not those that begin meanwhile. Blocks, and must not be called out
    /// of a sync.
    pub fn wait(&self) {
        let mut state = self.lock();
        let begun = state.begun;
        while state.running.first().is_some_and(|oldest| *oldest <= begun) {
            state.waiting += 1;
            state = self.has_ended.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }

    /// How many have begun, ever.
    #[cfg(test)]
    pub fn begun(&self) -> u64 {
        self.lock().begun
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sync that has begun; dropping it ends it.
struct Running<'a> {
    underway: &'a Underway,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut state = self.underway.lock();
        let Ok(at) = state.running.binary_search(&self.number) else { return };
        state.running.remove(at);
        // Who waits, waits for the oldest first.
        if at == 0 && state.waiting > 0 {
            self.underway.has_ended.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn what_has_begun_is_waited_for_and_no_more() {
        let underway = Underway::default();
        underway.wait();
        let (first, second) = (underway.begin(), underway.begin());
        thread::scope(|scope| {
            let waits = scope.spawn(|| underway.wait());
            while underway.waiting() == 0 {
                thread::yield_now();
            }
            let third = underway.begin();
            drop(second);
            assert!(!waits.is_finished(), "the first runs");
            drop(first);
            waits.join().unwrap();
            assert_eq!(underway.lock().running, [3], "while the third still runs");
            drop(third);
        });
        underway.wait();
    }
}
