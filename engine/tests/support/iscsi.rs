//! An engine whose control side is the test, and a tiny initiator that knows RFC 7143's layouts and nothing else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{paths, Held, Image};
use _engine::block::gate::{Gate, Situation};
use _engine::iscsi::digest::Digest;
use _engine::iscsi::inflow::Terms;
use _engine::iscsi::params::Params;
use _engine::scsi::canned::Canned;
use _engine::scsi::gate::{BlockLimits, ScsiGate};
use _engine::scsi::table::THIN;
use _engine::shard::control::Protocol;
use _engine::shard::engine::{Engine, LunMapSpec};
use _engine::shard::events::Event;
use _engine::shard::limits::Limits;
use _engine::shard::poller::IoPath;

pub const LUN_1: u64 = 1 << 48;
pub const NEXUS: u64 = 1 << 62;

/// A gate of a unit with blocks of 512 bytes.
pub fn scsi_gate(generation: u64, size: u64) -> Gate {
    let mut canned = Canned::new();
    assert!(canned.insert(&[0; 6], b""));
    assert!(canned.insert(&[0x12, 0, 0, 0, 0, 0], b"INQUIRY data of thirty-six bytes...."));
    let scsi = ScsiGate {
        block_size: 512,
        descriptor_sense: false,
        software_write_protect: false,
        not_ready: None,
        tas: false,
        qerr: 0,
        limits: BlockLimits { compare_and_write_blocks: 255, unmap_descriptors: 256, ..BlockLimits::default() },
        needs_met: THIN,
        canned,
        ports: Default::default(),
    };
    Gate {
        generation,
        size,
        read_only: false,
        access: Default::default(),
        default_access: Situation::Free,
        scsi: Some(Arc::new(scsi)),
    }
}

/// What the next logins end in.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub session: u64,
    pub nexus: u64,
    pub cid: u16,
    pub joins: bool,
    pub discovery: bool,
    pub digests: (bool, bool),
    pub max_send_data: u32,
    pub max_recv_data: u32,
    pub terms: Terms,
    pub queue_depth: u32,
    pub nop: (u64, u64),
}

impl Agreed {
    pub fn session(session: u64) -> Self {
        Self {
            session,
            nexus: NEXUS + session,
            cid: 0,
            joins: false,
            discovery: false,
            digests: (false, false),
            max_send_data: 65_536,
            max_recv_data: 262_144,
            terms: Terms {
                first_burst: 65_536,
                max_burst: 262_144,
                max_outstanding_r2t: 1,
                initial_r2t: true,
                immediate_data: true,
            },
            queue_depth: 32,
            nop: (0, 0),
        }
    }
}

