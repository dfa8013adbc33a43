//! What a shard's thread has at hand while it works: its buffers, tasks, clock, and the poller.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::buffers::{BufPool, PAGE};
use super::events::Lanes;
use super::lease::Lease;
use super::limits::Limits;
use super::mailbox::Mailbox;
use super::poller::{FileIo, Poller};
use super::status::OpCounts;
use super::tasks::{Slab, TaskHandle};
use super::timers::Timers;
use super::tls_config::TlsConfig;
use crate::backstores::RingTarget;
use crate::block::command::{Extent, Op, Request};
use crate::block::gate::{Gate, Nexus};
use crate::block::ranges::Place;
use crate::block::volume::Volume;
use crate::iscsi::scope::Drain;
use crate::iscsi::shard::Table;
use crate::nbd::replies::Asked;

/// A volume as one shard knows it: with the gate that the shard uses.
pub struct Entry {
    pub volume: Arc<Volume>,
    /// `None` until Python has set one, and again once the volume is being closed.
    pub gate: RefCell<Option<Arc<Gate>>>,
    /// Its tasks on this shard.
    pub tasks: Cell<usize>,
    /// What those cost: their buffers, and room for their answers.
    pub task_bytes: Cell<usize>,
}

impl Entry {
    /// Counts a task of it.
    pub fn task_begins(&self, cost: usize) {
        self.tasks.set(self.tasks.get() + 1);
        self.task_bytes.set(self.task_bytes.get() + cost);
    }

    fn task_ends(&self, cost: usize) {
        self.tasks.set(self.tasks.get() - 1);
        self.task_bytes.set(self.task_bytes.get() - cost);
    }
}

/// May one that holds `mine` take more of what it shares with others, `free` being left? A
/// volume whose storage hangs ends up with a third; what is left is shared in the same way.
pub fn is_fair(mine: usize, free: usize) -> bool {
    2 * mine < free
}

/// What others hold when a connection begins to wait for it.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    lent_bytes: usize,
    session_bytes: usize,
    collecting_bytes: usize,
    names: usize,
    ended_tasks: u64,
}

/// One export of one volume, as a shard's connections use it.
pub struct Attachment {
    pub entry: Rc<Entry>,
    pub export: String,
    pub counts: RefCell<OpCounts>,
}

/// The part that a task has in its request.
#[derive(Debug)]
pub enum Role {
    /// All of it. BLOCK_STATUS: the context ids asked for, `None` for all.
    Whole { ids: Option<Vec<u32>> },
    /// A piece of a large request, which is the connection's to put together.
    Piece { large: TaskHandle },
    /// A SCSI command, or a piece of one: its session's.
    Scsi { command: TaskHandle },
}

/// File I/O that the shard's ring carries.
pub struct RingJob {
    pub request: Request,
    pub target: RingTarget,
    /// Bytes transferred so far.
    pub done: usize,
}

/// A request, or a piece of one, that did not end inline.
pub struct Task {
    pub conn: TaskHandle,
    pub conn_id: u64,
    /// Who asks, as gates and aborts know it: the connection itself for NBD.
    pub nexus: Nexus,
    pub attachment: Rc<Attachment>,
    /// What was asked; a piece has its own range here.
    pub asked: Asked,
    pub role: Role,
    pub started_ns: u64,
    /// Capacity of the pool's buffer that it holds, or bytes that its answer may have.
    pub cost: usize,
    /// Another request's range is in its way.
    pub waiting: Option<Place>,
    /// It had its range and has given it back: a task management function does not let it begin.
    pub stopped: Option<Request>,
    pub ring: Option<RingJob>,
}

/// Where received bytes land first: a page of room for what was left over before, then an area
/// that starts on a page.
pub struct Scratch {
    bytes: Vec<u8>,
    start: usize,
}

/// Bytes that one receive brings at most, beside a payload.
pub const SCRATCH_BYTES: usize = 128 << 10;

impl Scratch {
    /// An area with its headroom.
    pub fn new() -> Self {
        let bytes = vec![0; SCRATCH_BYTES + 2 * PAGE];
        let start = (bytes.as_ptr() as usize).next_multiple_of(PAGE) - bytes.as_ptr() as usize + PAGE;
        Self { bytes, start }
    }

    /// Puts `left` right before the area. False: it is longer than the page that there is room for.
    #[must_use]
    pub fn put_before(&mut self, left: &[u8]) -> bool {
        if left.len() > PAGE {
            return false;
        }
        self.bytes[self.start - left.len()..self.start].copy_from_slice(left);
        true
    }

