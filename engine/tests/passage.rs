//! Inline requests and exclusive ones under a scheduler that tries their interleavings. All of the protocol's
//! operations are sequentially consistent, so interleavings are all that there is.

#[path = "../src/block/passage.rs"]
#[allow(dead_code)]
mod passage;

/// Shuttle's in the place of `block/sync.rs`.
mod sync {
    use shuttle::sync::{Condvar, Mutex};

    pub use shuttle::sync::atomic::{AtomicUsize, Ordering};

    /// Few, so that there is less to try.
    pub const LANES: usize = 2;

    shuttle::lazy_static! {
        /// How often a lane was left, and how many of those have been seen by who waits.
        static ref LEFT: (Mutex<(u32, u32)>, Condvar) = (Mutex::new((0, 0)), Condvar::new());
    }

    /// Until somebody has left a lane since the last look: spinning would have no end of interleavings.
    pub fn pause(_: u32) {
        let (counts, changed) = &*LEFT;
        let mut counts = counts.lock().unwrap();
        while counts.0 == counts.1 {
            counts = changed.wait(counts).unwrap();
        }
        counts.1 = counts.0;
    }

    pub fn has_left() {
        LEFT.0.lock().unwrap().0 += 1;
        LEFT.1.notify_all();
    }
}

use shuttle::scheduler::DfsScheduler;
use shuttle::sync::Arc;
use shuttle::{check_pct, check_random, thread, Config, Runner};
use sync::{AtomicUsize, Ordering::SeqCst};

use passage::Passage;

/// A range of two halves that are always written together.
#[derive(Default)]
struct World {
    passage: Passage,
    halves: [AtomicUsize; 2],
}

impl World {
    /// As a shard does; false: it had to leave, and would queue.
    fn inline(&self, lane: usize, write: bool, work: impl FnOnce(&[AtomicUsize; 2])) -> bool {
        let inside = self.passage.enter(lane, write);
        let entered = inside.is_some();
        if entered {
            work(&self.halves);
        }
        drop(inside);
        sync::has_left();
        entered
    }

    fn read_inline(&self, lane: usize) -> bool {
        self.inline(lane, false, |halves| {
            let [first, second] = [0, 1].map(|half| halves[half].load(SeqCst));
            assert_eq!(first, second, "a half of an exclusive write was seen");
        })
    }

    fn write_inline(&self, lane: usize, value: usize) -> bool {
        self.inline(lane, true, |halves| halves.iter().for_each(|half| half.store(value, SeqCst)))
    }

    /// As a worker does, its range being granted: whatever it reads is still there when it writes.
    fn add_exclusive(&self) {
        self.passage.close(true);
        self.passage.wait();
        let found = [0, 1].map(|half| self.halves[half].load(SeqCst));
        assert_eq!(found[0], found[1], "an inline write was under way");
        for half in &self.halves {
            assert_eq!(half.swap(found[0] + 1, SeqCst), found[0], "an inline write came in between");
        }
        self.passage.open(true);
    }
}

/// Many interleavings: at random, and those that differ in few but decisive places.
fn check_many(test: impl Fn() + Clone + Send + Sync + 'static) {
    check_random(test.clone(), 1_000);
    check_pct(test, 1_000, 3);
}

fn beside_an_exclusive_one(inline: impl Fn(&World) + Clone + Send + Sync + 'static) {
    check_many(move || {
        let world = Arc::new(World::default());
        let other = world.clone();
        let worker = thread::spawn(move || other.add_exclusive());
        inline(&world);
        worker.join().unwrap();
    });
}

#[test]
fn a_read_sees_all_of_it_or_nothing() {
    beside_an_exclusive_one(|world| {
        world.read_inline(1);
    });
}

#[test]
fn a_write_is_before_it_or_leaves() {
    beside_an_exclusive_one(|world| {
        world.write_inline(1, 10);
    });
}

#[test]
fn many_reads_at_a_time() {
    let test = || {
        let world = Arc::new(World::default());
        let mut threads = Vec::new();
        for lane in 0..3 {
            let world = world.clone();
            threads.push(thread::spawn(move || {
                world.read_inline(lane);
                world.read_inline(lane);
            }));
        }
        // The table lets one exclusive request go at a time.
        world.add_exclusive();
        world.add_exclusive();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    };
    check_many(test);
}

#[test]
fn a_later_inline_write_never_passes_one_in_the_table() {
    let test = || {
        let world = Arc::new(World::default());
        // In the table, and given up by its sender, but still under way when the next one comes.
        world.passage.close(false);
        let other = world.clone();
        let worker = thread::spawn(move || {
            other.halves.iter().for_each(|half| half.store(1, SeqCst));
            other.passage.open(false);
        });
        let written = world.write_inline(0, 2);
        worker.join().unwrap();
        let last = if written { 2 } else { 1 };
        assert_eq!(world.halves[1].load(SeqCst), last, "the later one was overwritten");
    };
    // All of them: there are some ten thousand.
    let ran = Runner::new(DfsScheduler::new(None, false), Config::new()).run(test);
    assert!(ran > 1_000);
}
