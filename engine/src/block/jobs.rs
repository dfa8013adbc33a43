//! Long work on volumes, in threads of its own: what EXTENDED COPY and SANITIZE leave to the engine.
//!
//! A job is many requests, one after another, which pass the volume's ranges like everybody else's. What it
//! has written is stable when it ends. Of those that are started a few of each volume run at a time (see
//! [`places`]); the others wait their turn.

mod places;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use self::places::{Place, Places};
use super::blocking::Caller;
use super::command::{Errno, Flags, Op, Request};
use super::volume::Volume;
use crate::shard::buffers::IoBuf;
use crate::shard::lease::Lease;
use crate::shard::limits::PIECE_BYTES;

/// Jobs that touch one volume, and run or wait.
pub const MAX_JOBS: usize = 1024;
/// What is zeroed by one request, bytes: enough to be quick, little enough to be stopped.
const ZERO_BYTES: u64 = 16 << 20;
/// A job keeps its buffers on the heap.
const STACK_BYTES: usize = 128 << 10;

/// What is to be done. Offsets and lengths are bytes, inside the volumes.
#[derive(Debug)]
pub enum Work {
    /// As if all of the source were read first, also where the two ranges overlap.
    Copy {
        source: Arc<Volume>,
        source_offset: u64,
        target: Arc<Volume>,
        offset: u64,
        len: u64,
    },
    /// `pattern` again and again, the last one cut off.
    Fill {
        volume: Arc<Volume>,
        offset: u64,
        len: u64,
        pattern: Vec<u8>,
    },
    /// `punch`: the space may be given back.
    Zero {
        volume: Arc<Volume>,
        offset: u64,
        len: u64,
        punch: bool,
    },
    Flush {
        volume: Arc<Volume>,
    },
}

impl Work {
    /// The volumes that it touches; twice the same where there is only one.
    fn volumes(&self) -> [u64; 2] {
        match self {
            Work::Copy { source: from, target: to, .. } => [from.id(), to.id()],
            Work::Fill { volume, .. } | Work::Zero { volume, .. } | Work::Flush { volume } => [volume.id(); 2],
        }
    }

    fn places(&self) -> Vec<Place> {
        let [source, target] = self.volumes();
        match self {
            Work::Flush { .. } => vec![Place::Flush(target)],
            _ => Place::of_copy(source, target),
        }
    }
}

/// Told of each job's end: its number, the errno (0: it is done), and how many bytes it has got through.
pub type OnDone = Box<dyn Fn(u64, Errno, u64) + Send + Sync>;

struct Job {
    number: u64,
    work: Work,
    places: Vec<Place>,
    done_bytes: AtomicU64,
    cancelled: AtomicBool,
}

#[derive(Default)]
struct State {
    all: HashMap<u64, Arc<Job>>,
    /// Those of them that do not have their places yet, the oldest first. Each lacks one that is taken, so
    /// whoever gives up places looks here.
    waiting: VecDeque<Arc<Job>>,
    places: Places,
}

struct Shared {
    state: Mutex<State>,
    on_done: OnDone,
    lease: Arc<Lease>,
}

/// See the module's text.
pub struct Jobs(Arc<Shared>);

impl Jobs {
    /// None yet; threads are there only while jobs are.
    /// When `lease` has lapsed they end with `ESHUTDOWN`.
    pub fn new(on_done: OnDone, lease: Arc<Lease>) -> Self {
        Jobs(Arc::new(Shared { state: Mutex::default(), on_done, lease }))
    }

