//! Files and block devices.
//!
//! | file | what |
//! |---|---|
//! | `open.rs` | opening and locking |
//! | `probe.rs` | what the file system can do |
//! | `inline.rs` | what is done at once, on the shard's thread |
//! | `mapped.rs` | large reads out of the page cache without a copy |
//! | `transfer.rs` | reading and writing, direct mode's unaligned edges |
//! | `zero.rs`, `extents.rs` | TRIM, WRITE_ZEROES, BLOCK_STATUS |
//! | `compound.rs` | COMPARE AND WRITE and the like: more than one transfer |
//! | `syncs.rs`, `flush.rs`, `underway.rs` | making things stable, and what may be called so |
//! | `fault.rs` | what a failure means for the volume |
//! | `sys.rs` | the system calls |

mod compound;
mod extents;
mod fault;
mod flush;
mod inline;
pub mod mapped;
mod open;
mod probe;
mod quick;
mod syncs;
mod sys;
mod transfer;
mod underway;
mod zero;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::fault::Fault;
use self::flush::Flushes;
use self::mapped::{Mapped, MappedBytes};
use self::probe::Traits;
use self::quick::Quickness;
use self::syncs::Syncs;
use self::underway::Underway;
use self::zero::Lacks;
use super::workers::{Work, Workers, IDLE_EXIT};
use super::{Attempt, Backstore, Completion, OpenError, RingTarget};
use crate::block::command::{Errno, Op, Outcome, Request, MAX_EXTENTS};
use crate::block::health::{Health, HealthCell, OnDegraded};
use crate::block::volume::VolumeSpec;

/// Writes look at the file's size and name this often, milliseconds.
const GLANCE_MS: u64 = 100;

/// An open file or device. Everything here may block, but for what `inline.rs` does.
struct File {
    /// Holds the lock. Beside reads and plain writes it does what `flush.rs` does, and no other sync.
    fd: OwnedFd,
    /// See `transfer.rs`; direct mode only.
    tail: Option<OwnedFd>,
    /// Where the volume starts, bytes.
    base: u64,
    /// The volume's length as it was asked for; `None`: to the end of the file.
    length: Option<u64>,
    /// Bytes of the volume.
    size: AtomicU64,
    /// Bytes of the volume that clients see: the file must not be shorter.
    expected: AtomicU64,
    read_only: bool,
    write_through: bool,
    is_device: bool,
    /// Bytes; 1 unless direct.
    alignment: u32,
    /// The device's logical block, bytes; 1 for a file.
    device_block: u32,
    traits: Traits,
    /// `RWF_NOWAIT` was refused: not tried again.
    no_nowait: AtomicBool,
    opened: Instant,
    /// When the last write looked whether the file is still what it was, milliseconds after `opened`.
    glanced_ms: AtomicU64,
    quick: Quickness,
    lacks: Lacks,
    mapped: Mapped,
    syncs: Syncs,
    underway: Underway,
    flushes: Flushes,
    health: HealthCell,
    closed: AtomicBool,
}

