//! A volume: one virtual disk, opened once and shared by all shards and front ends.
//!
//! Every request passes [`Volume::start`], which admits its range, tries it inline, and
//! otherwise says who carries it out. A request in flight holds a [`Permit`]; its end, on
//! whatever path, is the end of the request value itself, so that no path can forget
//! to count it or to let waiting requests go on.

use std::fmt;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::command::{Errno, Op, Request};
use super::health::{Health, OnDegraded};
use super::ranges::{Acquired, Kind, Range, Ranges, Ticket};
use crate::backstores::file::mapped::MappedBytes;
use crate::backstores::file::FileBackstore;
use crate::backstores::{Attempt, Backstore, Completion, OpenError, RingTarget};

/// What is to be opened, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// A regular file or a block device; symbolic links are followed.
    pub path: PathBuf,
    /// Pass the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Every write is stable before it is answered.
    pub write_through: bool,
    /// Open for reading only.
    pub read_only: bool,
    /// The block size that clients are told, bytes.
    pub block_size: u32,
    /// Where the volume starts in the file, bytes.
    pub offset: u64,
    /// Bytes; `None`: to the end of the file. What lies behind cannot be reached.
    pub length: Option<u64>,
    /// The path must be a block device (else: must be a regular file).
    pub device: bool,
}

/// What [`Volume::start`] has made of a request.
#[derive(Debug)]
pub enum Step {
    /// Finished inline.
    Done(Request, Result<(), Errno>),
    /// The shard runs it in its ring and then calls [`Volume::ring_done`].
    Ring(Request, RingTarget),
    /// Its completion will be posted. `waiting`: another request's range is in the way.
    Pending { waiting: bool },
}

/// A request that waits for its range.
struct Waiting {
    request: Request,
    done: Completion,
}

/// See the module's text.
pub struct Volume {
    id: u64,
    spec: VolumeSpec,
    backstore: Box<dyn Backstore>,
    /// Only where requests can need a read-modify-write; a buffered file is
    /// ordered by the kernel's inode lock.
    ranges: Option<Mutex<Ranges<Waiting>>>,
    in_flight: AtomicUsize,
    closing: AtomicBool,
    drain: Mutex<Closing>,
    drained: Condvar,
}

/// How far the storage's own closing has come. It may hang, so a thread of its own does it.
#[derive(Default)]
enum Closing {
    #[default]
    No,
    Running,
    /// What came of it; told to whoever asks first, and "all well" after that.
    Over(io::Result<()>),
}

/// The closing thread keeps nothing on its stack.
const STACK_BYTES: usize = 128 << 10;

impl Volume {
    /// Open the storage, take its exclusive lock. `EBUSY`: somebody else has it. May block.
    pub fn open(id: u64, spec: VolumeSpec, on_degraded: OnDegraded) -> Result<Arc<Volume>, OpenError> {
        let backstore = FileBackstore::open(id, &spec, on_degraded)?;
        Ok(Self::with_backstore(id, spec, Box::new(backstore)))
    }

    /// A volume on a backstore that is open already.
    pub fn with_backstore(id: u64, spec: VolumeSpec, backstore: Box<dyn Backstore>) -> Arc<Volume> {
        let ranges = (backstore.alignment() > 1).then(|| Mutex::new(Ranges::new()));
        Arc::new(Volume {
            id,
            spec,
            backstore,
            ranges,
            in_flight: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            drain: Mutex::default(),
            drained: Condvar::new(),
        })
    }

    /// The handle by which the control side knows the volume.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// As it was opened.
    pub fn spec(&self) -> &VolumeSpec {
        &self.spec
    }

    /// Bytes that the storage holds now; what clients see is the gate's size.
    pub fn size(&self) -> u64 {
        self.backstore.size()
    }

    /// See [`Backstore::alignment`].
    pub fn alignment(&self) -> u32 {
        self.backstore.alignment()
    }

    /// See [`Backstore::health`].
    pub fn health(&self) -> Health {
        self.backstore.health()
    }

