//! A real session on a socket pair, over a volume in memory that answers at once.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use _engine::backstores::{Attempt, Backstore, Completion, RingTarget};
use _engine::block::command::{Extent, Op, Request};
use _engine::block::gate::{Gate, Situation};
use _engine::block::health::Health;
use _engine::block::volume::{Volume, VolumeSpec};
use _engine::nbd::session::Session;
use _engine::shard::context::Ctx;
use _engine::shard::control::{Attach, NewConn, Protocol};
use _engine::shard::events::Lanes;
use _engine::shard::limits::Limits;
use _engine::shard::mailbox::Mailbox;
use _engine::shard::poller::{open, IoPath};
use _engine::shard::tasks::TaskHandle;

use super::{portion, replies, terms};

pub const SIZE: u64 = 1 << 20;

struct Memory(Mutex<Vec<u8>>);

impl Backstore for Memory {
    fn size(&self) -> u64 {
        SIZE
    }
    fn expect_size(&self, _: u64) {}
    fn alignment(&self) -> u32 {
        1
    }
    fn try_now(&self, request: &mut Request) -> Attempt {
        let mut bytes = self.0.lock().unwrap();
        let range = request.offset as usize..(request.offset + request.len) as usize;
        match (request.op, &mut request.buf) {
            (Op::Read, Some(buf)) => buf.copy_from_slice(&bytes[range]),
            (Op::Write, Some(buf)) => bytes[range].copy_from_slice(buf),
            (Op::WriteZeroes, _) if request.flags.fast_zero => return Attempt::Done(Err(libc_enotsup())),
            (Op::WriteZeroes | Op::Discard, _) => bytes[range].fill(0),
            (Op::BlockStatus, _) => {
                let extents = request.extents.as_mut().expect("handed in");
                extents.push(Extent { length: request.len, flags: 0 });
            }
            _ => {}
        }
        Attempt::Done(Ok(()))
    }
    fn ring_target(&self, _: &Request) -> Option<RingTarget> {
        None
    }
    fn submit(&self, _: Request, _: Completion) {
        unreachable!("everything ends inline");
    }
    fn note_ring_result(&self, _: &Request, _: &Result<(), i32>) {}
    fn health(&self) -> Health {
        Health::default()
    }
    fn queue_depth(&self) -> usize {
        0
    }
    fn refresh_size(&self) -> std::io::Result<u64> {
        Ok(SIZE)
    }
    fn check(&self) {}
    fn close(&self) -> std::io::Result<()> {
        Ok(())
    }
}

const fn libc_enotsup() -> i32 {
    95
}

pub fn volume() -> Arc<Volume> {
    let spec = VolumeSpec {
        path: "memory".into(),
        direct: false,
        write_through: false,
        read_only: false,
        block_size: 512,
        offset: 0,
        length: None,
        device: false,
        suspect: None,
    };
    Volume::with_backstore(1, spec, Box::new(Memory(Mutex::new(vec![0; SIZE as usize]))))
}

