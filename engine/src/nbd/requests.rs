//! From a request's header to its answer: judged, given to the volume, answered, counted.

use super::admit::{admit, check_range, parse_status_payload, refusal, No, Verdict};
use super::intake::Rx;
use super::large::Large;
use super::link::{End, Link};
use super::replies::{self, Asked};
use super::transmission::Transmission;
use super::wire::{self, error, Header};
use crate::backstores::file::mapped::MAPPED_MIN;
use crate::block::command::{Extent, Flags, Op, Request, MAX_EXTENTS};
use crate::block::gate::Refusal;
use crate::block::volume::Step;
use crate::shard::buffers::{BufPool, IoBuf};
use crate::shard::context::{Attachment, Ctx, RingJob, Role, Task};
use crate::shard::limits::PIECE_BYTES;
use crate::shard::mailbox::Completion;
use crate::shard::tasks::TaskHandle;

/// Payloads from here on are received into their buffer, without the copy that small ones take.
const DIRECT_BYTES: u64 = 32 << 10;
/// Extent vectors that a shard keeps for reuse.
const SPARE_EXTENTS: usize = 16;

impl Transmission {
    /// A request's header is there (now, or when it was parked): judge it, and go on with it.
    pub(super) fn request(&mut self, link: &mut Link, ctx: &mut Ctx, header: Header) -> Result<(), End> {
        match admit(&header, &self.terms) {
            Verdict::Disconnect => self.close(link, ctx, "disconnected by the client".into()),
            Verdict::Fatal(why) => return Err(why.into()),
            Verdict::Refuse { no, payload } => self.skip(link, ctx, header, payload, no),
            Verdict::CollectStatus { flags, .. } if !self.has_room(link, ctx, self.status_cost(flags), 1) => {
                self.parked = Some(header);
            }
            Verdict::CollectStatus { bytes, flags } => {
                self.rx = Rx::Status { header, flags, bytes: Vec::with_capacity(bytes), need: bytes };
            }
            Verdict::Run { op, flags, unfragmented } => {
                let asked = Asked { op, flags, cookie: header.cookie, offset: header.offset, len: header.length };
                let payload = if op == Op::Write { header.length } else { 0 };
                match self.check_gate(link, ctx, &asked) {
                    Err(no) => self.skip(link, ctx, header, payload, no),
                    Ok(()) => self.run(link, ctx, header, asked, unfragmented)?,
                }
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        header: Header,
        asked: Asked,
        unfragmented: bool,
    ) -> Result<(), End> {
        if asked.len == 0 && asked.op != Op::Flush {
            self.answer(link, ctx, &asked, Ok(()));
            return Ok(());
        }
        let has_data = matches!(asked.op, Op::Read | Op::Write);
        if has_data && asked.len > PIECE_BYTES as u64 {
            return self.run_large(link, ctx, header, asked, unfragmented);
        }
        if asked.op == Op::Read && self.read_mapped(link, ctx, &asked) {
            return Ok(());
        }
        let room = match asked.op {
            Op::Write => self.has_room_to_collect(link, ctx, asked.len as usize),
            Op::Read => self.has_room(link, ctx, BufPool::cost(asked.len as usize), 1),
            Op::BlockStatus => self.has_room(link, ctx, self.status_cost(asked.flags), 1),
            _ => self.has_room(link, ctx, 0, 1),
        };
        if !room && asked.op == Op::Write && self.has_room(link, ctx, BufPool::cost(asked.len as usize), 1) {
            // Only what is slow to come elsewhere is in its way: it goes as a large one does, piece by piece as it comes.
            return self.run_large(link, ctx, header, asked, unfragmented);
        }
        if !room {
            self.parked = Some(header);
            return Ok(());
        }
        if asked.op == Op::Write {
            self.direct = asked.len >= DIRECT_BYTES;
            let buf = self.take_for_payload(ctx, asked.len as usize);
            self.rx = Rx::Payload { asked, buf, filled: 0 };
            return Ok(());
        }
        self.direct = false;
        let buf = has_data.then(|| self.take(ctx, asked.len as usize));
        self.start(link, ctx, asked, buf, Role::Whole { ids: None })
    }

    /// Answers a large READ straight from the page cache, where that can be done. (TLS reads what it
    /// sends, and must find it where it was.)
    fn read_mapped(&mut self, link: &mut Link, ctx: &mut Ctx, asked: &Asked) -> bool {
        if asked.len < MAPPED_MIN as u64 || link.transport.tls().is_some() || self.aside.is_some() {
            return false;
        }
        let len = asked.len as usize;
        let volume = &self.attachment.entry.volume;
        let Some(bytes) = volume.map_read(asked.offset, len) else { return false };
        replies::mapped_data(&mut link.out, &self.terms, asked, volume.id(), bytes);
        self.direct = false;
        self.turn_left = self.turn_left.saturating_sub(len);
        ctx.ended.push((asked.op, asked.len, false));
        true
    }

    /// The longest answer that a BLOCK_STATUS may have, bytes.
    fn status_cost(&self, flags: Flags) -> usize {
        let extents = if flags.req_one { 1 } else { MAX_EXTENTS };
        self.terms.contexts.len() * wire::status_bytes(self.terms.extended, extents)
    }

    fn run_large(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        header: Header,
        asked: Asked,
        unfragmented: bool,
    ) -> Result<(), End> {
        let one_reply = unfragmented || !(self.terms.structured || self.terms.extended);
        let large = Large::new(asked, one_reply, ctx.now_ns.get());
        if !self.has_room_for(link, ctx, &large) {
            self.parked = Some(header);
            return Ok(());
        }
        let mode = large.mode;
        let Ok(handle) = self.larges.insert(large) else {
            self.parked = Some(header);
            return Ok(());
        };
        self.begin_large(link, ctx, handle, mode)
    }

    fn check_gate(&self, link: &Link, ctx: &Ctx, asked: &Asked) -> Result<(), No> {
        if ctx.stopping {
            return Err(No { error: error::ESHUTDOWN, text: "the server is being shut down" });
        }
        if ctx.is_fenced() {
            return Err(No { error: error::ESHUTDOWN, text: "the gateway's lease has lapsed" });
        }
        let gate = self.attachment.entry.gate.borrow();
        let checked = match gate.as_ref() {
            Some(gate) => gate.check(link.id, asked.op, asked.offset, asked.len),
            None => Err(Refusal::Closed),
        };
        checked.map_err(|why| refusal(asked.op, why))
    }

    /// Skips a refused request's payload, then says no.
    fn skip(&mut self, link: &mut Link, ctx: &mut Ctx, header: Header, payload: u64, no: No) {
        if payload == 0 {
            self.refuse(link, ctx, &header, no);
        } else {
            self.direct = false;
            self.rx = Rx::Skip { header, left: payload, no };
        }
    }

    pub(super) fn refuse(&mut self, link: &mut Link, ctx: &mut Ctx, header: &Header, no: No) {
        if let Some(op) = op_of(header.kind) {
            ctx.ended.push((op, 0, true));
        }
        let terms = &self.terms;
        let out = self.aside.as_mut().unwrap_or(&mut link.out);
        replies::error(out, terms, header.cookie, header.offset, no);
    }

    pub(super) fn status_payload(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        header: Header,
        flags: Flags,
        payload: &[u8],
    ) -> Result<(), End> {
        let asked = |len| Asked { op: Op::BlockStatus, flags, cookie: header.cookie, offset: header.offset, len };
        let checked = parse_status_payload(payload, &self.terms).and_then(|(len, ids)| {
            check_range(Op::BlockStatus, header.offset, len, &self.terms)?;
            self.check_gate(link, ctx, &asked(len))?;
            Ok((len, ids))
        });
        match checked {
            Err(no) => {
                self.refuse(link, ctx, &header, no);
                Ok(())
            }
            // A payload cannot be parked: this one task may be above the connection's bound.
            Ok(_) if ctx.task_room() == 0 => {
                self.refuse(link, ctx, &header, No { error: error::ENOMEM, text: "too many requests in flight" });
                Ok(())
            }
            Ok((len, ids)) => self.start(link, ctx, asked(len), None, Role::Whole { ids: Some(ids) }),
        }
    }

    /// Gives a request, or a piece of one, to the volume. The gate is asked once more: it may
    /// have changed since the header came.
    pub(super) fn start(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        asked: Asked,
        buf: Option<IoBuf>,
        role: Role,
    ) -> Result<(), End> {
        let cost = buf.as_ref().map_or(0, IoBuf::capacity);
        self.turn_left = self.turn_left.saturating_sub(cost);
        let mut request = Request::new(asked.op, asked.flags, asked.offset, asked.len);
        request.buf = buf;
        if let Err(no) = self.check_gate(link, ctx, &asked) {
            // The protocol's errors have Linux' numbers.
            return self.ended(link, ctx, asked, role, request, Err(no.error as i32), None);
        }
        if asked.op == Op::BlockStatus {
            request.extents = Some(ctx.extents.pop().unwrap_or_default());
        }
        let attachment = &self.attachment;
        let volume = &attachment.entry.volume;
        let started_ns = ctx.now_ns.get();
        let mut role = Some(role);
        let mut made = None;
        let (conn, conn_id, mailbox) = (link.handle, link.id, &ctx.mailbox);
        let ring = ctx.poller.has_ring();
        let tasks = &mut ctx.tasks;
        let mut insert = |ring: Option<RingJob>| {
            let role = role.take().expect("a request becomes one task");
            let attachment = attachment.clone();
            attachment.entry.task_begins(cost);
            let (nexus, waiting, stopped) = (conn_id, None, None);
            let task = Task { conn, conn_id, nexus, attachment, asked, role, started_ns, cost, waiting, stopped, ring };
            tasks.insert(task).ok().expect("room was checked before the request was started")
        };
        let step = volume.start(request, ring, || {
            let handle = insert(None);
            made = Some(handle);
            Completion::new(mailbox.clone(), handle)
        });
        match step {
            Step::Done(request, result) => {
                let role = role.take().expect("it made no task");
                self.ended(link, ctx, asked, role, request, result, None)
            }
            step @ (Step::Pending | Step::Waiting(_)) => {
                self.in_flight += 1;
                // Its completion is ours to read, so the task is still there.
                if let Some(task) = made.and_then(|handle| ctx.tasks.get_mut(handle)) {
                    if let Step::Waiting(place) = step {
                        task.waiting = Some(place);
                    }
                    if asked.op == Op::BlockStatus {
                        // No buffer is behind it, but its answer may become as long.
                        task.cost = self.status_cost(asked.flags);
                        self.held += task.cost;
                        ctx.bufs.charge(task.cost);
                        let bytes = &self.attachment.entry.task_bytes;
                        bytes.set(bytes.get() + task.cost);
                    }
                }
                Ok(())
            }
            Step::Ring(request, target) => {
                let handle = insert(Some(RingJob { request, target, done: 0 }));
                self.in_flight += 1;
                match ctx.run_ring(handle) {
                    Ok(()) => Ok(()),
                    Err(errno) => self.ring_refused(link, ctx, handle, errno),
                }
            }
        }
    }

    /// The ring did not take a task's I/O.
    fn ring_refused(&mut self, link: &mut Link, ctx: &mut Ctx, handle: TaskHandle, errno: i32) -> Result<(), End> {
        let mut task = ctx.end_task(handle).expect("it was just made");
        let job = task.ring.take().expect("a ring task");
        task.attachment.entry.volume.ring_done(&job.request, &Err(errno));
        self.task_ended(link, ctx, task, job.request, Err(errno))
    }

    /// A task of this connection has ended.
    pub fn task_ended(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        task: Task,
        request: Request,
        result: Result<(), i32>,
    ) -> Result<(), End> {
        self.in_flight -= 1;
        if request.buf.is_none() && task.cost > 0 {
            // Room for an answer; or a back end that lost the request lost its buffer too.
            self.held -= task.cost;
            ctx.bufs.forget(task.cost);
        }
        self.ended(link, ctx, task.asked, task.role, request, result, Some(task.started_ns))
    }

    #[allow(clippy::too_many_arguments)]
    fn ended(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        asked: Asked,
        role: Role,
        mut request: Request,
        result: Result<(), i32>,
        started_ns: Option<u64>,
    ) -> Result<(), End> {
        request.permit = None;
        let ids = match role {
            Role::Piece { large } => return self.piece_ended(link, ctx, large, &asked, request.buf, result),
            Role::Whole { ids } => ids,
            Role::Scsi { .. } => unreachable!("NBD makes no SCSI tasks"),
        };
        match started_ns {
            Some(started_ns) => self.count_task(ctx, &asked, result.is_err(), started_ns),
            None => ctx.ended.push((asked.op, asked.len, result.is_err())),
        }
        match (asked.op, result, request.buf) {
            (Op::Read, Ok(()), Some(buf)) => {
                self.held -= buf.capacity();
                let terms = &self.terms;
                replies::data(self.aside.as_mut().unwrap_or(&mut link.out), terms, &asked, buf);
                return Ok(());
            }
            (_, _, Some(buf)) => self.give(ctx, buf),
            (Op::BlockStatus, _, _) => {
                let extents = request.extents.take().unwrap_or_default();
                self.answer_status(link, ctx, &asked, ids, extents, result);
                return Ok(());
            }
            _ => {}
        }
        self.say(link, &asked, result);
        Ok(())
    }

    fn answer_status(
        &mut self,
        link: &mut Link,
        ctx: &mut Ctx,
        asked: &Asked,
        ids: Option<Vec<u32>>,
        mut extents: Vec<Extent>,
        result: Result<(), i32>,
    ) {
        match result {
            Ok(()) if !extents.is_empty() => {
                let terms = &self.terms;
                let ids = ids.as_deref().unwrap_or(&terms.contexts);
                let out = self.aside.as_mut().unwrap_or(&mut link.out);
                replies::status(out, terms, asked, ids, &mut extents);
            }
            Ok(()) => self.say(link, asked, Err(libc::EIO)),
            Err(errno) => self.say(link, asked, Err(errno)),
        }
        if ctx.extents.len() < SPARE_EXTENTS {
            extents.clear();
            extents.shrink_to(64);
            ctx.extents.push(extents);
        }
    }

    /// Counts and answers a request that needed no volume.
    fn answer(&mut self, link: &mut Link, ctx: &mut Ctx, asked: &Asked, result: Result<(), i32>) {
        ctx.ended.push((asked.op, asked.len, result.is_err()));
        self.say(link, asked, result);
    }

    /// Answers without data.
    pub(super) fn say(&mut self, link: &mut Link, asked: &Asked, result: Result<(), i32>) {
        let terms = &self.terms;
        let out = self.aside.as_mut().unwrap_or(&mut link.out);
        match result {
            Ok(()) => replies::done(out, terms, asked),
            Err(errno) => {
                let no = No { error: wire::error_of(errno), text: "" };
                replies::error(out, terms, asked.cookie, asked.offset, no);
            }
        }
    }

    /// Books the requests that ended inline, all with the time of their batch.
    pub(super) fn count_ended(&mut self, ctx: &mut Ctx) {
        if ctx.ended.is_empty() {
            return;
        }
        let started = ctx.now_ns.get();
        let latency_us = (ctx.tick() - started) / 1000;
        let mut counts = self.attachment.counts.borrow_mut();
        let own = self.counts.get_or_insert_default();
        for (op, bytes, failed) in ctx.ended.drain(..) {
            counts.count(op, bytes, failed, latency_us);
            own.count(op, bytes, failed, latency_us);
        }
    }

    /// Books a request that took its time.
    pub(super) fn count_task(&mut self, ctx: &Ctx, asked: &Asked, failed: bool, started_ns: u64) {
        let latency_us = count_task(&self.attachment, ctx, asked, failed, started_ns);
        self.counts.get_or_insert_default().count(asked.op, asked.len, failed, latency_us);
    }
}

/// Books a request that took its time with its export; gives back how long that was, microseconds.
/// This alone is for one whose connection is gone.
pub fn count_task(attachment: &Attachment, ctx: &Ctx, asked: &Asked, failed: bool, started_ns: u64) -> u64 {
    let latency_us = ctx.now_ns.get().saturating_sub(started_ns) / 1000;
    attachment.counts.borrow_mut().count(asked.op, asked.len, failed, latency_us);
    latency_us
}

pub(super) fn op_of(kind: u16) -> Option<Op> {
    use wire::cmd;
    Some(match kind {
        cmd::READ => Op::Read,
        cmd::WRITE => Op::Write,
        cmd::FLUSH => Op::Flush,
        cmd::TRIM => Op::Discard,
        cmd::CACHE => Op::Cache,
        cmd::WRITE_ZEROES => Op::WriteZeroes,
        cmd::BLOCK_STATUS => Op::BlockStatus,
        _ => return None,
    })
}