    /// Requests that did not finish inline and are not finished yet, waiting ones included.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Requests that the backstore's own threads have.
    pub fn queue_depth(&self) -> usize {
        self.backstore.queue_depth()
    }

    /// The clients see this many bytes now: what lies behind may go. Called when every shard
    /// uses the gate that says so, and before a file is made shorter.
    pub fn expect_size(&self, size: u64) {
        self.backstore.expect_size(size);
    }

    /// See [`Backstore::refresh_size`]. May block.
    pub fn refresh_size(&self) -> io::Result<u64> {
        self.backstore.refresh_size()
    }

    /// See [`Backstore::check`]. May block.
    pub fn check(&self) {
        self.backstore.check();
    }

    /// Take a request that the gate has allowed. `ring`: the caller can run ring I/O.
    /// `done` is called only when the request is to be completed by a message.
    /// Never blocks for long.
    pub fn start(self: &Arc<Self>, mut request: Request, ring: bool, done: impl FnOnce() -> Completion) -> Step {
        debug_assert!(request.permit.is_none());
        if self.closing.load(Ordering::Relaxed) {
            return Step::Done(request, Err(libc::ESHUTDOWN));
        }
        // A volume without ranges may answer out of the page cache; one with ranges bypasses it.
        let Some(ranges) = &self.ranges else {
            if let Attempt::Done(result) = self.backstore.try_now(&mut request) {
                return Step::Done(request, result);
            }
            return match self.count() {
                Some(permit) => {
                    request.permit = Some(permit);
                    self.dispatch(request, ring, done)
                }
                None => Step::Done(request, Err(libc::ESHUTDOWN)),
            };
        };
        self.start_ranged(ranges, request, ring, done)
    }

    fn start_ranged(
        self: &Arc<Self>,
        ranges: &Mutex<Ranges<Waiting>>,
        mut request: Request,
        ring: bool,
        done: impl FnOnce() -> Completion,
    ) -> Step {
        let Some(permit) = self.count() else {
            return Step::Done(request, Err(libc::ESHUTDOWN));
        };
        let permit = request.permit.insert(permit);
        let Some((range, kind)) = range_of(request.op, request.offset, request.len, self.backstore.alignment()) else {
            return self.dispatch(request, ring, done);
        };
        let mut table = lock(ranges);
        let ticket = match table.acquire(range, kind) {
            Acquired::Granted(ticket) => {
                drop(table);
                permit.ticket = Some(ticket);
                return self.dispatch(request, ring, done);
            }
            Acquired::Queued(ticket) => ticket,
        };
        permit.ticket = Some(ticket);
        table.park(ticket, Waiting { request, done: done() });
        Step::Pending { waiting: true }
    }

    fn dispatch(&self, request: Request, ring: bool, done: impl FnOnce() -> Completion) -> Step {
        if ring {
            if let Some(target) = self.backstore.ring_target(&request) {
                return Step::Ring(request, target);
            }
        }
        self.backstore.submit(request, done());
        Step::Pending { waiting: false }
    }

    /// See [`Backstore::map_read`]. The gate has allowed the READ.
    pub fn map_read(&self, offset: u64, len: usize) -> Option<MappedBytes> {
        // Where reads must keep out of others' way they do so until they have ended, and a mapped
        // one has not been made when this returns.
        if self.ranges.is_some() || self.closing.load(Ordering::Relaxed) {
            return None;
        }
        self.backstore.map_read(offset, len)
    }

    /// A request that [`Step::Ring`] gave out has run. Call once, then drop the request's permit.
    pub fn ring_done(&self, request: &Request, result: &Result<(), Errno>) {
        self.backstore.note_ring_result(request, result);
    }

    /// Stop admitting, wait until nothing is in flight, make everything stable, let go of the
    /// storage. `EBUSY` when that is not over after `drain`: requests are still in flight, or the data
    /// is still being made stable. Their fate is not known, so the storage stays locked; call again.
    /// Any other error: closed, but what was written may not be stable. The caller has disconnected
    /// the sessions before. Blocks, for `drain` at most.
    pub fn close(self: &Arc<Self>, drain: Duration) -> io::Result<()> {
        let deadline = Instant::now() + drain;
        self.close_by(deadline, deadline)
    }

