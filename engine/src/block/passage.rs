//! How requests that end inline, on a shard's own thread, keep out of the way of those in the range table.
//!
//! Inline I/O takes no lock: it would cost more than what it stands beside. It goes through one of a few
//! lanes instead, each on cache lines of its own, and looks whether there is anything in the table that it
//! must not meet; if there is, it leaves and takes its place in the table like the rest.
//!
//! ```text
//! inline                            exclusive, in the table
//!   lane += 1                         exclusives += 1
//!   exclusives != 0? leave, queue     wait until each lane has been seen at 0
//!   read or write                     read, compare, write
//!   lane -= 1                         exclusives -= 1
//! ```
//!
//! All of these are sequentially consistent, so that either the one sees the other or the other the one
//! (Dekker's argument). The exclusive one may wait, for it runs on a worker's thread; an inline request never
//! waits. Writes in the table are seen in the same way, but do not wait for inline ones: an inline write
//! that is under way ends before it is answered, so nothing that came after an answer can meet it. A write
//! in the table, on the other hand, may have been given up by its sender and still be under way; a
//! later one must not pass it.

use super::sync::{pause, AtomicUsize, Ordering::SeqCst, LANES};

/// Two cache lines: processors fetch them in pairs.
#[repr(align(128))]
#[derive(Default)]
struct Lane(AtomicUsize);

/// See the module's text.
#[derive(Default)]
pub struct Passage {
    lanes: [Lane; LANES],
    /// Ranges in the table that nobody else may meet.
    exclusives: AtomicUsize,
    /// Those, and the ranges that are written.
    writes: AtomicUsize,
}

/// An inline request on its way; its drop is its end.
pub struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Passage {
    /// Nobody is there.
    pub fn new() -> Self {
        Self::default()
    }

    /// May a read, or a write, be done inline? It is over when what this returns is dropped. `thread`: any number
    /// that belongs to the thread.
    pub fn enter(&self, thread: usize, write: bool) -> Option<Inside<'_>> {
        let lane = &self.lanes[thread % LANES].0;
        lane.fetch_add(1, SeqCst);
        let inside = Inside(lane);
        let in_the_way = if write { &self.writes } else { &self.exclusives };
        (in_the_way.load(SeqCst) == 0).then_some(inside)
    }

    /// A range has been entered in the table that is written to, alone (`exclusive`) or not.
    pub fn close(&self, exclusive: bool) {
        self.writes.fetch_add(1, SeqCst);
        if exclusive {
            self.exclusives.fetch_add(1, SeqCst);
        }
    }

    /// It is over.
    pub fn open(&self, exclusive: bool) {
        self.writes.fetch_sub(1, SeqCst);
        if exclusive {
            self.exclusives.fetch_sub(1, SeqCst);
        }
    }

    /// Waits for the inline requests that were under way when the caller's exclusive range was entered in the
    /// table. Blocks, as long as one of those takes; not for shards.
    pub fn wait(&self) {
        for lane in &self.lanes {
            let mut tries = 0;
            while lane.0.load(SeqCst) != 0 {
                pause(tries);
                tries += 1;
            }
        }
    }
}