/// First byte: the terms; second: how the bytes arrive; the rest: what a peer sends before it
/// closes its side. Afterwards nothing may be left of it.
pub fn run(data: &[u8]) {
    let [mode, portions, stream @ ..] = data else { return };
    let limits = Limits::default();
    let lanes = Arc::new(Lanes::new(1).unwrap());
    let mailbox = Mailbox::new(64).unwrap();
    let mut ctx = Ctx::new(limits, lanes, mailbox, open(IoPath::Epoll).unwrap());
    let volume = volume();
    let gate = Gate {
        generation: 1,
        size: SIZE,
        read_only: false,
        access: Default::default(),
        default_access: Situation::Free,
        scsi: None,
    };
    *ctx.entry(&volume).gate.borrow_mut() = Some(Arc::new(gate));

    let (ours, mut theirs) = UnixStream::pair().unwrap();
    shrink_send_buffer(&ours);
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let new = NewConn {
        id: 1,
        fd: OwnedFd::from(ours),
        listener: 1,
        label: "fuzz".into(),
        protocol: Protocol::Nbd,
        peer: "fuzz".into(),
        local: "fuzz".into(),
        since: 0.0,
    };
    let mut session = Session::new(new, TaskHandle::new(0, 1), &mut ctx);
    let attach = Attach { volume, export: "fuzz".into(), terms: terms(*mode) };
    let extended = attach.terms.extended;
    session.transmit(&mut ctx, b"", attach).unwrap();

    let mut out = Vec::new();
    let mut alive = true;
    // The peer reads some bytes after each turn, in sizes that follow from the input.
    let mut appetite = appetite(data);
    for part in stream.chunks(portion(*portions).min(stream.len().max(1))) {
        let mut part = part;
        while alive && !part.is_empty() {
            // A full socket is emptied by the turn that follows.
            part = &part[theirs.write(part).unwrap_or(0)..];
            alive = turn(&mut session, &mut ctx, &mut theirs, &mut out, appetite());
        }
    }
    let _ = theirs.shutdown(std::net::Shutdown::Write);
    while alive {
        alive = turn(&mut session, &mut ctx, &mut theirs, &mut out, appetite());
    }
    session.release(&mut ctx);
    assert_eq!(ctx.bufs.lent_bytes(), 0, "a buffer was lost");
    assert_eq!((ctx.tasks.len(), ctx.reserved_tasks), (0, 0), "a task was lost");
    check_replies(stream, &out, extended);
}

/// The least that a kernel gives: replies then wait in the session, not in the socket.
pub fn shrink_send_buffer(stream: &UnixStream) {
    let bytes: libc::c_int = 1;
    // SAFETY: a valid option with its value and size.
    let set = unsafe {
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF, (&raw const bytes).cast(), 4)
    };
    assert_eq!(set, 0);
}

/// How much the peer reads after each turn: some thousand bytes, or all there is.
fn appetite(data: &[u8]) -> impl FnMut() -> usize + '_ {
    let (mut at, mut mixed) = (0, 0usize);
    move || {
        at += 1;
        mixed = mixed.wrapping_mul(31).wrapping_add(usize::from(data[at % data.len()]) + at);
        match mixed % 8 {
            0 => usize::MAX,
            eighth => eighth * 1000 + mixed / 8 % 1000,
        }
    }
}

/// Gives the session a turn and reads at most `most` bytes of what it sends; false: it has ended.
fn turn(session: &mut Session, ctx: &mut Ctx, theirs: &mut UnixStream, out: &mut Vec<u8>, most: usize) -> bool {
    session.note_ready(true, true);
    let alive = session.turn(ctx).is_ok();
    let mut left = if alive { most } else { usize::MAX };
    let mut bytes = [0; 65_536];
    while left > 0 {
        let portion = left.min(bytes.len());
        match theirs.read(&mut bytes[..portion]) {
            Ok(count) if count > 0 => {
                out.extend_from_slice(&bytes[..count]);
                left -= count;
            }
            _ => break,
        }
    }
    alive
}

/// Replies must be well formed, each for a request that was sent, and each ended once.
fn check_replies(stream: &[u8], out: &[u8], extended: bool) {
    // Simple replies do not tell their length: look the READs up, by cookie, in what was sent.
    let size = if extended { 32 } else { 28 };
    let mut lengths = std::collections::HashMap::new();
    for at in 0..stream.len().saturating_sub(size - 1) {
        if let Ok(Some(header)) = _engine::nbd::wire::parse(&stream[at..], extended) {
            let len = if header.kind == 0 { header.length } else { 0 };
            if lengths.insert(header.cookie, len).is_some_and(|other| other != len) {
                // One cookie for requests of several lengths: such replies cannot be told apart.
                return;
            }
        }
    }
    let mut rest = out;
    while let Some(reply) = replies::take(&mut rest, extended, |cookie| lengths.get(&cookie).copied().unwrap_or(0)) {
        assert!(lengths.contains_key(&reply.cookie), "a reply to nothing: {reply:?}");
    }
}
