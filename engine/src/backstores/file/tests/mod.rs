//! The file backstore on real files: tmpfs, the disk's own file system, and a loop device.

mod compound;
mod faults;
mod mapped;
mod model;
mod neighbours;
mod opening;
mod sparse;
mod stable;

use std::fs::{self, File as StdFile};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::sys;
use crate::backstores::Completion;
use crate::block::command::{Errno, Flags, Op, Outcome, Request};
use crate::block::volume::{Step, Volume, VolumeSpec};
use crate::shard::buffers::IoBuf;
use crate::shard::mailbox::{Mailbox, News};
use crate::shard::tasks::TaskHandle;

/// Memory, and the disk (a file system without memory's indulgence).
pub const PLACES: [&str; 2] = ["/dev/shm", "/var/tmp"];
/// The one of them where O_DIRECT means something.
pub const DISK: &str = "/var/tmp";

/// A file that goes with the value.
pub struct TempFile(pub PathBuf);

impl TempFile {
    pub fn new(place: &str, bytes: &[u8]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(place).join(format!("blockgate-test-{}-{n}.img", std::process::id()));
        StdFile::create_new(&path).unwrap().write_all(bytes).unwrap();
        TempFile(path)
    }

    /// All holes.
    pub fn sparse(place: &str, size: u64) -> Self {
        let file = Self::new(place, b"");
        StdFile::options().write(true).open(&file.0).unwrap().set_len(size).unwrap();
        file
    }

    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap()
    }

    pub fn set_len(&self, size: u64) {
        StdFile::options().write(true).open(&self.0).unwrap().set_len(size).unwrap();
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A loop device over a file, where this machine has them for us.
pub struct Loop {
    pub path: PathBuf,
    _file: TempFile,
}

impl Loop {
    pub fn new(file: TempFile, sector: u32) -> Option<Self> {
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &sector.to_string()])
            .arg(&file.0)
            .output();
        match made {
            Ok(output) if output.status.success() => {
                let path = String::from_utf8(output.stdout).unwrap().trim().into();
                Some(Loop { path, _file: file })
            }
            Ok(output) => {
                println!("SKIPPED: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("SKIPPED: no losetup: {error}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
    }
}

/// Buffered, write-back, the whole file.
pub fn spec(path: &Path) -> VolumeSpec {
    VolumeSpec {
        path: path.into(),
        direct: false,
        write_through: false,
        read_only: false,
        block_size: 512,
        offset: 0,
        length: None,
        device: false,
        suspect: None,
    }
}

/// What a volume said of itself.
pub type Told = Arc<Mutex<Vec<String>>>;

pub fn open(spec: &VolumeSpec) -> (Arc<Volume>, Told) {
    let told = Told::default();
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let sink = told.clone();
        match Volume::open(1, spec.clone(), Box::new(move |why, _| sink.lock().unwrap().push(why.into()))) {
            // A child that another test starts has what was open, and its locks, until it is losetup.
            Err(error) if error.errno == libc::EBUSY && Instant::now() < deadline => thread::yield_now(),
            opened => return (opened.unwrap(), told),
        }
    }
}

/// Plays one shard: runs requests one after another and waits for each.
pub struct Shard {
    volume: Arc<Volume>,
    mailbox: Arc<Mailbox>,
    /// Take ring I/O too (here: do it on the spot).
    ring: bool,
}

impl Shard {
    pub fn new(volume: &Arc<Volume>, ring: bool) -> Self {
        Shard { volume: volume.clone(), mailbox: Mailbox::new(64).unwrap(), ring }
    }

    pub fn run(&self, request: Request) -> (Request, Result<(), Errno>) {
        self.take(self.volume.start(request, self.ring, || self.completion()))
    }

    fn take(&self, step: Step) -> (Request, Result<(), Errno>) {
        match step {
            Step::Done(request, result) => (request, result),
            Step::Pending | Step::Waiting(_) => self.wait(),
            Step::Ring(mut request, target) => {
                let buf = request.buf.as_deref_mut().unwrap();
                let at = target.offset + request.offset;
                let result = match request.op {
                    Op::Read => sys::read(target.fd, buf, at).and_then(|got| {
                        let eof = std::io::Error::from_raw_os_error(libc::EIO);
                        if got == buf.len() {
                            Ok(())
                        } else {
                            Err(eof)
                        }
                    }),
                    _ => sys::write(target.fd, buf, at, 0),
                };
                let result = result.map_err(|e| e.raw_os_error().unwrap());
                self.volume.ring_done(&request, &result);
                request.permit = None;
                (request, result)
            }
        }
    }

    pub fn completion(&self) -> Completion {
        Completion::new(self.mailbox.clone(), TaskHandle(1))
    }

    pub fn wait(&self) -> (Request, Result<(), Errno>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(done) = self.mailbox.next_done() {
                let (mut request, result) = match done.news {
                    News::Ended(Outcome { request, result }) => (request, result),
                    News::Granted(request) => self.take(self.volume.resume(request, self.ring, || self.completion())),
                };
                request.permit = None;
                return (request, result);
            }
            assert!(Instant::now() < deadline, "no completion within a minute");
            thread::yield_now();
        }
    }

    pub fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, Errno> {
        // Filled beforehand, so that a byte that was not read shows.
        let mut buf = IoBuf::zeroed(len);
        buf.fill(0xEE);
        let (request, result) = self.run(Request::with_buf(Op::Read, Flags::default(), offset, buf));
        result.map(|()| request.buf.unwrap().to_vec())
    }

    pub fn write(&self, offset: u64, bytes: &[u8], flags: Flags) -> Result<(), Errno> {
        let mut buf = IoBuf::zeroed(bytes.len());
        buf.copy_from_slice(bytes);
        self.run(Request::with_buf(Op::Write, flags, offset, buf)).1
    }

    /// A request with data that may be longer or shorter than its range; and where that differed.
    pub fn with_data(
        &self,
        op: Op,
        flags: Flags,
        offset: u64,
        len: u64,
        data: &[u8],
    ) -> (Result<(), Errno>, Option<u64>) {
        let mut buf = IoBuf::zeroed(data.len());
        buf.copy_from_slice(data);
        let (request, result) = self.run(Request { buf: Some(buf), ..Request::new(op, flags, offset, len) });
        (result, request.failed_at)
    }

    pub fn simple(&self, op: Op, flags: Flags, offset: u64, len: u64) -> Result<(), Errno> {
        self.run(Request::new(op, flags, offset, len)).1
    }

    pub fn flush(&self) -> Result<(), Errno> {
        self.simple(Op::Flush, Flags::default(), 0, 0)
    }
}

pub const FUA: Flags = Flags { fua: true, no_hole: false, fast_zero: false, req_one: false };

pub fn plain() -> Flags {
    Flags::default()
}

pub fn close(volume: &Arc<Volume>) {
    volume.close(Duration::from_secs(60)).unwrap();
}