    /// The area to receive into.
    pub fn area(&mut self, len: usize) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + len]
    }

    /// What was put before, and the first `received` bytes of the area.
    pub fn filled(&self, left: usize, received: usize) -> &[u8] {
        &self.bytes[self.start - left..self.start + received]
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// See the module's text. Owned by the shard's thread.
pub struct Ctx {
    pub limits: Limits,
    pub lanes: Arc<Lanes>,
    pub mailbox: Arc<Mailbox>,
    pub poller: Box<dyn Poller>,
    pub bufs: BufPool,
    pub tasks: Slab<Task>,
    /// Whom a deadline is for, as a poller's token.
    pub timers: Timers<u64>,
    pub tls: Option<Arc<TlsConfig>>,
    pub volumes: HashMap<u64, Rc<Entry>>,
    pub attachments: HashMap<(u64, String), Rc<Attachment>>,
    /// Connections that have something to do.
    pub ready: VecDeque<TaskHandle>,
    /// Connections that are to get a turn although nothing has come for them.
    pub kicked: Vec<TaskHandle>,
    /// Connections that wait for buffers, tasks or names of the shard.
    pub starved: Vec<TaskHandle>,
    /// Connections that are to get a turn when a task has ended.
    pub awaiting: Vec<TaskHandle>,
    /// The most that was taken when one of them began to wait.
    starved_at: Taken,
    /// Tasks promised to WRITEs whose payload is still coming.
    pub reserved_tasks: usize,
    /// Capacity of the buffers of such payloads.
    pub collecting_bytes: usize,
    /// What connections in transmission hold beside the pool's buffers.
    pub session_bytes: usize,
    /// Tasks that have ended.
    ended_tasks: u64,
    pub iscsi: Table,
    /// Aborts that wait for the fate of tasks.
    pub drains: Vec<Drain>,
    pub scratch: Option<Scratch>,
    pub iovecs: Vec<libc::iovec>,
    /// Requests that ended inline in this turn: operation, bytes, failed.
    pub ended: Vec<(Op, u64, bool)>,
    pub extents: Vec<Vec<Extent>>,
    pub ring_in_flight: usize,
    pub stopping: bool,
    /// Until when something may be given to a volume.
    pub lease: Arc<Lease>,
    /// The lease was found to have lapsed since the reactor last asked.
    pub saw_lapse: Cell<bool>,
    /// Nanoseconds of CLOCK_BOOTTIME, read once for each batch.
    pub now_ns: Cell<u64>,
}

impl Ctx {
    /// A fresh context around a poller.
    pub fn new(limits: Limits, lanes: Arc<Lanes>, mailbox: Arc<Mailbox>, poller: Box<dyn Poller>) -> Self {
        Self {
            bufs: BufPool::new(limits.shard_kept_bytes as usize),
            tasks: Slab::new(limits.tasks_per_shard as usize),
            iscsi: Table::new(limits.tasks_per_shard as usize),
            drains: Vec::new(),
            limits,
            lanes,
            mailbox,
            poller,
            timers: Timers::default(),
            tls: None,
            volumes: HashMap::new(),
            attachments: HashMap::new(),
            ready: VecDeque::new(),
            kicked: Vec::new(),
            starved: Vec::new(),
            awaiting: Vec::new(),
            starved_at: Taken::default(),
            reserved_tasks: 0,
            collecting_bytes: 0,
            session_bytes: 0,
            ended_tasks: 0,
            scratch: Some(Scratch::new()),
            iovecs: Vec::new(),
            ended: Vec::new(),
            extents: Vec::new(),
            ring_in_flight: 0,
            stopping: false,
            lease: Arc::default(),
            saw_lapse: Cell::new(false),
            now_ns: Cell::new(boottime_ns()),
        }
    }

    /// Looks at the clock.
    pub fn tick(&self) -> u64 {
        let now = boottime_ns();
        self.now_ns.set(now);
        now
    }

    /// Has the gateway's lease lapsed? Then nothing is given to a volume. Asked on arrival, and again for each
    /// submission; the reactor sees to those who must not be left waiting for an answer.
    pub fn is_fenced(&self) -> bool {
        let lapsed = self.lease.has_lapsed(self.now_ns.get());
        if lapsed {
            self.saw_lapse.set(true);
        }
        lapsed
    }

    /// Milliseconds of the shard's clock, as of the last look.
    pub fn now_ms(&self) -> u64 {
        self.now_ns.get() / 1_000_000
    }

    /// How many more tasks there may be, those that are promised apart.
    pub fn task_room(&self) -> usize {
        self.tasks.room().saturating_sub(self.reserved_tasks)
    }

    /// Ends a task, for its shard and its volume; `None`: it has ended before.
    pub fn end_task(&mut self, handle: TaskHandle) -> Option<Task> {
        let task = self.tasks.remove(handle)?;
        task.attachment.entry.task_ends(task.cost);
        self.ended_tasks += 1;
        self.kicked.append(&mut self.awaiting);
        if !self.drains.is_empty() {
            self.drains.retain_mut(|drain| !drain.ended(handle));
        }
        Some(task)
    }

    fn taken(&self) -> Taken {
        Taken {
            lent_bytes: self.bufs.lent_bytes(),
            session_bytes: self.session_bytes,
            collecting_bytes: self.collecting_bytes,
            names: self.iscsi.named.len(),
            ended_tasks: self.ended_tasks,
        }
    }

    /// Puts a connection among those that wait for what others hold.
    pub fn note_starved(&mut self, handle: TaskHandle) {
        let now = self.taken();
        // The highest mark stands until all are woken: a newcomer must not hide from the others
        // that something was given back since they began to wait.
        let before = if self.starved.is_empty() { now } else { self.starved_at };
        self.starved_at = Taken {
            lent_bytes: now.lent_bytes.max(before.lent_bytes),
            session_bytes: now.session_bytes.max(before.session_bytes),
            collecting_bytes: now.collecting_bytes.max(before.collecting_bytes),
            names: now.names.max(before.names),
            ended_tasks: before.ended_tasks,
        };
        self.starved.push(handle);
    }

    /// Is there something for those that wait, who may then try again?
    pub fn may_feed(&self) -> bool {
        let (now, then) = (self.taken(), self.starved_at);
        !self.starved.is_empty()
            && (now.lent_bytes < then.lent_bytes
                || now.session_bytes < then.session_bytes
                || now.collecting_bytes < then.collecting_bytes
                || now.names < then.names
                || now.ended_tasks != then.ended_tasks)
    }

    /// May a connection that holds `held` bytes take `cost` more for a request to `entry`?
    ///
    /// One that holds nothing may, up to the shard's hard bound: so everybody makes progress. No
    /// volume gets more than its share of either bound. Half received payloads have a bound of
    /// their own; they leave the soft one to those that get on.
    pub fn may_take(&self, entry: &Entry, held: usize, cost: usize) -> bool {
        self.may_take_within(self.limits.connection_bytes as usize, Some(entry), held, cost)
    }

    /// The same with another bound for what it may hold; without `entry` no volume's share is asked for.
    pub fn may_take_within(&self, own_bound: usize, entry: Option<&Entry>, held: usize, cost: usize) -> bool {
        let fits = |bound: u64, used: usize| {
            let bound = bound as usize;
            used + cost <= bound && entry.is_none_or(|entry| is_fair(entry.task_bytes.get(), bound - used))
        };
        fits(self.limits.shard_hard_bytes, self.bufs.lent_bytes())
            && (held == 0 || held + cost <= own_bound && fits(self.limits.shard_soft_bytes, self.soft_bytes()))
    }

    /// Is it what a volume has that keeps one who holds `held` bytes from taking `cost` more for it? One that has
    /// nothing lacks what others have.
    pub fn is_at_share(&self, entry: &Entry, held: usize, cost: usize) -> bool {
        let is_full = |mine: usize, free: usize| mine > 0 && !is_fair(mine, free);
        let bytes_full =
            |bound: u64, used: usize| is_full(entry.task_bytes.get(), (bound as usize).saturating_sub(used));
        is_full(entry.tasks.get(), self.task_room())
            || cost > 0 && bytes_full(self.limits.shard_hard_bytes, self.bufs.lent_bytes())
            || cost > 0 && held > 0 && bytes_full(self.limits.shard_soft_bytes, self.soft_bytes())
    }

    /// What counts against the soft bound.
    fn soft_bytes(&self) -> usize {
        self.bufs.lent_bytes() - self.collecting_bytes + self.session_bytes
    }

    /// Is more lent than the soft bound? Then nobody is promised more than it needs to go on.
    pub fn is_pressed(&self) -> bool {
        self.soft_bytes() > self.limits.shard_soft_bytes as usize
    }

    /// May a payload of `cost` bytes, which is yet to come, get its buffer and its task now?
    pub fn may_collect(&self, cost: usize) -> bool {
        self.collects_within(4, cost)
    }

    /// The same for the first of a session: some of the room is kept for those, from others that are slow to send
    /// what they have promised.
    pub fn may_collect_first(&self, cost: usize) -> bool {
        self.collects_within(2, cost)
    }

    fn collects_within(&self, part: usize, cost: usize) -> bool {
        self.collecting_bytes + cost <= self.limits.shard_hard_bytes as usize / part
            && self.reserved_tasks < self.limits.tasks_per_shard as usize / part
    }

    /// A payload of `cost` bytes begins to come.
    pub fn begin_collecting(&mut self, cost: usize) {
        self.reserved_tasks += 1;
        self.collecting_bytes += cost;
    }

    /// It is complete, or given up.
    pub fn end_collecting(&mut self, cost: usize) {
        self.reserved_tasks -= 1;
        self.collecting_bytes -= cost;
    }

    /// Starts, or goes on with, a task's ring I/O. `Err`: it could not be started.
    pub fn run_ring(&mut self, handle: TaskHandle) -> Result<(), i32> {
        // The rest of a short transfer is a submission, too.
        if self.is_fenced() {
            return Err(libc::ESHUTDOWN);
        }
        let job = self.tasks.get_mut(handle).and_then(|task| task.ring.as_mut()).expect("a ring task");
        let write = job.request.op == Op::Write;
        let buf = job.request.buf.as_mut().expect("READ and WRITE have a buffer");
        let io = FileIo {
            fd: job.target.fd,
            write,
            // SAFETY: `done` is less than the buffer's length while there is something to do.
            start: unsafe { buf.as_mut_ptr().add(job.done) },
            len: (buf.len() - job.done) as u32,
            offset: job.target.offset + job.request.offset + job.done as u64,
        };
        // SAFETY: the buffer belongs to the task's slot, which stays until the completion came
        // (a shard that ends earlier leaks it, see the reactor).
        match unsafe { self.poller.submit_file(handle, io) } {
            Ok(()) => {
                self.ring_in_flight += 1;
                Ok(())
            }
            Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    /// Takes the result of a transfer; `Some`: the task's I/O has ended.
    pub fn ring_result(&mut self, handle: TaskHandle, result: i32) -> Option<Result<(), i32>> {
        self.ring_in_flight -= 1;
        let task = self.tasks.get_mut(handle).expect("a ring task lives until its I/O has ended");
        let alignment = task.attachment.entry.volume.alignment() as usize;
        let job = task.ring.as_mut().expect("a ring task");
        match result {
            0 => return Some(Err(libc::EIO)),
            count if count > 0 => {
                let len = job.request.len as usize;
                let mut done = job.done + count as usize;
                if done < len && job.target.direct {
                    // What is left must be aligned again; the kernel stops inside a block only at
                    // the end of a file.
                    done -= done % alignment;
                    if done <= job.done {
                        return Some(Err(libc::EIO));
                    }
                }
                job.done = done;
                if done >= len {
                    return Some(Ok(()));
                }
            }
            error if error == -libc::EINTR || error == -libc::EAGAIN => {}
            error => return Some(Err(-error)),
        }
        self.run_ring(handle).err().map(Err)
    }

    /// The counters and gate of an export; made when it is first used on this shard. `None`: the
    /// volume has no gate here, it has none yet or is being closed.
    pub fn attach(&mut self, volume: &Arc<Volume>, export: String) -> Option<Rc<Attachment>> {
        let entry = self.volumes.get(&volume.id())?.clone();
        let attachment = self.attachments.entry((volume.id(), export)).or_insert_with_key(|(_, export)| {
            Rc::new(Attachment { entry, export: export.clone(), counts: RefCell::default() })
        });
        Some(attachment.clone())
    }

    /// The shard's entry of a volume.
    pub fn entry(&mut self, volume: &Arc<Volume>) -> Rc<Entry> {
        self.volumes
            .entry(volume.id())
            .or_insert_with(|| {
                let (tasks, task_bytes) = (Cell::new(0), Cell::new(0));
                Rc::new(Entry { volume: volume.clone(), gate: RefCell::new(None), tasks, task_bytes })
            })
            .clone()
    }
}

/// CLOCK_BOOTTIME in nanoseconds: the clock of leases, which do not wait for a machine that sleeps.
pub fn boottime_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid timespec to fill; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_takes_a_page_before_its_area_and_no_more() {
        let mut scratch = Scratch::new();
        assert_eq!(scratch.area(1).as_ptr() as usize % PAGE, 0);
        assert!(scratch.put_before(&[7; PAGE]));
        assert_eq!(scratch.filled(PAGE, 0), [7; PAGE]);
        assert!(!scratch.put_before(&[7; PAGE + 1]));
    }
}