impl File {
    fn open(spec: &VolumeSpec, on_degraded: OnDegraded) -> Result<File, OpenError> {
        let opened = open::open(spec)?;
        let health = HealthCell::new(on_degraded);
        if let Some(why) = &spec.suspect {
            health.refuse_writes(|| why.clone());
        }
        let device_block = match opened.is_device {
            true => sys::device_block(&opened.fd).map_err(|e| OpenError::from_io("BLKSSZGET", &e))?,
            false => 1,
        };
        Ok(File {
            fd: opened.fd,
            tail: opened.tail,
            base: spec.offset,
            length: spec.length,
            size: AtomicU64::new(opened.size),
            expected: AtomicU64::new(opened.size),
            read_only: spec.read_only,
            write_through: spec.write_through,
            is_device: opened.is_device,
            alignment: opened.alignment,
            device_block,
            traits: opened.traits,
            no_nowait: AtomicBool::new(false),
            opened: Instant::now(),
            glanced_ms: AtomicU64::new(0),
            quick: Quickness::new(),
            lacks: Lacks::default(),
            mapped: Mapped::default(),
            syncs: Syncs::new(open::flags(spec)),
            underway: Underway::default(),
            flushes: Flushes::default(),
            health,
            closed: AtomicBool::new(false),
        })
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn is_direct(&self) -> bool {
        self.tail.is_some()
    }

    /// Must the request be stable before it is answered?
    fn is_stable(&self, req: &Request) -> bool {
        req.op == Op::WriteVerify || req.op.is_write() && (req.flags.fua || self.write_through)
    }

    /// May the request be carried out at all, as things are?
    fn check_allowed(&self, req: &Request) -> Result<(), Fault> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Fault::Refused(libc::ESHUTDOWN));
        }
        if req.op.is_write() || req.op == Op::Flush {
            if self.health.writes_refused() {
                return Err(Fault::Refused(libc::EIO));
            }
            if self.read_only && req.op != Op::Flush {
                return Err(Fault::Refused(libc::EROFS));
            }
        }
        // The gate has checked the range against what clients see. Once more against what there
        // is, for behind the volume may be a pool's label.
        match req.offset.checked_add(req.len) {
            Some(end) if end <= self.size() => Ok(()),
            _ => Err(Fault::beyond(req.op)),
        }
    }

    /// Carry out anything but a FLUSH. Blocks.
    fn execute(&self, req: &mut Request) -> Result<(), Errno> {
        self.attempt(req).map_err(|fault| {
            if let (Op::Read, Fault::Read(_, at)) = (req.op, &fault) {
                // It may have begun before the range, to read whole blocks.
                req.failed_at = Some(at.saturating_sub(self.base + req.offset));
            }
            // Either the file is short, or the clients' view of its size is just being changed.
            let fault = match fault {
                Fault::Beyond(_) => self.check_present().err().unwrap_or(fault),
                other => other,
            };
            fault.settle(req.op.name(), &self.health)
        })
    }

    fn attempt(&self, req: &mut Request) -> Result<(), Fault> {
        self.check_allowed(req)?;
        let start = self.base + req.offset;
        let end = start + req.len;
        let stable = self.is_stable(req);
        if req.len == 0 && req.op != Op::Flush {
            req.extents.iter_mut().for_each(Vec::clear);
            return Ok(());
        }
        if is_of_the_medium(req) {
            self.flush()?;
        }
        match req.op {
            Op::Read => self.read(buf_of(req)?, start)?,
            Op::Write => {
                self.glance();
                self.write(buf_of(req)?, start, stable)?;
            }
            Op::Flush => self.flush()?,
            Op::Discard => self.discard(start, end, stable)?,
            Op::WriteZeroes => self.write_zeroes(start, end, req.flags, stable)?,
            Op::Cache => self.cache(start, req.len)?,
            Op::BlockStatus => self.block_status(req)?,
            Op::Verify => self.verify(req, start)?,
            Op::CompareAndWrite => self.compare_and_write(req, start, stable)?,
            Op::OrWrite => self.or_write(req, start, stable)?,
            Op::WriteVerify => self.write_verify(req, start)?,
            Op::WriteSame => self.write_same(req, start, end, stable)?,
            Op::Unmap => self.unmap(req, stable)?,
        }
        match stable {
            true => self.check_written(),
            false => Ok(()),
        }
    }

    fn cache(&self, start: u64, len: u64) -> Result<(), Fault> {
        match self.is_direct() {
            true => Ok(()),
            false => Ok(sys::will_need(self.fd.as_raw_fd(), start, len)?),
        }
    }

    fn block_status(&self, req: &mut Request) -> Result<(), Fault> {
        let start = self.base + req.offset;
        let limit = if req.flags.req_one { 1 } else { MAX_EXTENTS };
        let extents = req.extents.get_or_insert_default();
        extents::describe(self.fd.as_raw_fd(), start, start + req.len, limit, extents)?;
        // Behind its end a file looks like one that ends in a hole.
        match extents.last() {
            Some(last) if last.flags != 0 => self.check_present(),
            _ => Ok(()),
        }
    }

    /// Is the file still there, and as long as clients think it is?
    fn check_present(&self) -> Result<(), Fault> {
        let stat = sys::stat(&self.fd)?;
        if stat.is_file && stat.is_deleted {
            return Err(Fault::Deleted);
        }
        let have = if stat.is_device { sys::device_size(&self.fd)? } else { stat.size };
        let want = self.base + self.expected.load(Ordering::Relaxed);
        match have < want {
            true => Err(Fault::Shrunk { have, want }),
            false => Ok(()),
        }
    }

    /// Does a write that ends at `end` (bytes of the file) reach the end that clients know?
    fn reaches_the_end(&self, end: u64) -> bool {
        !self.is_device && end >= self.base + self.expected.load(Ordering::Relaxed)
    }

    /// Of a file that was cut short a write makes only as much as lies before the write's own end long
    /// again, with a hole in it: the next FLUSH finds it too short. One write alone would hide
    /// the cut for good, that which reaches the file's last byte. So that one looks first, and is refused
    /// where the file is short already; no other write pays for it.
    fn check_before_the_end(&self, end: u64) -> Result<(), Fault> {
        match self.reaches_the_end(end) {
            true => self.check_present(),
            false => Ok(()),
        }
    }

    /// Look at the file now and then while it is being written to, so that a cut is told before the
    /// next FLUSH comes; the write itself goes on.
    fn glance(&self) {
        let now_ms = self.opened.elapsed().as_millis() as u64;
        let last_ms = self.glanced_ms.load(Ordering::Relaxed);
        if now_ms - last_ms.min(now_ms) < GLANCE_MS {
            return;
        }
        self.glanced_ms.store(now_ms, Ordering::Relaxed);
        if let Err(fault) = self.check_present() {
            fault.settle(Op::Write.name(), &self.health);
        }
    }

    /// A read came to the file's end early, at `have`.
    fn shrunk(&self, have: u64) -> Fault {
        match self.base + self.expected.load(Ordering::Relaxed) {
            want if have < want => Fault::Shrunk { have, want },
            _ => Fault::beyond(Op::Read),
        }
    }

    fn refresh_size(&self) -> io::Result<u64> {
        let have = if self.is_device { sys::device_size(&self.fd)? } else { sys::stat(&self.fd)?.size };
        let room = have.saturating_sub(self.base);
        let size = self.length.map_or(room, |length| length.min(room));
        self.size.store(size, Ordering::Relaxed);
        Ok(size)
    }

    /// Make stable, let go. What comes after finds nothing to read or write. `ENOTRECOVERABLE`: what was acknowledged
    /// is lost, and no client has been told.
    fn close(&self) -> io::Result<()> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let is_told = self.health.writes_refused();
        let flushed = self.flush().map_err(|fault| {
            let errno = fault.settle("close", &self.health);
            match self.health.writes_refused() && !is_told {
                true => libc::ENOTRECOVERABLE,
                false => errno,
            }
        });
        self.syncs.clear();
        self.mapped.clear();
        if let Some(tail) = &self.tail {
            sys::hollow_out(tail)?;
        }
        sys::hollow_out(&self.fd)?;
        flushed.map_err(io::Error::from_raw_os_error)
    }
}