    /// [`close`](Self::close) with a bound for each part: requests end by `drained_by`, their
    /// data is stable by `stable_by`.
    pub fn close_by(self: &Arc<Self>, drained_by: Instant, stable_by: Instant) -> io::Result<()> {
        self.closing.store(true, Ordering::SeqCst);
        let mut state = lock(&self.drain);
        loop {
            state = self.let_go(state);
            let deadline = match &mut *state {
                Closing::Over(result) => return mem::replace(result, Ok(())),
                Closing::Running => stable_by,
                Closing::No => drained_by,
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
            state = self.drained.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Begin to close without waiting, so that many volumes do at the same time;
    /// [`close_by`](Self::close_by) tells what came of it.
    pub fn begin_close(self: &Arc<Self>) {
        self.closing.store(true, Ordering::SeqCst);
        drop(self.let_go(lock(&self.drain)));
    }

    /// Start closing the storage if nothing is in flight and nobody has yet.
    fn let_go<'a>(self: &Arc<Self>, mut state: MutexGuard<'a, Closing>) -> MutexGuard<'a, Closing> {
        if !matches!(*state, Closing::No) || self.in_flight.load(Ordering::SeqCst) > 0 {
            return state;
        }
        let volume = self.clone();
        let thread = thread::Builder::new().name(format!("bg-close-{}", self.id)).stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            let result = volume.backstore.close();
            *lock(&volume.drain) = Closing::Over(result);
            volume.drained.notify_all();
        });
        // No thread to be had: it is tried again by the next who asks.
        if started.is_ok() {
            *state = Closing::Running;
        }
        state
    }

    /// Count a request in; `None` when the volume is being closed.
    fn count(self: &Arc<Self>) -> Option<Permit> {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let permit = Permit { volume: self.clone(), ticket: None };
        // After the count, so that `close` either sees it or is seen here.
        (!self.closing.load(Ordering::SeqCst)).then_some(permit)
    }

    fn release(&self, ticket: Option<Ticket>) {
        let (Some(ticket), Some(ranges)) = (ticket, &self.ranges) else { return };
        let mut runnable = Vec::new();
        lock(ranges).release(ticket, &mut runnable);
        for Waiting { request, done } in runnable {
            self.backstore.submit(request, done);
        }
    }

    fn uncount(&self) {
        if self.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 && self.closing.load(Ordering::SeqCst) {
            drop(lock(&self.drain));
            self.drained.notify_all();
        }
    }
}

impl fmt::Debug for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("id", &self.id).field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// A request's place among those in flight. Its drop ends the request: it counts it
/// out and gives its range to those that wait.
pub struct Permit {
    volume: Arc<Volume>,
    ticket: Option<Ticket>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.volume.release(self.ticket.take());
        self.volume.uncount();
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("volume", &self.volume.id).field("ticket", &self.ticket).finish()
    }
}