/// See the module's text.
pub struct Target {
    pub engine: Arc<Engine>,
    pub address: SocketAddr,
    pub volume: u64,
    pub agreed: Arc<Mutex<Agreed>>,
    pub seen: Arc<(Mutex<Vec<Event>>, Condvar)>,
    /// How often events were taken; they stay in their lanes while somebody has this.
    pub taking: Arc<Mutex<u64>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Target {
    pub fn start(path: IoPath, limits: &[(&str, u64)], shards: usize, volume: impl FnOnce(&Engine) -> u64) -> Target {
        let mut bounds = Limits::default();
        for (name, value) in limits {
            bounds.set(name, *value).unwrap();
        }
        let engine = Arc::new(Engine::start(shards, path, bounds).unwrap());
        let volume = volume(&engine);
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        engine.add_listener(listener.as_raw_fd(), "test", Protocol::Iscsi).unwrap();
        let agreed = Arc::new(Mutex::new(Agreed::session(1)));
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let taking = Arc::new(Mutex::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (engine, agreed, seen, stop) = (engine.clone(), agreed.clone(), seen.clone(), stop.clone());
            let taking = taking.clone();
            std::thread::spawn(move || answer_events(&engine, volume, &agreed, (&seen, &taking), &stop))
        };
        Target { engine, address, volume, agreed, seen, taking, stop, thread: Some(thread) }
    }

    /// An initiator in full feature phase.
    pub fn login(&self, agreed: &Agreed) -> Initiator {
        *self.agreed.lock().unwrap() = agreed.clone();
        let mut initiator = Initiator::connect(self.address);
        initiator.digests = agreed.digests;
        initiator.login();
        initiator
    }

    /// Waits until an event that fits has come, and takes it.
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

    /// The next command that is handed up: its task, CDB and data.
    pub fn wait_command(&self) -> (u64, Vec<u8>, Vec<u8>) {
        match self.wait_event(|event| matches!(event, Event::Command(_))) {
            Event::Command(command) => (command.task, command.cdb, command.data),
            _ => unreachable!(),
        }
    }

    /// The next task management function: task, referenced task, verdict.
    pub fn wait_management(&self) -> (u64, Option<u64>, &'static str) {
        match self.wait_event(|event| matches!(event, Event::TaskManagement(_))) {
            Event::TaskManagement(it) => (it.task, it.referenced_task, it.verdict),
            _ => unreachable!(),
        }
    }

    /// The next logout: the connection that asks, and the one that is to be closed.
    pub fn wait_logout(&self) -> (u64, u64) {
        match self.wait_event(|event| matches!(event, Event::Logout { .. })) {
            Event::Logout { conn, closes, .. } => (conn, closes),
            _ => unreachable!(),
        }
    }

    pub fn wait_aborted(&self, request: u64) {
        self.wait_event(|event| *event == Event::Aborted { request });
    }

    pub fn has_event(&self, fits: impl Fn(&Event) -> bool) -> bool {
        self.seen.0.lock().unwrap().iter().any(fits)
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
            assert!(Instant::now() < deadline, "never came about: {why}; tasks {:?}", self.engine.tasks());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking());
        }
        self.engine.stop(2000);
    }
}

/// The last Login Response: T, full feature phase; StatSN 0, ExpCmdSN 1.
fn login_response(itt: [u8; 4]) -> Vec<u8> {
    let mut pdu = vec![0; 48];
    pdu[0] = 0x23;
    pdu[1] = 0x87;
    pdu[16..20].copy_from_slice(&itt);
    pdu[31] = 1;
    pdu[35] = 1;
    pdu
}

fn answer_events(
    engine: &Engine,
    volume: u64,
    agreed: &Mutex<Agreed>,
    (seen, taking): (&(Mutex<Vec<Event>>, Condvar), &Mutex<u64>),
    stop: &AtomicBool,
) {
    while !stop.load(Ordering::SeqCst) {
        let mut fd = libc::pollfd { fd: engine.event_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one valid pollfd.
        unsafe { libc::poll(&raw mut fd, 1, 20) };
        let mut times = taking.lock().unwrap();
        *times += 1;
        for event in engine.next_events(64) {
            if let Event::Login { conn, bhs, .. } = &event {
                let how = agreed.lock().unwrap().clone();
                let params = Params {
                    session: how.session,
                    nexus: how.nexus,
                    port: 1,
                    discovery: how.discovery,
                    cid: how.cid,
                    initiator: "iqn.2026-01.example:initiator".into(),
                    target: "iqn.2026-01.example:disk".into(),
                    header_digest: how.digests.0,
                    data_digest: how.digests.1,
                    max_send_data: how.max_send_data,
                    max_recv_data: how.max_recv_data,
                    terms: how.terms,
                    exp_cmd_sn: 1,
                    stat_sn: 1,
                    queue_depth: how.queue_depth,
                    nop_interval_ms: how.nop.0,
                    nop_timeout_ms: how.nop.1,
                    luns: None,
                };
                let map = LunMapSpec { luns: vec![(LUN_1, volume, false)], ..LunMapSpec::default() };
                let luns = (!how.joins && !how.discovery).then_some(map);
                let itt = bhs[16..20].try_into().unwrap();
                engine.login_done(*conn, login_response(itt), params, luns).unwrap();
            }
            seen.0.lock().unwrap().push(event);
            seen.1.notify_all();
        }
    }
}

/// A PDU as it came off the wire.
#[derive(Clone, Debug)]
pub struct Pdu {
    pub bhs: [u8; 48],
    pub data: Vec<u8>,
}

impl Pdu {
    pub fn opcode(&self) -> u8 {
        self.bhs[0] & 0x3f
    }

    pub fn word(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.bhs[at..at + 4].try_into().unwrap())
    }

    pub fn itt(&self) -> u32 {
        self.word(16)
    }

    /// SCSI Response and Data-In.
    pub fn status(&self) -> u8 {
        self.bhs[3]
    }

    /// A SCSI Response's sense: key, ASC, ASCQ.
    pub fn sense(&self) -> (u8, u8, u8) {
        let sense = &self.data[2..];
        assert_eq!(sense[0] & 0x7f, 0x70, "fixed format, current");
        (sense[2] & 0xf, sense[12], sense[13])
    }
}

