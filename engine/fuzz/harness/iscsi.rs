//! A session in full feature phase on a socket pair; whatever goes up is answered at once.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use _engine::block::gate::{Gate, Situation};
use _engine::iscsi::connection::Connection;
use _engine::iscsi::inflow::Terms;
use _engine::iscsi::params::{LunMap, Mapped, Params};
use _engine::iscsi::requests::TextReply;
use _engine::iscsi::shard::{Named, Table};
use _engine::iscsi::wire::Bhs;
use _engine::scsi::canned::Canned;
use _engine::scsi::gate::{BlockLimits, ScsiGate};
use _engine::scsi::row::ALL_NEEDS;
use _engine::shard::context::Ctx;
use _engine::shard::control::{NewConn, Protocol};
use _engine::shard::events::{Event, Lanes};
use _engine::shard::limits::Limits;
use _engine::shard::mailbox::Mailbox;
use _engine::shard::poller::{open, IoPath};
use _engine::shard::tasks::TaskHandle;

use super::portion;
use super::session::{shrink_send_buffer, volume, SIZE};

fn gate() -> Gate {
    let scsi = ScsiGate {
        block_size: 512,
        descriptor_sense: false,
        software_write_protect: false,
        not_ready: None,
        tas: false,
        qerr: 0,
        limits: BlockLimits { compare_and_write_blocks: 255, unmap_descriptors: 256, ..BlockLimits::default() },
        needs_met: ALL_NEEDS,
        canned: Canned::new(),
        ports: Default::default(),
    };
    Gate {
        generation: 1,
        size: SIZE,
        read_only: false,
        access: Default::default(),
        default_access: Situation::Free,
        scsi: Some(Arc::new(scsi)),
    }
}

/// What an input's first byte asks for.
fn params(mode: u8) -> Params {
    Params {
        session: 1,
        nexus: 1 << 62,
        port: 1,
        discovery: mode & 32 != 0,
        cid: 0,
        initiator: "i".into(),
        target: "t".into(),
        header_digest: mode & 1 != 0,
        data_digest: mode & 2 != 0,
        max_send_data: if mode & 4 != 0 { 513 } else { 8192 },
        max_recv_data: 65_536,
        terms: Terms {
            first_burst: 4096,
            max_burst: 8192,
            max_outstanding_r2t: 2,
            initial_r2t: mode & 8 != 0,
            immediate_data: mode & 16 == 0,
        },
        exp_cmd_sn: 1,
        stat_sn: 1,
        queue_depth: 16,
        nop_interval_ms: 0,
        nop_timeout_ms: 0,
        luns: None,
    }
}

/// First byte: the terms; second: how the bytes arrive; the rest: what an initiator sends before it
/// closes its side. Afterwards nothing may be left of it.
pub fn run(data: &[u8]) {
    let [mode, portions, stream @ ..] = data else { return };
    let lanes = Arc::new(Lanes::new(1).unwrap());
    let mut ctx = Ctx::new(Limits::default(), lanes, Mailbox::new(64).unwrap(), open(IoPath::Epoll).unwrap());
    let volume = volume();
    *ctx.entry(&volume).gate.borrow_mut() = Some(Arc::new(gate()));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    shrink_send_buffer(&ours);
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    let new = NewConn {
        id: 1,
        fd: OwnedFd::from(ours),
        listener: 1,
        label: "fuzz".into(),
        protocol: Protocol::Iscsi,
        peer: "fuzz".into(),
        local: "fuzz".into(),
        since: 0.0,
    };
    let mut connection = Connection::new(new, TaskHandle::new(0, 1), &mut ctx);
    let mut params = params(*mode);
    params.luns =
        Some(LunMap { luns: vec![Mapped { lun: 0, volume, read_only: false, attentions: 0 }], ..LunMap::default() });
    connection.begin(&mut ctx, b"", Box::new(params)).unwrap();

    let (mut out, mut alive) = (Vec::new(), true);
    for part in stream.chunks(portion(*portions).min(stream.len().max(1))) {
        let mut part = part;
        while alive && !part.is_empty() {
            let taken = theirs.write(part).unwrap_or(0);
            part = &part[taken..];
            alive = turn(&mut connection, &mut ctx, &mut theirs, &mut out);
        }
    }
    let _ = theirs.shutdown(std::net::Shutdown::Write);
    while alive {
        alive = turn(&mut connection, &mut ctx, &mut theirs, &mut out);
    }
    connection.release(&mut ctx);
    assert_eq!(ctx.bufs.lent_bytes(), 0, "a buffer was lost");
    assert_eq!((ctx.tasks.len(), ctx.reserved_tasks, ctx.collecting_bytes), (0, 0, 0), "a task was lost");
    check_pdus(&out, mode & 1 != 0, mode & 2 != 0);
}

/// A turn, and what Python would do; false: the connection has ended.
fn turn(connection: &mut Connection, ctx: &mut Ctx, theirs: &mut UnixStream, out: &mut Vec<u8>) -> bool {
    connection.note_ready(true, true);
    let alive = connection.turn(ctx).is_ok();
    ctx.kicked.clear();
    let mut bytes = [0; 65_536];
    while let Ok(count @ 1..) = theirs.read(&mut bytes) {
        out.extend_from_slice(&bytes[..count]);
    }
    for event in ctx.lanes.clone().take(1000) {
        answer(connection, ctx, event);
    }
    alive
}

fn answer(connection: &Connection, ctx: &mut Ctx, event: Event) {
    let Some((session, at)) = connection.session() else { return };
    let mut session = session.borrow_mut();
    match event {
        Event::Command(command) => {
            let Some(Named::Command { command: handle, .. }) = ctx.iscsi.named.get(Table::name_of(command.task)) else {
                return;
            };
            session.complete(ctx, *handle, 0, &[1; 300], &[]);
        }
        Event::TaskManagement(it) => {
            let named = ctx.iscsi.named.remove(Table::name_of(it.task));
            if let Some(Named::Management { conn, itt, target, .. }) = named {
                session.management_done(ctx, conn, itt, target, 0);
            }
            ctx.iscsi.release(it.cut, None);
            session.released(ctx);
        }
        Event::Text(text) => {
            let (itt, ttt, data) = (text.itt, u32::MAX, vec![b'x'; 9]);
            let reply = TextReply { itt, ttt, last: true, continued: false, data, max_send_data: None };
            session.text_reply(ctx, at, &reply);
        }
        _ => {}
    }
}

/// What was sent must be whole PDUs, the last one perhaps cut off, each of a target's kinds.
fn check_pdus(mut out: &[u8], header_digest: bool, data_digest: bool) {
    while let Some(bhs) = Bhs::at(out) {
        assert!(bhs.opcode() & 0x20 != 0, "an initiator's opcode: {bhs:?}");
        assert_eq!(bhs.ahs_bytes(), 0);
        let len = bhs.data_bytes();
        let data = if len == 0 { 0 } else { len.next_multiple_of(4) + if data_digest { 4 } else { 0 } };
        let whole = 48 + if header_digest { 4 } else { 0 } + data;
        let Some(rest) = out.get(whole..) else { return };
        out = rest;
    }
}
