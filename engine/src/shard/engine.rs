//! The engine as the control side sees it: shards, volumes, listeners. Free of Python.
//!
//! Methods may be called from any thread. What changes a shard's state is a message to it, and a
//! method returns when every shard concerned has answered; shards never block, so that is soon. A shard
//! that is stuck nevertheless must not take the view of the others away: status calls leave it out.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{sleep, Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::context::{boottime_ns, Ctx};
use super::control::{Attach, Control, Protocol, Then};
use super::events::{Event, Lanes};
use super::limits::Limits;
use super::mailbox::Mailbox;
use super::net;
use super::poller::{self, IoPath};
use super::reactor::Reactor;
use super::shared::{Shared, MAX_SHARDS};
use super::status::{ExportCounters, SessionStatus, ShardCounters, TaskStatus};
use super::tls_config::TlsConfig;
use crate::backstores::OpenError;
use crate::block::gate::Gate;
use crate::block::jobs::Jobs;
use crate::block::volume::{Volume, VolumeSpec};
use crate::nbd::admit::Negotiated;

mod iscsi;

pub use iscsi::{AbortOrder, LunMapSpec};

/// A shard keeps little on its stack.
const STACK_BYTES: usize = 512 << 10;

/// So long a status call waits for a shard. One that is well answers within a turn.
const STATUS_WAIT: Duration = Duration::from_secs(1);

/// So long a shard has to end, after its drain.
const SHARD_WAIT: Duration = Duration::from_secs(1);

/// So long storage has at least, at the end, to make stable what it was given.
const FLUSH_WAIT: Duration = Duration::from_secs(3);

/// Answers of shards, and how many have given none.
struct Answers<T> {
    of: Vec<T>,
    missing: usize,
}

fn no_volume(handle: u64) -> Refused {
    Refused::new(libc::ENOENT, format!("no volume {handle}"))
}

/// Why a volume is not closed yet.
fn busy(volume: &Volume) -> &'static str {
    match volume.in_flight() {
        0 => "its data is still being made stable",
        _ => "requests are still in flight",
    }
}

/// What the engine refuses: an errno and a text.
#[derive(Debug)]
pub struct Refused {
    pub errno: i32,
    pub text: String,
}

impl Refused {
    /// With words of our own.
    pub fn new(errno: i32, text: impl Into<String>) -> Self {
        Self { errno, text: text.into() }
    }

    /// A system's error, and what was being done.
    pub fn from_io(doing: &str, error: &io::Error) -> Self {
        Self::new(error.raw_os_error().unwrap_or(libc::EIO), format!("{doing}: {error}"))
    }
}

impl From<OpenError> for Refused {
    fn from(error: OpenError) -> Self {
        Self::new(error.errno, error.message)
    }
}

/// How a connection enters its transmission phase; see `TransmitParams` in `_engine.pyi`.
#[derive(Clone, Debug)]
pub struct Transmit {
    pub volume: u64,
    pub export: String,
    pub read_only: bool,
    pub structured: bool,
    pub extended: bool,
    pub contexts: Vec<u32>,
    pub minimum_block: u32,
}

struct Known {
    volume: Arc<Volume>,
    generation: u64,
}

/// See the module's text.
pub struct Engine {
    limits: Limits,
    io: &'static str,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    volumes: Mutex<HashMap<u64, Known>>,
    jobs: Jobs,
    next_handle: AtomicU64,
    /// Shards that did not answer the last status call.
    silent: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these guard is consistent between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Starts the shards. `shards` 0: one for each core, at most eight.
    pub fn start(shards: usize, path: IoPath, limits: Limits) -> Result<Self, Refused> {
        if shards > MAX_SHARDS {
            return Err(Refused::new(libc::EINVAL, format!("at most {MAX_SHARDS} shards, not {shards}")));
        }
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        let shards = if shards == 0 { cores.min(MAX_SHARDS) } else { shards };
        let trouble = |error: io::Error| Refused::from_io("starting the engine", &error);
        let lanes = Arc::new(Lanes::new(limits.connections).map_err(trouble)?);
        let mailboxes: Result<Vec<_>, _> = (0..shards).map(|_| Mailbox::new(limits.tasks_per_shard as usize)).collect();
        let shared = Arc::new(Shared::new(lanes, mailboxes.map_err(trouble)?));
        let (lanes, lease) = (shared.lanes.clone(), shared.lease.clone());
        let on_done = move |job, errno, done_bytes| lanes.post(Event::JobDone { job, errno, done_bytes });
        let mut engine = Self {
            limits,
            io: "",
            shared,
            threads: Mutex::default(),
            volumes: Mutex::default(),
            jobs: Jobs::new(Box::new(on_done), lease),
            next_handle: AtomicU64::new(1),
            silent: AtomicUsize::new(0),
        };
        // The first shard finds out which path there is; the others take the same.
        let mut path = path;
        for index in 0..shards {
            match engine.start_shard(index, path) {
                Ok(name) => engine.io = name,
                Err(error) => {
                    engine.stop(0);
                    return Err(Refused::from_io("starting a shard", &error));
                }
            }
            path = if engine.io == "io_uring" { IoPath::Uring } else { IoPath::Epoll };
        }
        Ok(engine)
    }