pub struct Initiator {
    pub stream: TcpStream,
    pub digests: (bool, bool),
    pub cmd_sn: u32,
    pub max_cmd_sn: u32,
    next_itt: u32,
}

/// Builds a header.
pub fn head(opcode: u8, flags: u8, itt: u32) -> [u8; 48] {
    let mut bhs = [0; 48];
    bhs[0] = opcode;
    bhs[1] = flags;
    bhs[16..20].copy_from_slice(&itt.to_be_bytes());
    bhs
}

pub fn put(bhs: &mut [u8; 48], at: usize, value: u32) {
    bhs[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

pub fn read10(lba: u32, blocks: u16) -> [u8; 16] {
    rw10(0x28, lba, blocks)
}

pub fn write10(lba: u32, blocks: u16) -> [u8; 16] {
    rw10(0x2a, lba, blocks)
}

pub fn rw10(opcode: u8, lba: u32, blocks: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = opcode;
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

impl Initiator {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let next_itt = (NEXT.fetch_add(1, Ordering::Relaxed) as u32) << 16;
        Self { stream, digests: (false, false), cmd_sn: 1, max_cmd_sn: 1, next_itt }
    }

    pub fn login(&mut self) {
        let digests = std::mem::take(&mut self.digests);
        let mut bhs = head(0x43, 0x87, 1);
        put(&mut bhs, 24, 1);
        self.send(bhs, b"InitiatorName=x\0");
        let answer = self.recv();
        assert_eq!((answer.opcode(), answer.bhs[1]), (0x23, 0x87));
        self.digests = digests;
    }

    pub fn itt(&mut self) -> u32 {
        self.next_itt += 1;
        self.next_itt
    }

    /// The bytes of a PDU, with padding and digests.
    pub fn bytes(&self, mut bhs: [u8; 48], data: &[u8]) -> Vec<u8> {
        let ahs = usize::from(bhs[4]) * 4;
        let (ahs, data) = data.split_at(ahs);
        bhs[5..8].copy_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        let mut out = bhs.to_vec();
        out.extend(ahs);
        if self.digests.0 {
            let digest = Digest::of(&out).bytes();
            out.extend(digest);
        }
        if !data.is_empty() {
            let mut segment = data.to_vec();
            segment.resize(data.len().next_multiple_of(4), 0);
            out.extend(&segment);
            if self.digests.1 {
                out.extend(Digest::of(&segment).bytes());
            }
        }
        out
    }

    pub fn send(&mut self, bhs: [u8; 48], data: &[u8]) {
        let bytes = self.bytes(bhs, data);
        self.stream.write_all(&bytes).unwrap();
    }

    pub fn recv(&mut self) -> Pdu {
        let pdu = self.try_recv().unwrap();
        if pdu.opcode() != 0x23 {
            self.max_cmd_sn = pdu.word(32);
        }
        pdu
    }

    pub fn try_recv(&mut self) -> std::io::Result<Pdu> {
        let mut bhs = [0; 48];
        self.stream.read_exact(&mut bhs)?;
        if self.digests.0 {
            let mut digest = [0; 4];
            self.stream.read_exact(&mut digest)?;
            assert_eq!(digest, Digest::of(&bhs).bytes(), "header digest");
        }
        let len = u32::from_be_bytes([0, bhs[5], bhs[6], bhs[7]]) as usize;
        let mut data = vec![0; len.next_multiple_of(4)];
        self.stream.read_exact(&mut data)?;
        if self.digests.1 && len > 0 {
            let mut digest = [0; 4];
            self.stream.read_exact(&mut digest)?;
            assert_eq!(digest, Digest::of(&data).bytes(), "data digest");
        }
        data.truncate(len);
        Ok(Pdu { bhs, data })
    }

    /// A SCSI Command's header. `flags`: F, R, W and the attribute.
    pub fn command(&mut self, flags: u8, expected: u32, cdb: [u8; 16]) -> [u8; 48] {
        let itt = self.itt();
        let mut bhs = head(0x01, flags, itt);
        bhs[8..16].copy_from_slice(&LUN_1.to_be_bytes());
        put(&mut bhs, 20, expected);
        put(&mut bhs, 24, self.cmd_sn);
        bhs[32..].copy_from_slice(&cdb);
        self.cmd_sn += 1;
        bhs
    }

    /// A command without Data-Out; gives its tag.
    pub fn ask(&mut self, expected: u32, cdb: [u8; 16]) -> u32 {
        let flags = if expected > 0 { 0xc1 } else { 0x81 };
        let bhs = self.command(flags, expected, cdb);
        self.send(bhs, &[]);
        u32::from_be_bytes(bhs[16..20].try_into().unwrap())
    }

    /// All of a command's answer: its data, and the PDU with its status.
    pub fn answer(&mut self, itt: u32) -> (Vec<u8>, Pdu) {
        let mut data = Vec::new();
        loop {
            let pdu = self.recv();
            assert_eq!(pdu.itt(), itt, "{pdu:?}");
            match pdu.opcode() {
                0x25 => {
                    assert_eq!(pdu.word(40) as usize, data.len(), "data comes in order");
                    data.extend(&pdu.data);
                    if pdu.bhs[1] & 1 != 0 {
                        return (data, pdu);
                    }
                }
                0x21 => return (data, pdu),
                other => panic!("{other:#x} instead of an answer"),
            }
        }
    }

    pub fn read(&mut self, lba: u32, blocks: u16) -> (Vec<u8>, Pdu) {
        let itt = self.ask(u32::from(blocks) * 512, read10(lba, blocks));
        self.answer(itt)
    }

    /// A Data-Out.
    pub fn data_out(&mut self, itt: u32, ttt: u32, data_sn: u32, offset: u32, last: bool, data: &[u8]) {
        let mut bhs = head(0x05, if last { 0x80 } else { 0 }, itt);
        bhs[8..16].copy_from_slice(&LUN_1.to_be_bytes());
        put(&mut bhs, 20, ttt);
        put(&mut bhs, 36, data_sn);
        put(&mut bhs, 40, offset);
        self.send(bhs, data);
    }

    /// Answers R2Ts until the status comes.
    pub fn write_out(&mut self, itt: u32, data: &[u8]) -> Pdu {
        loop {
            let pdu = self.recv();
            assert_eq!(pdu.itt(), itt);
            match pdu.opcode() {
                0x31 => {
                    let (ttt, offset, len) = (pdu.word(20), pdu.word(40), pdu.word(44) as usize);
                    let part = &data[offset as usize..offset as usize + len];
                    let pieces: Vec<&[u8]> = part.chunks(40_000).collect();
                    let mut at = offset;
                    for (sn, piece) in pieces.iter().enumerate() {
                        self.data_out(itt, ttt, sn as u32, at, sn + 1 == pieces.len(), piece);
                        at += piece.len() as u32;
                    }
                }
                0x21 => return pdu,
                other => panic!("{other:#x} instead of an R2T or a status"),
            }
        }
    }

    /// A WRITE with so much of its data immediate.
    pub fn write(&mut self, lba: u32, data: &[u8], immediate: usize) -> Pdu {
        let bhs = self.command(0xa1, data.len() as u32, write10(lba, (data.len() / 512) as u16));
        let itt = u32::from_be_bytes(bhs[16..20].try_into().unwrap());
        self.send(bhs, &data[..immediate]);
        self.write_out(itt, data)
    }

    /// A task management function, immediate; gives its tag.
    pub fn manage(&mut self, function: u8, referenced: u32, ref_cmd_sn: u32) -> u32 {
        let itt = self.itt();
        let mut bhs = head(0x42, 0x80 | function, itt);
        bhs[8..16].copy_from_slice(&LUN_1.to_be_bytes());
        put(&mut bhs, 20, referenced);
        put(&mut bhs, 24, self.cmd_sn);
        put(&mut bhs, 32, ref_cmd_sn);
        self.send(bhs, &[]);
        itt
    }

    /// A ping comes back: all that was sent before has been dealt with.
    pub fn ping(&mut self) -> Pdu {
        let itt = self.itt();
        let mut bhs = head(0x40, 0x80, itt);
        put(&mut bhs, 20, 0xffff_ffff);
        put(&mut bhs, 24, self.cmd_sn);
        self.send(bhs, b"ping");
        let pdu = self.recv();
        assert_eq!((pdu.opcode(), pdu.itt(), &pdu.data[..]), (0x20, itt, &b"ping"[..]));
        pdu
    }

    /// Whether the target has closed (what it still sends is thrown away).
    pub fn is_closed(&mut self) -> bool {
        let mut sink = [0; 65536];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return true,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    /// Is nothing to be read for a while?
    /// How many PDUs without data lie here.
    pub fn at_hand(&mut self) -> usize {
        let mut bytes = [0; 48 * 1024];
        self.stream.set_nonblocking(true).unwrap();
        let there = self.stream.peek(&mut bytes).unwrap_or(0);
        self.stream.set_nonblocking(false).unwrap();
        there / 48
    }

    pub fn is_silent(&mut self) -> bool {
        self.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut byte = [0; 1];
        let silent = self.stream.peek(&mut byte).is_err();
        self.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        silent
    }
}

/// A target of two shards for each I/O path, on a volume of 64 MiB whose requests a test holds.
pub fn with_limits(limits: &[(&str, u64)], test: impl Fn(&Target, &Arc<Held>)) {
    for path in paths() {
        let held = Held::new(64 << 20);
        let target = Target::start(path, limits, 2, |engine| {
            let volume = held.volume(engine);
            engine.swap_gate(volume, scsi_gate(2, 64 << 20)).unwrap();
            volume
        });
        test(&target, &held);
        held.finish(Err(libc::EIO));
    }
}

/// The tag of a PDU.
pub fn itt(bhs: [u8; 48]) -> u32 {
    u32::from_be_bytes(bhs[16..20].try_into().unwrap())
}

/// A Logout Request, immediate; gives its tag.
pub fn log_out(it: &mut Initiator, reason: u8, cid: u16) -> u32 {
    let tag = it.itt();
    let mut bhs = head(0x46, 0x80 | reason, tag);
    put(&mut bhs, 20, u32::from(cid) << 16);
    put(&mut bhs, 24, it.cmd_sn);
    it.send(bhs, &[]);
    tag
}

/// On one shard, and a volume that is a file.
pub fn with_image(limits: &[(&str, u64)], size: u64, test: impl Fn(&Target)) {
    for path in paths() {
        let image = Image::new(size);
        let target = Target::start(path, limits, 1, |engine| {
            let volume = engine.open_volume(image.spec()).unwrap();
            engine.swap_gate(volume, scsi_gate(2, size)).unwrap();
            volume
        });
        test(&target);
    }
}
