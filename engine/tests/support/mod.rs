//! An engine with a small control side of its own, and a raw NBD client: what the tests share.
#![allow(dead_code)]

pub mod iscsi;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use _engine::backstores::{Attempt, Backstore, Completion, RingTarget};
use _engine::block::command::{Errno, Extent, Op, Outcome, Request};
use _engine::block::gate::{Gate, Situation};
use _engine::block::health::Health;
use _engine::block::volume::{Volume, VolumeSpec};
use _engine::shard::control::{Protocol, Then};
use _engine::shard::engine::{Engine, Transmit};
use _engine::shard::events::Event;
use _engine::shard::limits::Limits;
use _engine::shard::poller::IoPath;

/// The paths that there are on this machine.
pub fn paths() -> Vec<IoPath> {
    match Engine::start(1, IoPath::Uring, Limits::default()) {
        Ok(_) => vec![IoPath::Epoll, IoPath::Uring],
        Err(_) => vec![IoPath::Epoll],
    }
}

/// A test's own file, removed with it.
pub struct Image(pub PathBuf);

impl Image {
    pub fn new(bytes: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("blockgate-{}-{}.img", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        Image(path)
    }

    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.0).unwrap()
    }

    pub fn spec(&self) -> VolumeSpec {
        VolumeSpec {
            path: self.0.clone(),
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
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What a connection is to be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    pub structured: bool,
    pub extended: bool,
    pub read_only: bool,
    pub minimum_block: u32,
}

pub const SIMPLE: Mode = Mode { structured: false, extended: false, read_only: false, minimum_block: 1 };
pub const STRUCTURED: Mode = Mode { structured: true, ..SIMPLE };
pub const EXTENDED: Mode = Mode { structured: true, extended: true, ..SIMPLE };

/// An engine, and a thread that answers its events: every connection that says option 1 enters
/// transmission on the terms set last.
pub struct Server {
    pub engine: Arc<Engine>,
    pub address: std::net::SocketAddr,
    pub volume: u64,
    terms: Arc<Mutex<(u64, Mode)>>,
    pub seen: Arc<(Mutex<Vec<Event>>, Condvar)>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

pub fn gate(generation: u64, size: u64) -> Gate {
    Gate { generation, size, read_only: false, access: Default::default(), default_access: Situation::Free, scsi: None }
}

impl Server {
    pub fn start(path: IoPath, limits: &[(&str, u64)], image: &Image) -> Server {
        Self::start_with(path, limits, |engine| {
            let volume = engine.open_volume(image.spec()).unwrap();
            let size = engine.volumes()[0].size();
            engine.swap_gate(volume, gate(1, size)).unwrap();
            volume
        })
    }

    pub fn start_with(path: IoPath, limits: &[(&str, u64)], volume: impl FnOnce(&Engine) -> u64) -> Server {
        let mut bounds = Limits::default();
        for (name, value) in limits {
            bounds.set(name, *value).unwrap();
        }
        let engine = Arc::new(Engine::start(2, path, bounds).unwrap());
        let volume = volume(&engine);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        engine.add_listener(listener.as_raw_fd(), "test", Protocol::Nbd).unwrap();
        let terms = Arc::new(Mutex::new((volume, SIMPLE)));
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (engine, terms, seen, stop) = (engine.clone(), terms.clone(), seen.clone(), stop.clone());
            std::thread::spawn(move || answer_events(&engine, &terms, &seen, &stop))
        };
        Server { engine, address, volume, terms, seen, stop, thread: Some(thread) }
    }

    /// A client in transmission on the given terms.
    pub fn connect(&self, mode: Mode) -> Client {
        *self.terms.lock().unwrap() = (self.volume, mode);
        let mut client = Client::raw(self.address, mode);
        client.greet();
        client
    }

    /// On which terms the next connection enters transmission.
    pub fn set_mode(&self, mode: Mode) {
        *self.terms.lock().unwrap() = (self.volume, mode);
    }

    /// A client of another volume.
    pub fn connect_to(&self, volume: u64, mode: Mode) -> Client {
        *self.terms.lock().unwrap() = (volume, mode);
        let mut client = Client::raw(self.address, mode);
        client.greet();
        client
    }

    /// Waits until an event that fits has come.
    pub fn wait_event(&self, fits: impl Fn(&Event) -> bool) -> Event {
        let (events, news) = &*self.seen;
        let mut events = events.lock().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(at) = events.iter().position(&fits) {
                return events.remove(at);
            }
            assert!(Instant::now() < deadline, "no such event; there were {events:?}");
            events = news.wait_timeout(events, Duration::from_millis(100)).unwrap().0;
        }
    }

    pub fn wait_lost(&self) -> String {
        match self.wait_event(|event| matches!(event, Event::Lost { .. })) {
            Event::Lost { reason, .. } => reason,
            _ => unreachable!(),
        }
    }

    /// Waits until `what` is so.
    pub fn eventually(&self, why: &str, what: impl Fn(&Engine) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !what(&self.engine) {
            assert!(Instant::now() < deadline, "never came about: {why}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn buffer_bytes_in_use(&self) -> u64 {
        // What is kept for reuse counts too; it has a bound of its own.
        self.engine.counters().0.iter().map(|shard| shard.buffer_bytes).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.engine.stop(2000);
    }
}

fn answer_events(engine: &Engine, terms: &Mutex<(u64, Mode)>, seen: &(Mutex<Vec<Event>>, Condvar), stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let mut fd = libc::pollfd { fd: engine.event_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut fd, 1, 20) };
        for event in engine.next_events(64) {
            match &event {
                Event::Accepted { conn, .. } => engine.reply(*conn, b"hello".to_vec(), Then::Option),
                Event::ClientFlags { conn, .. } => engine.reply(*conn, vec![], Then::Option),
                Event::NbdOption { conn, option: 1, .. } => {
                    let (volume, mode) = *terms.lock().unwrap();
                    let how = Transmit {
                        volume,
                        export: "export".into(),
                        read_only: mode.read_only,
                        structured: mode.structured,
                        extended: mode.extended,
                        contexts: if mode.structured { vec![7] } else { vec![] },
                        minimum_block: mode.minimum_block,
                    };
                    let _ = engine.transmit(*conn, b"go".to_vec(), how);
                }
                Event::NbdOption { conn, option: 2, .. } => engine.reply(*conn, b"bye".to_vec(), Then::Close),
                Event::NbdOption { conn, option: 5, .. } => engine.reply(*conn, b"tls".to_vec(), Then::Tls),
                Event::NbdOption { conn, .. } => engine.reply(*conn, b"unknown".to_vec(), Then::Option),
                _ => {}
            }
            seen.0.lock().unwrap().push(event);
            seen.1.notify_all();
        }
    }
}

