//! The atomics of [`passage`](super::passage), so that a test can put a model checker's in their place
//! (`tests/passage.rs`).

pub use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// As many as there are shards at most; threads that share one are no less right.
pub const LANES: usize = 8;

/// So often it is worth looking again at once: most inline requests are over within microseconds.
const SPINS: u32 = 200;
const NAP: Duration = Duration::from_micros(20);

/// Lets time pass before something is looked at again that was not so `tries` times before.
pub fn pause(tries: u32) {
    match tries < SPINS {
        true => std::hint::spin_loop(),
        false => std::thread::sleep(NAP),
    }
}