/// Must what is in the cache come to the medium first? A READ with FUA and a VERIFY are about what is there
/// (SBC-3 4.15). Of a write-through volume, too: a write that was refused, its sync having failed, is in the cache.
fn is_of_the_medium(req: &Request) -> bool {
    req.op == Op::Verify || req.op == Op::Read && req.flags.fua
}

/// The data of a READ or WRITE; a front end that forgot it is told so.
fn buf_of(req: &mut Request) -> Result<&mut [u8], Fault> {
    debug_assert!(req.buf.as_ref().is_some_and(|buf| buf.len() as u64 == req.len));
    req.buf.as_deref_mut().filter(|buf| buf.len() as u64 == req.len).ok_or(Fault::Os(libc::EINVAL))
}

/// What the volume's threads do.
enum Job {
    Run(Request, Completion),
    /// Answer the FLUSHes that wait.
    Flush,
}

impl Work for File {
    type Job = Job;

    fn run(&self, job: Job) {
        match job {
            Job::Run(mut request, done) => {
                if request.op.is_exclusive() {
                    self.wait_until_alone(&request);
                }
                let result = self.execute(&mut request);
                done.post(Outcome { request, result });
            }
            Job::Flush => self.run_flushes(),
        }
    }

    fn idle(&self) {
        self.syncs.clear();
    }
}