/// A reply as it came off the wire: simple, or one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    pub cookie: u64,
    /// Simple replies: the error.
    pub error: u32,
    /// Chunks: type and flags; simple replies: None.
    pub kind: Option<(u16, u16)>,
    pub payload: Vec<u8>,
}

impl Chunk {
    /// The error of a simple reply or an error chunk, 0: none.
    pub fn error(&self) -> u32 {
        match self.kind {
            Some((kind, _)) if kind & 0x8000 != 0 => u32::from_be_bytes(self.payload[..4].try_into().unwrap()),
            _ => self.error,
        }
    }

    pub fn is_done(&self) -> bool {
        self.kind.is_none_or(|(_, flags)| flags & 1 != 0)
    }
}

pub struct Client<S = TcpStream> {
    pub stream: S,
    pub mode: Mode,
}

impl Client {
    pub fn raw(address: std::net::SocketAddr, mode: Mode) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, mode }
    }

    pub fn option(option: u32, data: &[u8]) -> Vec<u8> {
        let mut out = b"IHAVEOPT".to_vec();
        out.extend(option.to_be_bytes());
        out.extend((data.len() as u32).to_be_bytes());
        out.extend(data);
        out
    }

    pub fn greet(&mut self) {
        self.expect(b"hello");
        self.send(&3u32.to_be_bytes());
        self.send(&Client::option(1, b""));
        self.expect(b"go");
    }
}

impl<S: Read + Write> Client<S> {
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub fn expect(&mut self, bytes: &[u8]) {
        assert_eq!(self.bytes(bytes.len()), bytes);
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        self.stream.read_exact(&mut out).unwrap();
        out
    }