    /// Starts a job. `EEXIST`: there is one of that number; `EAGAIN`: a volume has too many, or no thread can be
    /// had.
    pub fn start(&self, number: u64, work: Work) -> Result<(), Errno> {
        if let Work::Fill { pattern, .. } = &work {
            if pattern.is_empty() || pattern.len() > PIECE_BYTES {
                return Err(libc::EINVAL);
            }
        }
        let mut state = self.0.lock();
        if state.all.contains_key(&number) {
            return Err(libc::EEXIST);
        }
        if work.volumes().iter().any(|volume| state.jobs_of(*volume) >= MAX_JOBS) {
            return Err(libc::EAGAIN);
        }
        let job = Arc::new(Job::new(number, work));
        if !state.places.take(&job.places) {
            state.waiting.push_back(job.clone());
        } else if self.0.spawn(job.clone()).is_err() {
            state.places.give_up(&job.places);
            return Err(libc::EAGAIN);
        }
        state.all.insert(number, job);
        Ok(())
    }

    /// Bytes that a job has got through; `None`: there is no such job (any more).
    pub fn progress(&self, number: u64) -> Option<u64> {
        self.0.lock().all.get(&number).map(|job| job.done_bytes.load(Ordering::Relaxed))
    }

    /// Stops a job: at once if it still waits for its turn, else soon. It ends with `ECANCELED` unless it is done
    /// before. One that has ended is none of the caller's errors.
    pub fn cancel(&self, number: u64) {
        let withdrawn = self.0.lock().cancel(number);
        if let Some(job) = withdrawn {
            self.0.tell_end(&job, Err(libc::ECANCELED));
        }
    }

    /// Stops all of them.
    pub fn cancel_all(&self) {
        let withdrawn = self.0.lock().cancel_all();
        for job in withdrawn {
            self.0.tell_end(&job, Err(libc::ECANCELED));
        }
    }
}

impl Drop for Jobs {
    fn drop(&mut self) {
        self.cancel_all();
    }
}

impl State {
    fn jobs_of(&self, volume: u64) -> usize {
        self.all.values().filter(|job| job.work.volumes().contains(&volume)).count()
    }

    /// The job, if it waited: it is out of the books.
    fn cancel(&mut self, number: u64) -> Option<Arc<Job>> {
        self.all.get(&number)?.cancelled.store(true, Ordering::Relaxed);
        let at = self.waiting.iter().position(|job| job.number == number)?;
        self.all.remove(&number);
        self.waiting.remove(at)
    }

    /// Those that waited.
    fn cancel_all(&mut self) -> VecDeque<Arc<Job>> {
        self.all.values().for_each(|job| job.cancelled.store(true, Ordering::Relaxed));
        let withdrawn = mem::take(&mut self.waiting);
        withdrawn.iter().for_each(|job| drop(self.all.remove(&job.number)));
        withdrawn
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread for a job that has its places.
    fn spawn(self: &Arc<Self>, job: Arc<Job>) -> io::Result<()> {
        let shared = self.clone();
        let builder = thread::Builder::new().name("bg-job".into()).stack_size(STACK_BYTES);
        builder.spawn(move || shared.serve(job)).map(drop)
    }

    fn serve(self: &Arc<Self>, job: Arc<Job>) {
        let mut turn = Some(job);
        while let Some(job) = turn {
            let result = job.run(&self.lease);
            // Out of the books first: its number may be used again by whoever is told of its end.
            turn = self.leave(&job);
            self.tell_end(&job, result);
        }
    }

    /// A job's places are free: for the oldest of those that can go on with them. The caller's thread is the first
    /// one's; the others get one each.
    fn leave(self: &Arc<Self>, job: &Job) -> Option<Arc<Job>> {
        let mut state = self.lock();
        let State { all, waiting, places } = &mut *state;
        all.remove(&job.number);
        places.give_up(&job.places);
        let mut first = None;
        waiting.retain(|next| {
            if !places.take(&next.places) {
                return true;
            }
            if first.is_none() {
                first = Some(next.clone());
                return false;
            }
            let no_thread = self.spawn(next.clone()).is_err();
            if no_thread {
                // It has another chance when this thread's next job ends.
                places.give_up(&next.places);
            }
            no_thread
        });
        first
    }

    fn tell_end(&self, job: &Job, result: Result<(), Errno>) {
        (self.on_done)(job.number, result.err().unwrap_or(0), job.done_bytes.load(Ordering::Relaxed));
    }
}

impl Job {
    fn new(number: u64, work: Work) -> Self {
        let places = work.places();
        Job { number, work, places, done_bytes: AtomicU64::new(0), cancelled: AtomicBool::new(false) }
    }

