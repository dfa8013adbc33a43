//! The engine as the control side sees it: shards, volumes, listeners. Free of Python.
//!
//! Methods may be called from any thread. What changes a shard's state is a message to it, and a
//! method returns when every shard concerned has answered; shards never block, so that is soon.

use std::collections::HashMap;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{channel, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::context::Ctx;
use super::control::{Attach, Control, Then};
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
use crate::block::volume::{Volume, VolumeSpec};
use crate::nbd::admit::Negotiated;

/// A shard keeps little on its stack.
const STACK_BYTES: usize = 512 << 10;

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
    next_handle: AtomicU64,
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
        let mut engine = Self {
            limits,
            io: "",
            shared,
            threads: Mutex::default(),
            volumes: Mutex::default(),
            next_handle: AtomicU64::new(1),
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
                let ctx = Ctx::new(limits, shared.lanes.clone(), mailbox, poller);
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
        let answers: Vec<_> = self
            .shared
            .mailboxes
            .iter()
            .map(|mailbox| {
                let (tell, told) = channel();
                mailbox.post_control(message(tell));
                told
            })
            .collect();
        answers.into_iter().filter_map(|told| told.recv().ok()).collect()
    }

    /// Drains, closes everything, ends the threads. A second call does nothing.
    pub fn stop(&self, drain_ms: u64) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        for mailbox in &self.shared.mailboxes {
            mailbox.post_control(Control::Stop { drain_ms });
        }
        for thread in threads {
            let _ = thread.join();
        }
        for known in std::mem::take(&mut *lock(&self.volumes)).into_values() {
            // Nothing more can be done about a back end that still hangs after the drain.
            let _ = known.volume.close(Duration::from_millis(drain_ms.min(1000)));
        }
    }

    fn volume(&self, handle: u64) -> Result<Arc<Volume>, Refused> {
        let volumes = lock(&self.volumes);
        let known = volumes.get(&handle);
        known.map(|known| known.volume.clone()).ok_or_else(|| Refused::new(libc::ENOENT, format!("no volume {handle}")))
    }

    /// Opens and locks a volume; gives its handle. Requests are refused until it has a gate. May block.
    pub fn open_volume(&self, spec: VolumeSpec) -> Result<u64, Refused> {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let lanes = self.shared.lanes.clone();
        let told = move |reason: &str| {
            lanes.post_urgent(Event::Degraded { volume: handle, reason: reason.to_owned() });
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

    /// Ends its sessions, drains, flushes, closes. Blocks, for about `drain_ms` at most; EBUSY
    /// when requests are still in flight then (it stays locked; call again).
    pub fn close_volume(&self, handle: u64, drain_ms: u64) -> Result<(), Refused> {
        let volume = self.volume(handle)?;
        self.ask_all(|done| Control::DropVolume { volume: handle, done });
        let closed = volume.close(Duration::from_millis(drain_ms));
        match closed {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(Refused::new(libc::EBUSY, "requests are still in flight"));
            }
            _ => lock(&self.volumes).remove(&handle),
        };
        closed.map_err(|error| Refused::from_io("closing the volume", &error))
    }

    /// Puts a gate in force; returns when every shard uses it.
    pub fn swap_gate(&self, handle: u64, gate: Gate) -> Result<(), Refused> {
        let volume = {
            let mut volumes = lock(&self.volumes);
            let known =
                volumes.get_mut(&handle).ok_or_else(|| Refused::new(libc::ENOENT, format!("no volume {handle}")))?;
            if gate.generation < known.generation {
                let text = format!("gate {} is older than {}", gate.generation, known.generation);
                return Err(Refused::new(libc::EINVAL, text));
            }
            known.generation = gate.generation;
            known.volume.clone()
        };
        let (size, gate) = (gate.size, Arc::new(gate));
        self.ask_all(|done| Control::SetGate { volume: volume.clone(), gate: gate.clone(), done });
        volume.expect_size(size);
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
    pub fn add_listener(&self, fd: RawFd, label: &str) -> Result<u64, Refused> {
        let fd = net::own_listener(fd).map_err(|error| Refused::from_io("adding a listener", &error))?;
        let id = self.next_handle.fetch_add(1, Ordering::Relaxed);
        // Accepting is little work; the first shard does it for all.
        self.shared.mailboxes[0].post_control(Control::AddListener { id, fd, label: label.into() });
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

    /// Ends a connection; false: there is none of that number.
    pub fn disconnect(&self, conn: u64) -> bool {
        let Some(mailbox) = self.shared.mailbox_of(conn) else { return false };
        let (known, told) = channel();
        mailbox.post_control(Control::Disconnect { conn, known });
        told.recv().unwrap_or(false)
    }

    /// All connections.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.ask_all(Control::Sessions).into_iter().flatten().collect()
    }

    /// All requests in flight, or stuck.
    pub fn tasks(&self) -> Vec<TaskStatus> {
        self.ask_all(Control::Tasks).into_iter().flatten().collect()
    }

    /// The shards' counters, and those of exports (one entry for each shard that served it).
    pub fn counters(&self) -> (Vec<ShardCounters>, Vec<ExportCounters>) {
        let (shards, exports): (Vec<_>, Vec<_>) = self.ask_all(Control::Counters).into_iter().unzip();
        (shards, exports.into_iter().flatten().collect())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop(0);
    }
}