    /// Whether the server has closed (what it still sends is thrown away).
    pub fn is_closed(&mut self) -> bool {
        let mut sink = [0; 65536];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// A request's bytes, without its payload.
    pub fn request(&self, kind: u16, flags: u16, cookie: u64, offset: u64, len: u64) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(if self.mode.extended { 0x21e4_1c71u32 } else { 0x2560_9513 }.to_be_bytes());
        out.extend(flags.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(cookie.to_be_bytes());
        out.extend(offset.to_be_bytes());
        if self.mode.extended {
            out.extend(len.to_be_bytes());
        } else {
            out.extend((len as u32).to_be_bytes());
        }
        out
    }

    /// A WRITE with its payload.
    pub fn write_request(&self, flags: u16, cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
        let flags = if self.mode.extended { flags | 32 } else { flags };
        let mut out = self.request(1, flags, cookie, offset, data.len() as u64);
        out.extend(data);
        out
    }

    /// The next reply or chunk; `read_len`: bytes that follow a successful simple reply.
    pub fn reply(&mut self, read_len: usize) -> Chunk {
        self.reply_to(|_| read_len)
    }

    /// The same, with the length by cookie.
    pub fn reply_to(&mut self, read_len: impl Fn(u64) -> usize) -> Chunk {
        let magic = u32::from_be_bytes(self.bytes(4).try_into().unwrap());
        match magic {
            0x6744_6698 => {
                assert!(!self.mode.extended, "a simple reply under extended headers");
                let head = self.bytes(12);
                let error = u32::from_be_bytes(head[..4].try_into().unwrap());
                let cookie = u64::from_be_bytes(head[4..].try_into().unwrap());
                let payload = if error == 0 { self.bytes(read_len(cookie)) } else { vec![] };
                Chunk { cookie, error, kind: None, payload }
            }
            0x668e_33ef | 0x6e8a_278c => {
                assert_eq!(magic == 0x6e8a_278c, self.mode.extended, "the wrong kind of chunk");
                let head = self.bytes(12);
                let flags = u16::from_be_bytes(head[..2].try_into().unwrap());
                let kind = u16::from_be_bytes(head[2..4].try_into().unwrap());
                let cookie = u64::from_be_bytes(head[4..].try_into().unwrap());
                let len = if self.mode.extended {
                    self.bytes(8);
                    u64::from_be_bytes(self.bytes(8).try_into().unwrap())
                } else {
                    u64::from(u32::from_be_bytes(self.bytes(4).try_into().unwrap()))
                };
                assert!(len <= 64 << 20, "a chunk of {len} bytes");
                Chunk { cookie, error: 0, kind: Some((kind, flags)), payload: self.bytes(len as usize) }
            }
            other => panic!("reply with magic {other:#x}"),
        }
    }

    /// One request and its answer without data: the error, 0 for none.
    pub fn ask(&mut self, kind: u16, flags: u16, offset: u64, len: u64) -> u32 {
        let bytes = self.request(kind, flags, 99, offset, len);
        self.send(&bytes);
        self.answer()
    }

    pub fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        let bytes = self.write_request(flags, 98, offset, data);
        self.send(&bytes);
        self.answer()
    }

    /// The error of the next answer that has no data.
    pub fn answer(&mut self) -> u32 {
        let chunk = self.reply(0);
        assert!(chunk.is_done(), "{chunk:?}");
        chunk.error()
    }

    /// A READ's data, put together from whatever the reply is made of; `Err`: the error.
    pub fn read(&mut self, flags: u16, offset: u64, len: u64) -> Result<Vec<u8>, u32> {
        let bytes = self.request(0, flags, 97, offset, len);
        self.send(&bytes);
        self.read_reply(offset, len)
    }