    fn run(&self, lease: &Arc<Lease>) -> Result<(), Errno> {
        let caller = Caller::new(lease.clone()).map_err(|error| error.raw_os_error().unwrap_or(libc::ENOMEM))?;
        match &self.work {
            Work::Copy { source, source_offset, target, offset, len } => {
                self.copy(&caller, (source, *source_offset), (target, *offset), *len)?;
                self.flush(&caller, target)
            }
            Work::Fill { volume, offset, len, pattern } => {
                self.fill(&caller, volume, *offset, *len, pattern)?;
                self.flush(&caller, volume)
            }
            Work::Zero { volume, offset, len, punch } => {
                self.zero(&caller, volume, *offset, *len, *punch)?;
                self.flush(&caller, volume)
            }
            Work::Flush { volume } => self.flush(&caller, volume),
        }
    }

    fn ask(&self, caller: &Caller, volume: &Arc<Volume>, request: Request) -> Result<Request, Errno> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(libc::ECANCELED);
        }
        caller.run(volume, request, &self.cancelled)
    }

    fn flush(&self, caller: &Caller, volume: &Arc<Volume>) -> Result<(), Errno> {
        self.ask(caller, volume, Request::new(Op::Flush, Flags::default(), 0, 0)).map(drop)
    }

    fn note(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn copy(
        &self,
        caller: &Caller,
        (source, from): (&Arc<Volume>, u64),
        (target, to): (&Arc<Volume>, u64),
        len: u64,
    ) -> Result<(), Errno> {
        const PIECE: u64 = PIECE_BYTES as u64;
        // Backwards where going forwards would overwrite what is still to be read.
        let backwards = source.id() == target.id() && from < to && to < from.saturating_add(len);
        let mut buf = IoBuf::zeroed(PIECE_BYTES);
        let mut done = 0;
        while done < len {
            let piece = PIECE.min(len - done);
            let at = if backwards { len - done - piece } else { done };
            buf.set_len(piece as usize);
            let read = self.ask(caller, source, Request::with_buf(Op::Read, Flags::default(), from + at, buf))?;
            let data = read.buf.ok_or(libc::EIO)?;
            let written = self.ask(caller, target, Request::with_buf(Op::Write, Flags::default(), to + at, data))?;
            buf = written.buf.ok_or(libc::EIO)?;
            done += piece;
            self.note(piece);
        }
        Ok(())
    }

    fn fill(&self, caller: &Caller, volume: &Arc<Volume>, offset: u64, len: u64, pattern: &[u8]) -> Result<(), Errno> {
        // Whole patterns, so that each piece begins where the pattern does.
        let piece = PIECE_BYTES / pattern.len() * pattern.len();
        let mut buf = IoBuf::zeroed(piece);
        buf.chunks_mut(pattern.len()).for_each(|part| part.copy_from_slice(pattern));
        let mut done = 0;
        while done < len {
            buf.set_len((len - done).min(piece as u64) as usize);
            let bytes = buf.len() as u64;
            let request = Request::with_buf(Op::Write, Flags::default(), offset + done, buf);
            buf = self.ask(caller, volume, request)?.buf.ok_or(libc::EIO)?;
            done += bytes;
            self.note(bytes);
        }
        Ok(())
    }

    fn zero(&self, caller: &Caller, volume: &Arc<Volume>, offset: u64, len: u64, punch: bool) -> Result<(), Errno> {
        let flags = Flags { no_hole: !punch, ..Flags::default() };
        let mut done = 0;
        while done < len {
            let piece = ZERO_BYTES.min(len - done);
            self.ask(caller, volume, Request::new(Op::WriteZeroes, flags, offset + done, piece))?;
            done += piece;
            self.note(piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