/// See the module's text.
pub struct FileBackstore {
    file: Arc<File>,
    workers: Workers<File>,
}

impl FileBackstore {
    /// Open and lock what `spec` names. `id` names the volume's threads. May block.
    pub fn open(id: u64, spec: &VolumeSpec, on_degraded: OnDegraded) -> Result<Self, OpenError> {
        Self::open_with(id, spec, on_degraded, IDLE_EXIT)
    }

    fn open_with(id: u64, spec: &VolumeSpec, on_degraded: OnDegraded, idle_exit: Duration) -> Result<Self, OpenError> {
        let file = Arc::new(File::open(spec, on_degraded)?);
        let workers = Workers::new(format!("bg-vol-{id}"), file.clone(), idle_exit);
        Ok(FileBackstore { file, workers })
    }

    /// The file system's kind, for messages.
    pub fn kind(&self) -> &'static str {
        self.file.traits.name
    }

    fn submit_flush(&self, req: Request, done: Completion) {
        if self.file.flushes.join(req, done) {
            self.push(Job::Flush);
        }
    }

    fn push(&self, job: Job) {
        let Err(jobs) = self.workers.push(job) else { return };
        let errno = match self.file.closed.load(Ordering::Relaxed) {
            true => libc::ESHUTDOWN,
            false => libc::ENOMEM,
        };
        for job in jobs {
            match job {
                Job::Run(request, done) => done.post(Outcome { request, result: Err(errno) }),
                Job::Flush => self.file.flushes.refuse(errno),
            }
        }
    }
}

impl Backstore for FileBackstore {
    fn size(&self) -> u64 {
        self.file.size()
    }

    fn alignment(&self) -> u32 {
        self.file.alignment
    }

    fn try_now(&self, req: &mut Request) -> Attempt {
        self.file.try_now(req)
    }

    fn map_read(&self, offset: u64, len: usize) -> Option<MappedBytes> {
        self.file.map_read(offset, len)
    }

    fn ring_target(&self, req: &Request) -> Option<RingTarget> {
        self.file.ring_target(req)
    }

    fn submit(&self, req: Request, done: Completion) {
        if req.op == Op::Flush {
            return self.submit_flush(req, done);
        }
        self.push(Job::Run(req, done));
    }

    fn note_ring_result(&self, req: &Request, result: &Result<(), Errno>) {
        if let Err(errno) = result {
            // A read behind the end of a shrunk file says EIO too: find out which it is.
            let is_beyond = req.end() > self.file.expected.load(Ordering::Relaxed);
            let otherwise = if is_beyond { Fault::beyond(req.op) } else { Fault::Os(*errno) };
            let fault = self.file.check_present().err().unwrap_or(otherwise);
            fault.settle(req.op.name(), &self.file.health);
        }
    }

    fn health(&self) -> Health {
        self.file.health.snapshot()
    }

    fn queue_depth(&self) -> usize {
        self.workers.queued()
    }

    fn expect_size(&self, size: u64) {
        self.file.expected.store(size, Ordering::Relaxed);
    }

    fn refresh_size(&self) -> io::Result<u64> {
        self.file.refresh_size()
    }

    fn check(&self) {
        if let Err(fault) = self.file.check_present() {
            fault.settle("check", &self.file.health);
        }
    }

    fn close(&self) -> io::Result<()> {
        self.workers.close();
        self.file.close()
    }
}