    pub fn read_reply(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, u32> {
        let (mut data, mut got, mut error) = (vec![0; len as usize], 0, 0);
        loop {
            let chunk = self.reply(len as usize);
            match chunk.kind {
                None if chunk.error != 0 => return Err(chunk.error),
                None => return Ok(chunk.payload),
                Some((1, _)) => {
                    let at = u64::from_be_bytes(chunk.payload[..8].try_into().unwrap());
                    let part = &chunk.payload[8..];
                    let start = (at - offset) as usize;
                    data[start..start + part.len()].copy_from_slice(part);
                    got += part.len();
                }
                Some((0, _)) => assert!(chunk.payload.is_empty()),
                Some((kind, _)) if kind & 0x8000 != 0 => error = chunk.error(),
                Some(other) => panic!("unexpected chunk {other:?}"),
            }
            if chunk.is_done() {
                if error != 0 {
                    return Err(error);
                }
                assert_eq!(got as u64, len, "a successful reply covers the request");
                return Ok(data);
            }
        }
    }
}

/// Bytes that tell where they belong.
pub fn pattern(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(|at| (at.wrapping_mul(0x9E37_79B9) >> 13) as u8).collect()
}

/// A back end whose requests end when the test says so.
#[derive(Default)]
pub struct Held {
    pub size: u64,
    /// Of its blocks, in bytes.
    pub alignment: u32,
    /// Held by a test: the back end breaks its word, and blocks the shard.
    pub stuck: Mutex<()>,
    /// Held by a test: making things stable hangs.
    pub unstable: Mutex<()>,
    waiting: Mutex<Vec<(Request, Completion)>>,
}

impl Held {
    pub fn new(size: u64) -> Arc<Held> {
        Held::of_blocks(1, size)
    }

    /// The same, of blocks of so many bytes.
    pub fn of_blocks(alignment: u32, size: u64) -> Arc<Held> {
        Arc::new(Held { size, alignment, ..Held::default() })
    }

    pub fn count(&self) -> usize {
        self.waiting.lock().unwrap().len()
    }

    /// Ends all that wait, the last one first.
    pub fn finish(&self, result: Result<(), Errno>) -> usize {
        let all = std::mem::take(&mut *self.waiting.lock().unwrap());
        let count = all.len();
        all.into_iter().rev().for_each(|(request, done)| end(request, done, result));
        count
    }

    /// Ends the one that has waited longest.
    pub fn finish_first(&self, result: Result<(), Errno>) {
        let (request, done) = self.waiting.lock().unwrap().remove(0);
        end(request, done, result);
    }

    /// Forgets one request: its back end was broken.
    pub fn forget_one(&self) {
        drop(self.waiting.lock().unwrap().pop());
    }

    /// A volume on it.
    pub fn volume(self: &Arc<Self>, engine: &Engine) -> u64 {
        let held = self.clone();
        let spec = Image::new(0).spec();
        let volume = engine.add_volume(|id| Volume::with_backstore(id, spec, Box::new(HeldStore(held))));
        engine.swap_gate(volume, gate(1, self.size)).unwrap();
        volume
    }
}

/// A READ gets what the volume is made of.
fn end(mut request: Request, done: Completion, result: Result<(), Errno>) {
    if let (Op::Read, Some(buf)) = (request.op, request.buf.as_mut()) {
        let offset = request.offset;
        let len = buf.len();
        buf.copy_from_slice(&pattern(offset, len));
    }
    if let Some(extents) = &mut request.extents {
        extents.push(Extent { length: request.len, flags: 0 });
    }
    done.post(Outcome { request, result });
}

struct HeldStore(Arc<Held>);

impl Backstore for HeldStore {
    fn size(&self) -> u64 {
        self.0.size
    }
    fn expect_size(&self, _: u64) {}
    fn alignment(&self) -> u32 {
        self.0.alignment
    }
    fn try_now(&self, _: &mut Request) -> Attempt {
        drop(self.0.stuck.lock().unwrap());
        Attempt::NotNow
    }
    fn ring_target(&self, _: &Request) -> Option<RingTarget> {
        None
    }
    fn submit(&self, request: Request, done: Completion) {
        self.0.waiting.lock().unwrap().push((request, done));
    }
    fn note_ring_result(&self, _: &Request, _: &Result<(), Errno>) {}
    fn health(&self) -> Health {
        Health::default()
    }
    fn queue_depth(&self) -> usize {
        self.0.count()
    }
    fn refresh_size(&self) -> io::Result<u64> {
        Ok(self.0.size)
    }
    fn check(&self) {}
    fn close(&self) -> io::Result<()> {
        drop(self.0.unstable.lock().unwrap());
        Ok(())
    }
}
