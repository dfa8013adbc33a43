//! Are inline writes quick at the moment?
//!
//! A write into the page cache takes microseconds, until the kernel throttles the writer,
//! waits for the journal, or has to read the rest of a page first. Then the volume's writes go
//! to its workers for a while, and the shard stays free.
//!
//! Time alone does not tell: on a busy machine a thread loses its core for milliseconds in the middle
//! of a write that waits for nothing. What waits gives the core away by itself, and the kernel counts
//! that. The count costs a system call, so it is only kept for a while after a write took long.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::sys;

/// An inline write that takes longer than this was not quick, if it waited.
const SLOW: Duration = Duration::from_millis(2);
/// So long after a write that took long it is counted whether the next one waits.
const WATCH_NS: u64 = 1_000_000_000;
/// So long the workers write after one that waited.
const PENALTY_NS: u64 = 1_000_000_000;

/// See the module's text.
pub struct Quickness {
    since: Instant,
    /// Nanoseconds after `since`; 0: never yet.
    watch_until_ns: AtomicU64,
    slow_until_ns: AtomicU64,
}

impl Quickness {
    /// Presumed quick.
    pub fn new() -> Self {
        Quickness { since: Instant::now(), watch_until_ns: AtomicU64::new(0), slow_until_ns: AtomicU64::new(0) }
    }

    /// Run `write` inline unless writes are slow at the moment; `None`: they are.
    pub fn run<T>(&self, write: impl FnOnce() -> T) -> Option<T> {
        let start = Instant::now();
        let start_ns = self.ns(start);
        if start_ns < self.slow_until_ns.load(Ordering::Relaxed) {
            return None;
        }
        let is_watched = start_ns < self.watch_until_ns.load(Ordering::Relaxed);
        let waits_before = is_watched.then(sys::waits);
        let result = write();
        let end = Instant::now();
        if end - start > SLOW {
            let end_ns = self.ns(end);
            self.watch_until_ns.store(end_ns + WATCH_NS, Ordering::Relaxed);
            if waits_before.is_some_and(|before| sys::waits() != before) {
                self.slow_until_ns.store(end_ns + PENALTY_NS, Ordering::Relaxed);
            }
        }
        Some(result)
    }

    fn ns(&self, at: Instant) -> u64 {
        at.duration_since(self.since).as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    fn wait() {
        sleep(SLOW + Duration::from_millis(1));
    }

    fn burn() {
        let start = Instant::now();
        while start.elapsed() < SLOW * 2 {}
    }

    #[test]
    fn writes_that_wait_send_the_next_ones_to_the_workers_for_a_while() {
        let quick = Quickness::new();
        assert_eq!(quick.run(wait), Some(()), "the first one is a suspicion");
        assert_eq!(quick.run(|| 1), Some(1));
        assert_eq!(quick.run(wait), Some(()), "the second one is a finding");
        assert_eq!(quick.run(|| 1), None);
        quick.slow_until_ns.store(quick.ns(Instant::now()), Ordering::Relaxed);
        assert_eq!(quick.run(|| 1), Some(1), "and then it is tried again");
    }

    #[test]
    fn a_write_that_only_takes_time_is_none_of_them() {
        let quick = Quickness::new();
        for _ in 0..5 {
            assert_eq!(quick.run(burn), Some(()));
        }
    }
}