    fn start_shard(&self, index: usize, path: IoPath) -> io::Result<&'static str> {
        let (tell, told) = channel();
        let (shared, limits) = (self.shared.clone(), self.limits.clone());
        let thread = Builder::new().name(format!("shard-{index}")).stack_size(STACK_BYTES).spawn(move || {
            let made = poller::open(path).and_then(|poller| {
                let name = poller.name();
                let mailbox = shared.mailboxes[index].clone();
                let mut ctx = Ctx::new(limits, shared.lanes.clone(), mailbox, poller);
                ctx.lease = shared.lease.clone();
                Ok((Reactor::new(index, ctx, shared)?, name))
            });
            match made {
                Ok((reactor, name)) => {
                    let _ = tell.send(Ok(name));
                    reactor.run();
                }
                Err(error) => {
                    let _ = tell.send(Err(error));
                }
            }
        })?;
        lock(&self.threads).push(thread);
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended")))
    }

    /// "io_uring" or "epoll".
    pub fn io(&self) -> &'static str {
        self.io
    }

    /// How many shards run.
    pub fn shards(&self) -> usize {
        self.shared.mailboxes.len()
    }

    /// The bounds that are in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Readable while events wait.
    pub fn event_fd(&self) -> RawFd {
        self.shared.lanes.fd()
    }

    /// Up to `limit` events; never waits.
    pub fn next_events(&self, limit: usize) -> Vec<Event> {
        self.shared.lanes.take(limit)
    }

    /// Sends every shard a message and collects the answers. A shard that has ended has none.
    fn ask_all<T>(&self, message: impl Fn(Sender<T>) -> Control) -> Vec<T> {
        self.post_all(message).into_iter().filter_map(|told| told.recv().ok()).collect()
    }

    /// The same for those that must not wait for a shard that is stuck: what has come by
    /// `deadline`, and how many shards have not answered.
    fn ask_by<T>(&self, deadline: Instant, message: impl Fn(Sender<T>) -> Control) -> Answers<T> {
        let mut answers = Answers { of: Vec::new(), missing: 0 };
        for told in self.post_all(message) {
            match told.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(answer) => answers.of.push(answer),
                Err(RecvTimeoutError::Timeout) => answers.missing += 1,
                Err(RecvTimeoutError::Disconnected) => {}
            }
        }
        answers
    }

    fn ask_status<T>(&self, message: impl Fn(Sender<T>) -> Control) -> Vec<T> {
        let answers = self.ask_by(Instant::now() + STATUS_WAIT, message);
        self.silent.store(answers.missing, Ordering::Relaxed);
        answers.of
    }

    /// How many shards did not answer the last status call in time (theirs is missing from its answer).
    pub fn silent_shards(&self) -> usize {
        self.silent.load(Ordering::Relaxed)
    }

    fn post_all<T>(&self, message: impl Fn(Sender<T>) -> Control) -> Vec<Receiver<T>> {
        let post = |mailbox: &Arc<Mailbox>| {
            let (tell, told) = channel();
            mailbox.post_control(message(tell));
            told
        };
        self.shared.mailboxes.iter().map(post).collect()
    }

    /// Drains for `drain_ms` at most, closes everything, ends the threads; what is then to be made
    /// stable has the rest of that time, or [`FLUSH_WAIT`] if that is more. Gives what is not over, or
    /// not well: storage that hangs is left to itself, and stays locked until the process ends. A second
    /// call does nothing.
    pub fn stop(&self, drain_ms: u64) -> Vec<String> {
        let drained_by = Instant::now() + Duration::from_millis(drain_ms);
        self.jobs.cancel_all();
        let mut left = self.stop_shards(drain_ms, drained_by + SHARD_WAIT);
        let stable_by = drained_by.max(Instant::now() + FLUSH_WAIT);
        let volumes: Vec<_> = mem::take(&mut *lock(&self.volumes)).into_values().map(|known| known.volume).collect();
        // All at the same time, under one deadline.
        volumes.iter().for_each(|volume| volume.begin_close());
        for volume in volumes {
            if let Err(error) = volume.close_by(drained_by, stable_by) {
                let why = match error.raw_os_error() {
                    Some(libc::EBUSY) => busy(&volume).to_owned(),
                    _ => error.to_string(),
                };
                left.push(format!("{}: {why}", volume.spec().path.display()));
            }
        }
        left
    }

    /// A shard that is stuck is left behind.
    fn stop_shards(&self, drain_ms: u64, deadline: Instant) -> Vec<String> {
        let threads = mem::take(&mut *lock(&self.threads));
        if !threads.is_empty() {
            for mailbox in &self.shared.mailboxes {
                mailbox.post_control(Control::Stop { drain_ms });
            }
        }
        let mut stuck = Vec::new();
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                sleep(Duration::from_millis(1));
            }
            match thread.is_finished() {
                true => drop(thread.join()),
                false => stuck.push(format!("{}: does not answer", thread.thread().name().unwrap_or("a shard"))),
            }
        }
        stuck
    }

    /// Lets requests be given to volumes for `ttl_ms` from now on; 0: without end, as it is before the first call.
    /// False: the lease had lapsed, and what came meanwhile was refused.
    pub fn renew_lease(&self, ttl_ms: u64) -> bool {
        let renewed = self.shared.lease.renew(boottime_ns(), ttl_ms);
        if renewed.is_sooner {
            self.shared.mailboxes.iter().for_each(|mailbox| mailbox.post_control(Control::Lease));
        }
        renewed.was_valid
    }

    /// Long work on its volumes. A job of a volume that is closed ends with `ESHUTDOWN`.
    pub fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// An open volume.
    pub fn volume(&self, handle: u64) -> Result<Arc<Volume>, Refused> {
        let volumes = lock(&self.volumes);
        let known = volumes.get(&handle);
        known.map(|known| known.volume.clone()).ok_or_else(|| no_volume(handle))
    }

    /// Opens and locks a volume; gives its handle. Requests are refused until it has a gate. May block.
    pub fn open_volume(&self, spec: VolumeSpec) -> Result<u64, Refused> {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let lanes = self.shared.lanes.clone();
        let told = move |reason: &str, writes_refused| {
            lanes.post_urgent(Event::Degraded { volume: handle, reason: reason.to_owned(), writes_refused });
        };
        let volume = Volume::open(handle, spec, Box::new(told))?;
        lock(&self.volumes).insert(handle, Known { volume, generation: 0 });
        Ok(handle)
    }

    /// Takes in a volume that is made outside, whatever its back end; gives its handle.
    pub fn add_volume(&self, make: impl FnOnce(u64) -> Arc<Volume>) -> u64 {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        lock(&self.volumes).insert(handle, Known { volume: make(handle), generation: 0 });
        handle
    }

    /// Ends its sessions, drains, flushes, closes. Blocks, for `drain_ms` at most; EBUSY when
    /// that is not over by then (it stays locked; call again).
    pub fn close_volume(&self, handle: u64, drain_ms: u64) -> Result<(), Refused> {
        let deadline = Instant::now() + Duration::from_millis(drain_ms);
        let volume = self.volume(handle)?;
        let answers = self.ask_by(deadline, |done| Control::DropVolume { volume: handle, done });
        if answers.missing > 0 {
            return Err(Refused::new(libc::EBUSY, "a shard does not answer"));
        }
        let closed = volume.close_by(deadline, deadline);
        match closed {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(Refused::new(libc::EBUSY, busy(&volume)));
            }
            _ => lock(&self.volumes).remove(&handle),
        };
        closed.map_err(|error| Refused::from_io("closing the volume", &error))
    }

    /// Puts a gate in force; returns when every shard uses it, or one that is newer.
    pub fn swap_gate(&self, handle: u64, gate: Gate) -> Result<(), Refused> {
        let (size, generation, gate) = (gate.size, gate.generation, Arc::new(gate));
        let (volume, answers) = {
            let mut volumes = lock(&self.volumes);
            let known = volumes.get_mut(&handle).ok_or_else(|| no_volume(handle))?;
            if generation < known.generation {
                let text = format!("gate {generation} is older than {}", known.generation);
                return Err(Refused::new(libc::EINVAL, text));
            }
            known.generation = generation;
            let volume = known.volume.clone();
            // Posted under the lock: shards get gates in the order of their generations.
            let answers = self.post_all(|done| Control::SetGate { volume: volume.clone(), gate: gate.clone(), done });
            (volume, answers)
        };
        for told in answers {
            // A shard that has ended uses no gate.
            let _ = told.recv();
        }
        // Only the newest gate says what clients see; under the lock, so that it stays the newest.
        let volumes = lock(&self.volumes);
        if volumes.get(&handle).is_some_and(|known| known.generation == generation) {
            volume.expect_size(size);
        }
        Ok(())
    }

    /// Looks again how large the storage is, bytes. May block.
    pub fn resize_volume(&self, handle: u64) -> Result<u64, Refused> {
        self.volume(handle)?.refresh_size().map_err(|error| Refused::from_io("looking at the size", &error))
    }

    /// Looks whether the storage is still what it was. May block.
    pub fn check_volume(&self, handle: u64) -> Result<(), Refused> {
        self.volume(handle)?.check();
        Ok(())
    }

    /// All open volumes, by handle.
    pub fn volumes(&self) -> Vec<Arc<Volume>> {
        let mut all: Vec<_> = lock(&self.volumes).values().map(|known| known.volume.clone()).collect();
        all.sort_by_key(|volume| volume.id());
        all
    }

    /// Serves a listening socket (the descriptor is duplicated); gives the listener's number.
    pub fn add_listener(&self, fd: RawFd, label: &str, protocol: Protocol) -> Result<u64, Refused> {
        let fd = net::own_listener(fd).map_err(|error| Refused::from_io("adding a listener", &error))?;
        let id = self.next_handle.fetch_add(1, Ordering::Relaxed);
        // Accepting is little work; the first shard does it for all.
        self.shared.mailboxes[0].post_control(Control::AddListener { id, fd, label: label.into(), protocol });
        Ok(id)
    }

    /// No further connections come by it.
    pub fn remove_listener(&self, id: u64) {
        self.ask_all(|done| Control::RemoveListener { id, done });
    }

    /// Sends `data` in the handshake. A connection that is gone is none of the caller's errors.
    pub fn reply(&self, conn: u64, data: Vec<u8>, then: Then) {
        if let Some(mailbox) = self.shared.mailbox_of(conn) {
            mailbox.post_control(Control::Reply { conn, data, then });
        }
    }

    /// Sends `data`, then serves requests.
    pub fn transmit(&self, conn: u64, data: Vec<u8>, how: Transmit) -> Result<(), Refused> {
        let volume = self.volume(how.volume)?;
        if !how.minimum_block.is_power_of_two() {
            return Err(Refused::new(libc::EINVAL, "the minimum block size is a power of two"));
        }
        let terms = Negotiated {
            structured: how.structured || how.extended,
            extended: how.extended,
            read_only: how.read_only,
            contexts: how.contexts,
            minimum_block: how.minimum_block,
            ..Negotiated::plain(&self.limits)
        };
        if let Some(mailbox) = self.shared.mailbox_of(conn) {
            let attach = Attach { volume, export: how.export, terms };
            mailbox.post_control(Control::Transmit { conn, data, attach });
        }
        Ok(())
    }

    /// What TLS handshakes use from now on.
    pub fn set_tls(&self, config: Option<TlsConfig>) {
        let config = config.map(Arc::new);
        self.ask_all(|done| Control::SetTls { config: config.clone(), done });
    }

    /// Ends a connection; false: there is none of that number (or its shard is stuck).
    pub fn disconnect(&self, conn: u64) -> bool {
        let Some(mailbox) = self.shared.mailbox_of(conn) else { return false };
        let (known, told) = channel();
        mailbox.post_control(Control::Disconnect { conn, known });
        told.recv_timeout(STATUS_WAIT).unwrap_or(false)
    }

    /// Returns when every shard has taken in what had come for it: a connection that its peer had closed is lost,
    /// and Python's to hear of. A shard that is stuck is not waited for long.
    pub fn settle(&self) {
        self.ask_by(Instant::now() + STATUS_WAIT, Control::Settle);
    }

    /// All connections.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.ask_status(Control::Sessions).into_iter().flatten().collect()
    }

    /// All requests in flight, or stuck.
    pub fn tasks(&self) -> Vec<TaskStatus> {
        self.ask_status(Control::Tasks).into_iter().flatten().collect()
    }

    /// The shards' counters, and those of exports (one entry for each shard that served it).
    pub fn counters(&self) -> (Vec<ShardCounters>, Vec<ExportCounters>) {
        let (shards, exports): (Vec<_>, Vec<_>) = self.ask_status(Control::Counters).into_iter().unzip();
        (shards, exports.into_iter().flatten().collect())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop(0);
    }
}
