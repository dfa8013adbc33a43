//! A volume: one virtual disk, opened once and shared by all shards and front ends.
//!
//! Every request passes [`Volume::start`], which tries it inline (see [`passage`](super::passage)), admits
//! its range, and otherwise says who carries it out. One that has to wait for its range comes back to its
//! shard when it has it, passes the gate again, and goes on by [`Volume::resume`]. A request in flight holds
//! a [`Permit`]; its end, on whatever path, is the end of the request value itself, so that no path can
//! forget to count it or to let waiting requests go on.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::command::{Claim, Errno, Op, Request};
use super::health::{Health, OnDegraded};
use super::passage::Passage;
use super::ranges::{Acquired, Kind, Place, Range, Ranges, Ticket};
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
    /// Why its data is not all that was acknowledged, if nobody has been told so yet: writes are refused from the start.
    pub suspect: Option<String>,
}

/// What [`Volume::start`] has made of a request.
#[derive(Debug)]
pub enum Step {
    /// Finished inline.
    Done(Request, Result<(), Errno>),
    /// The shard runs it in its ring and then calls [`Volume::ring_done`].
    Ring(Request, RingTarget),
    /// Its completion will be posted.
    Pending,
    /// Another request's range is in the way. When it is not any more, the request itself will be posted
    /// ([`News::Granted`](crate::shard::mailbox::News)), unless it is [withdrawn](Volume::withdraw) before.
    Waiting(Place),
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
    /// Does the backstore do anything inline? With O_DIRECT it does not.
    inline: bool,
    passage: Passage,
    /// COMPARE AND WRITE or its like has come: from now on a read must be made at one moment.
    exclusive: AtomicBool,
    ranges: Mutex<Ranges<Waiting>>,
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
        Arc::new(Volume {
            id,
            spec,
            inline: backstore.alignment() == 1,
            backstore,
            passage: Passage::new(),
            exclusive: AtomicBool::new(false),
            ranges: Mutex::default(),
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
    /// `done` is called only when there will be a message about the request.
    /// One that [asks](Claim::Asks) for a range is done, with its permit, when it has that.
    /// Never blocks for long.
    pub fn start(self: &Arc<Self>, mut request: Request, ring: bool, done: impl FnOnce() -> Completion) -> Step {
        debug_assert!(request.permit.is_none());
        if self.closing.load(Ordering::Relaxed) {
            return Step::Done(request, Err(libc::ESHUTDOWN));
        }
        let mut diverted = false;
        if self.may_be_inline(&request) {
            match self.passage.enter(thread_number(), request.op.is_write()) {
                Some(_inside) => {
                    if let Attempt::Done(result) = self.backstore.try_now(&mut request) {
                        return Step::Done(request, result);
                    }
                }
                None => diverted = true,
            }
        }
        let Some(permit) = self.count() else {
            return Step::Done(request, Err(libc::ESHUTDOWN));
        };
        let permit = request.permit.insert(permit);
        let own = match request.claim {
            Claim::Has(_) => None,
            _ => range_of(request.op, request.offset, request.len, self.backstore.alignment()),
        };
        let Some((range, kind)) = own else {
            return self.dispatch(request, ring, done);
        };
        if kind == Kind::Exclusive {
            self.exclusive.store(true, Ordering::Relaxed);
        }
        let mut table = lock(&self.ranges);
        if kind != Kind::Read {
            self.passage.close(kind == Kind::Exclusive);
        }
        match table.acquire(range, kind) {
            Acquired::Granted(ticket) => {
                drop(table);
                permit.ticket = Some(ticket);
                self.carry_out(request, diverted, ring, done)
            }
            Acquired::Queued(ticket) => {
                permit.ticket = Some(ticket);
                Step::Waiting(table.park(ticket, Waiting { request, done: done() }))
            }
        }
    }

    /// Go on with a request that waited and has its range now. The gate has allowed it once more. Never
    /// [`Step::Waiting`].
    pub fn resume(self: &Arc<Self>, request: Request, ring: bool, done: impl FnOnce() -> Completion) -> Step {
        debug_assert!(request.permit.is_some());
        let inline = self.may_be_inline(&request);
        self.carry_out(request, inline, ring, done)
    }

    /// Give up a request that waits for its range. `None`: it has it, and is on its way to its shard, which
    /// must keep the task until it has come.
    pub fn withdraw(&self, place: Place) -> Option<Request> {
        let Waiting { mut request, done } = lock(&self.ranges).withdraw(place)?;
        done.forget();
        if let Some(permit) = &mut request.permit {
            // What is left of it in the table ends by itself.
            permit.ticket = None;
        }
        Some(request)
    }

    fn may_be_inline(&self, request: &Request) -> bool {
        self.inline && !request.op.is_exclusive()
    }

    /// `inline`: nobody is in the way any more, it may be tried at once.
    fn carry_out(&self, mut request: Request, inline: bool, ring: bool, done: impl FnOnce() -> Completion) -> Step {
        if inline {
            if let Attempt::Done(result) = self.backstore.try_now(&mut request) {
                request.permit = None;
                return Step::Done(request, result);
            }
        }
        self.dispatch(request, ring, done)
    }

    fn dispatch(&self, request: Request, ring: bool, done: impl FnOnce() -> Completion) -> Step {
        if matches!(request.claim, Claim::Asks) {
            // Whoever asked takes the permit.
            return Step::Done(request, Ok(()));
        }
        if ring {
            if let Some(target) = self.backstore.ring_target(&request) {
                return Step::Ring(request, target);
            }
        }
        self.backstore.submit(request, done());
        Step::Pending
    }

    /// See [`Backstore::map_read`]. The gate has allowed the READ.
    pub fn map_read(&self, offset: u64, len: usize) -> Option<MappedBytes> {
        // Such a reply is copied when it leaves, past all ranges: not where others count on those.
        let ranges_matter = !self.inline || self.exclusive.load(Ordering::Relaxed);
        if ranges_matter || self.closing.load(Ordering::Relaxed) {
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
        let Some(ticket) = ticket else { return };
        let mut runnable = Vec::new();
        lock(&self.ranges).release(ticket, &mut runnable, |kind| {
            if kind != Kind::Read {
                self.passage.open(kind == Kind::Exclusive);
            }
        });
        for Waiting { request, done } in runnable {
            done.grant(request);
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

impl Permit {
    /// Waits until no inline request is under way that began before this one had its range. For what reads and
    /// then writes back, on a worker's thread. May block.
    pub fn wait_for_inline(&self) {
        self.volume.passage.wait();
    }

    /// Ends the request, and keeps its range.
    pub fn into_hold(mut self) -> Hold {
        Hold { volume: self.volume.clone(), ticket: self.ticket.take() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.volume.release(self.ticket.take());
        self.volume.uncount();
    }
}

/// A range that is kept while nothing may be in flight: it does not keep its volume from being closed. Its drop gives it
/// to those that wait.
#[derive(Debug)]
pub struct Hold {
    volume: Arc<Volume>,
    ticket: Option<Ticket>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.volume.release(self.ticket.take());
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
        op if op.is_exclusive() => Kind::Exclusive,
        Op::Write | Op::WriteZeroes | Op::WriteSame if !aligned => Kind::Exclusive,
        Op::Write | Op::WriteZeroes | Op::WriteSame | Op::Discard | Op::Unmap => Kind::Write,
        _ => return None,
    };
    let range = Range { start: offset & !mask, end: offset.saturating_add(len).saturating_add(mask) & !mask };
    (range.start < range.end).then_some((range, kind))
}

/// A number for this thread, so that each shard has a lane of its own.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        number.get()
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No panic can leave what these guard half changed: they are short and allocate only.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