/// The range that a request occupies on storage with blocks of `alignment` bytes: rounded
/// outwards, and exclusive where a part of a block is to be written (the rest of the
/// block is read and written back). `None`: it excludes nothing.
fn range_of(op: Op, offset: u64, len: u64, alignment: u32) -> Option<(Range, Kind)> {
    let mask = u64::from(alignment) - 1;
    let aligned = (offset | len) & mask == 0;
    let kind = match op {
        Op::Read | Op::Verify => Kind::Read,
        Op::CompareAndWrite | Op::OrWrite | Op::WriteVerify => Kind::Exclusive,
        Op::Write | Op::WriteZeroes | Op::WriteSame if !aligned => Kind::Exclusive,
        Op::Write | Op::WriteZeroes | Op::WriteSame | Op::Discard | Op::Unmap => Kind::Write,
        Op::Flush | Op::Cache | Op::BlockStatus => return None,
    };
    let range = Range { start: offset & !mask, end: offset.saturating_add(len).saturating_add(mask) & !mask };
    (range.start < range.end).then_some((range, kind))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No panic can leave what these guard half changed: they are short and allocate only.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::command::{Flags, Outcome};
    use crate::shard::buffers::IoBuf;
    use crate::shard::mailbox::Mailbox;
    use crate::shard::tasks::TaskHandle;

    /// Storage with blocks of 512 bytes that hangs until told otherwise: what no real file does on demand.
    #[derive(Clone, Default)]
    struct Hanging {
        held: Arc<Mutex<Vec<(Request, Completion)>>>,
        closed: Arc<AtomicBool>,
        /// Held by a test: making things stable hangs.
        sync: Arc<Mutex<()>>,
    }

    impl Hanging {
        fn finish_first(&self) {
            let (request, done) = lock(&self.held).remove(0);
            done.post(Outcome { request, result: Ok(()) });
        }

        fn offsets(&self) -> Vec<u64> {
            lock(&self.held).iter().map(|(request, _)| request.offset).collect()
        }
    }

    impl Backstore for Hanging {
        fn size(&self) -> u64 {
            1 << 20
        }
        fn alignment(&self) -> u32 {
            512
        }
        fn try_now(&self, _: &mut Request) -> Attempt {
            Attempt::NotNow
        }
        fn ring_target(&self, req: &Request) -> Option<RingTarget> {
            (req.op == Op::Read).then_some(RingTarget { fd: -1, offset: 0, direct: true })
        }
        fn submit(&self, req: Request, done: Completion) {
            lock(&self.held).push((req, done));
        }
        fn note_ring_result(&self, _: &Request, _: &Result<(), Errno>) {}
        fn health(&self) -> Health {
            Health::default()
        }
        fn queue_depth(&self) -> usize {
            lock(&self.held).len()
        }
        fn expect_size(&self, _: u64) {}
        fn refresh_size(&self) -> io::Result<u64> {
            Ok(self.size())
        }
        fn check(&self) {}
        fn close(&self) -> io::Result<()> {
            drop(lock(&self.sync));
            self.closed.store(true, Ordering::SeqCst);
            Ok(())
        }
    }

    struct Fixture {
        volume: Arc<Volume>,
        storage: Hanging,
        mailbox: Arc<Mailbox>,
    }

    impl Fixture {
        fn new() -> Self {
            let storage = Hanging::default();
            let spec = VolumeSpec {
                path: PathBuf::new(),
                direct: true,
                write_through: false,
                read_only: false,
                block_size: 512,
                offset: 0,
                length: None,
                device: false,
            };
            let volume = Volume::with_backstore(1, spec, Box::new(storage.clone()));
            Fixture { volume, storage, mailbox: Mailbox::new(16).unwrap() }
        }

        fn start(&self, op: Op, offset: u64, len: usize) -> Step {
            let request = Request::with_buf(op, Flags::default(), offset, IoBuf::zeroed(len));
            self.volume.start(request, true, || Completion::new(self.mailbox.clone(), TaskHandle(1)))
        }
    }

    fn waits(step: &Step) -> bool {
        matches!(step, Step::Pending { waiting: true })
    }

    #[test]
    fn a_part_of_a_block_waits_for_whole_ones_and_they_for_it() {
        let on = Fixture::new();
        assert!(!waits(&on.start(Op::Write, 0, 512)));
        assert!(waits(&on.start(Op::Write, 100, 5)));
        assert!(waits(&on.start(Op::Write, 0, 1024)), "behind the one that waits");
        assert!(waits(&on.start(Op::Read, 511, 1)), "reads too");
        assert!(!waits(&on.start(Op::Write, 1024, 5)), "but nobody beside them");
        assert_eq!(on.storage.offsets(), [0, 1024]);
        assert_eq!(on.volume.in_flight(), 5);
        on.storage.finish_first();
        assert_eq!(on.storage.offsets(), [1024], "the range is held until the outcome has been taken");
        drop(on.mailbox.next_done());
        assert_eq!(on.storage.offsets(), [1024, 100]);
        on.storage.finish_first();
        on.storage.finish_first();
        drop(on.mailbox.next_done());
        drop(on.mailbox.next_done());
        assert_eq!(on.storage.offsets(), [0, 511], "both together, in their order");
        on.storage.finish_first();
        on.storage.finish_first();
        drop(on.mailbox.next_done());
        drop(on.mailbox.next_done());
        assert_eq!(on.volume.in_flight(), 0);
    }

    #[test]
    fn a_ring_request_ends_with_its_permit() {
        let on = Fixture::new();
        let Step::Ring(request, _) = on.start(Op::Read, 0, 4096) else { panic!("not for the ring") };
        assert!(waits(&on.start(Op::Write, 1, 1)));
        on.volume.ring_done(&request, &Ok(()));
        drop(request);
        assert_eq!(on.storage.offsets(), [1]);
    }

    #[test]
    fn close_waits_for_what_is_in_flight_and_says_when_it_cannot() {
        let on = Fixture::new();
        on.start(Op::Write, 0, 512);
        on.start(Op::Write, 7, 7);
        let error = on.volume.close(Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        assert!(!on.storage.closed.load(Ordering::SeqCst), "its fate is not known: the lock stays");
        assert!(matches!(on.start(Op::Read, 0, 512), Step::Done(_, Err(libc::ESHUTDOWN))));
        assert_eq!(on.volume.in_flight(), 2);
        std::thread::scope(|scope| {
            let closing = scope.spawn(|| on.volume.close(Duration::from_secs(60)));
            on.storage.finish_first();
            drop(on.mailbox.next_done());
            on.storage.finish_first();
            drop(on.mailbox.next_done());
            closing.join().unwrap().unwrap();
        });
        assert!(on.storage.closed.load(Ordering::SeqCst));
    }

    #[test]
    fn close_does_not_wait_for_storage_that_hangs() {
        let on = Fixture::new();
        let hung = lock(&on.storage.sync);
        for _ in 0..2 {
            let start = Instant::now();
            let error = on.volume.close(Duration::from_millis(20)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
            assert!(start.elapsed() < Duration::from_secs(10));
        }
        drop(hung);
        on.volume.close(Duration::from_secs(60)).unwrap();
        assert!(on.storage.closed.load(Ordering::SeqCst));
        on.volume.close(Duration::ZERO).unwrap();
    }

    #[test]
    fn many_close_at_the_same_time() {
        let all: Vec<_> = (0..8).map(|_| Fixture::new()).collect();
        let hung: Vec<_> = all.iter().map(|on| lock(&on.storage.sync)).collect();
        all[7].start(Op::Write, 0, 512);
        all.iter().for_each(|on| on.volume.begin_close());
        drop(hung);
        let soon = Instant::now() + Duration::from_secs(60);
        for on in &all[..7] {
            on.volume.close_by(Instant::now(), soon).unwrap();
        }
        assert!(all[7].volume.close_by(Instant::now(), soon).is_err(), "a request in flight has no time left");
    }

    #[test]
    fn ranges_are_rounded_outwards_and_kinds_follow_alignment() {
        let range = |start, end| Range { start, end };
        assert_eq!(range_of(Op::Write, 512, 512, 512), Some((range(512, 1024), Kind::Write)));
        assert_eq!(range_of(Op::Write, 511, 2, 512), Some((range(0, 1024), Kind::Exclusive)));
        assert_eq!(range_of(Op::Read, 511, 2, 512), Some((range(0, 1024), Kind::Read)));
        assert_eq!(range_of(Op::WriteZeroes, 0, 1, 4096), Some((range(0, 4096), Kind::Exclusive)));
        assert_eq!(range_of(Op::Discard, 1, 1, 512), Some((range(0, 512), Kind::Write)));
        assert_eq!(range_of(Op::Flush, 0, 0, 512), None);
        assert_eq!(range_of(Op::Read, 512, 0, 512), None, "nothing");
    }
}
