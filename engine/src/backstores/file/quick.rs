//! Are inline writes quick at the moment?
//!
//! A write into the page cache takes microseconds, until the kernel throttles the writer,
//! waits for the journal, or has to read the rest of a page first. One that took long is a sign
//! of more: for a while the volume's writes then go to its workers, and the shard stays free.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// An inline write that takes longer than this was not quick.
const SLOW: Duration = Duration::from_millis(2);
/// So long the workers then write.
const PENALTY_NS: u64 = 1_000_000_000;

/// See the module's text.
pub struct Quickness {
    since: Instant,
    /// Nanoseconds after `since` until which writes are slow; 0: they have never been.
    slow_until_ns: AtomicU64,
}

impl Quickness {
    /// Presumed quick.
    pub fn new() -> Self {
        Quickness { since: Instant::now(), slow_until_ns: AtomicU64::new(0) }
    }

    /// Run `write` inline unless that is slow at the moment; `None`: it is.
    pub fn run<T>(&self, write: impl FnOnce() -> T) -> Option<T> {
        let start = Instant::now();
        let slow_until_ns = self.slow_until_ns.load(Ordering::Relaxed);
        if slow_until_ns > 0 && self.ns(start) < slow_until_ns {
            return None;
        }
        let result = write();
        let end = Instant::now();
        if end - start > SLOW {
            self.slow_until_ns.store(self.ns(end) + PENALTY_NS, Ordering::Relaxed);
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

    #[test]
    fn one_slow_write_sends_the_next_ones_to_the_workers_for_a_while() {
        let quick = Quickness::new();
        assert_eq!(quick.run(|| 1), Some(1));
        assert_eq!(quick.run(|| sleep(SLOW + Duration::from_millis(1))), Some(()));
        assert_eq!(quick.run(|| 1), None);
        quick.slow_until_ns.store(quick.ns(Instant::now()), Ordering::Relaxed);
        assert_eq!(quick.run(|| 1), Some(1), "and then it is tried again");
    }
}
