//! The transmission phase of one connection: requests are parsed as they come, carried out, and
//! answered in whatever order they end.
//!
//! Bounds: a request is started only while its buffers fit the connection's and the shard's
//! share; one that does not fit is parked, and its connection is not read until it does. So a
//! peer that does not read its replies stops being read, and holds no more than its share.

use std::rc::Rc;

use super::admit::{admit, check_range, parse_status_payload, refusal, Negotiated, No, Verdict};
use super::large::Large;
use super::link::{End, Link, Received};
use super::replies::{self, Asked};
use super::wire::{self, error, Header};
use crate::block::command::{Flags, Op, Request};
use crate::block::gate::Refusal;
use crate::block::volume::Step;
use crate::shard::buffers::{BufPool, IoBuf};
use crate::shard::context::{Attachment, Ctx, RingJob, Role, Scratch, Task, SCRATCH_BYTES};
use crate::shard::limits::PIECE_BYTES;
use crate::shard::outqueue::OutQueue;
use crate::shard::tasks::{Slab, TaskHandle};

/// Replies of so many bytes are sent before more are made: their buffers are then still hot.
pub(super) const FLUSH_BYTES: usize = 256 << 10;
/// Bytes that one connection moves before others have their turn.
const TURN_BYTES: usize = 2 << 20;
/// Payloads from here on are received into their buffer, without the copy that small ones take.
const DIRECT_BYTES: u64 = 32 << 10;

/// What the next bytes are.
enum Rx {
    Header,
    /// The payload of a WRITE of one piece.
    Payload { asked: Asked, buf: IoBuf, filled: usize },
    /// The payload of a large WRITE, one piece after the other; no buffer: waits for one.
    Pieces { large: TaskHandle, left: u64, buf: Option<IoBuf>, filled: usize },
    /// The payload of a BLOCK_STATUS.
    Status { header: Header, flags: Flags, bytes: Vec<u8>, need: usize },
    /// The payload of a refused request.
    Skip { header: Header, left: u64, no: No },
}

/// What a session has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub reads: u64,
    pub writes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// See the module's text.
pub struct Transmission {
    pub(super) attachment: Rc<Attachment>,
    pub(super) terms: Negotiated,
    rx: Rx,
    /// A request that waits for buffers or tasks.
    parked: Option<Header>,
    pub(super) larges: Slab<Large>,
    /// Large READs with pieces to start.
    pub(super) active: Vec<TaskHandle>,
    /// A READ whose one reply is being streamed; nothing more is parsed meanwhile.
    pub(super) stream: Option<TaskHandle>,
    /// Its head is out: other replies wait here.
    pub(super) aside: Option<OutQueue>,
    pub(super) in_flight: usize,
    /// Buffer capacity held, what waits in `out` apart.
    pub(super) held: usize,
    pub(super) tally: Tally,
    /// The last payload was received straight into its buffer: expect the next to be like it.
    direct: bool,
    /// Nothing more is read; the connection ends when all is answered.
    closing: Option<End>,
}

impl Transmission {
    /// A connection that has just entered the phase.
    pub fn new(attachment: Rc<Attachment>, terms: Negotiated) -> Self {
        Self {
            attachment,
            terms,
            rx: Rx::Header,
            parked: None,
            larges: Slab::new(1024),
            active: Vec::new(),
            stream: None,
            aside: None,
            in_flight: 0,
            held: 0,
            tally: Tally::default(),
            direct: false,
            closing: None,
        }
    }

    /// The export and its volume.
    pub fn attachment(&self) -> &Rc<Attachment> {
        &self.attachment
    }

    /// Requests that do not end inline: tasks in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What the session has done so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Is a request half received, or waiting for room? Then its (op, offset, length, "collecting" or "queued").
    pub fn unfinished_request(&self) -> Option<(Op, u64, u64, &'static str)> {
        if let Some(header) = &self.parked {
            let op = op_of(header.kind)?;
            return Some((op, header.offset, header.length, "queued"));
        }
        match &self.rx {
            Rx::Payload { asked, .. } => Some((asked.op, asked.offset, asked.len, "collecting")),
            Rx::Pieces { large, .. } => {
                let asked = self.larges.get(*large)?.asked;
                Some((asked.op, asked.offset, asked.len, "collecting"))
            }
            _ => None,
        }
    }

    /// Answers what is in flight, takes nothing more, and then ends.
    pub fn close(&mut self, why: End) {
        self.closing.get_or_insert(why);
    }

    /// Must the peer send something soon? (A request is half received, and it is read.)
    pub fn expects_bytes(&self, link: &Link) -> bool {
        let midway = !matches!(self.rx, Rx::Header) || !link.input.is_empty();
        midway && self.closing.is_none() && !self.is_paused(link)
    }

    fn is_paused(&self, link: &Link) -> bool {
        self.parked.is_some()
            || self.stream.is_some()
            || matches!(&self.rx, Rx::Pieces { buf: None, .. })
            || (!link.writable && link.out.bytes() >= FLUSH_BYTES)
    }

    /// Buffer capacity that the connection holds, all in all.
    pub(super) fn held_bytes(&self, link: &Link) -> usize {
        let aside = self.aside.as_ref().map_or(0, OutQueue::buffer_bytes);
        self.held + aside + link.out.buffer_bytes()
    }

    /// Where replies go.
    pub(super) fn sink<'a>(&'a mut self, link: &'a mut Link) -> &'a mut OutQueue {
        self.aside.as_mut().unwrap_or(&mut link.out)
    }

    /// Does what can be done now. `Ok(true)`: there may be more, others first.
    pub fn turn(&mut self, link: &mut Link, ctx: &mut Ctx) -> Result<bool, End> {
        let mut scratch = ctx.scratch.take().expect("one turn at a time");
        let result = self.turn_with(link, ctx, &mut scratch);
        ctx.scratch = Some(scratch);
        self.count_ended(ctx);
        result
    }

    fn turn_with(&mut self, link: &mut Link, ctx: &mut Ctx, scratch: &mut Scratch) -> Result<bool, End> {
        let mut moved = 0;
        loop {
            self.progress(link, ctx)?;
            link.flush(ctx)?;
            self.count_ended(ctx);
            if let Some(why) = &self.closing {
                let quiet = self.in_flight == 0 && self.larges.is_empty() && !link.has_unsent();
                return if quiet { Err(why.clone()) } else { Ok(false) };
            }
            if self.is_paused(link) || !link.readable {
                self.note_starved(link, ctx);
                return Ok(false);
            }
            if moved >= TURN_BYTES {
                return Ok(true);
            }
            match self.receive(link, ctx, scratch)? {
                Received::Nothing => return Ok(false),
                Received::Bytes(count) => moved += count,
                Received::End if matches!(self.rx, Rx::Header) && link.input.is_empty() => {
                    // As after DISC: what was asked is still answered.
                    self.close("closed by the client".into());
                }
                Received::End => return Err("closed by the client in the middle of a request".into()),
            }
        }
    }

    /// Works on what is at hand, without receiving.
    fn progress(&mut self, link: &mut Link, ctx: &mut Ctx) -> Result<(), End> {
        self.pump(link, ctx)?;
        if let Some(header) = self.parked.take() {
            self.request(link, ctx, header)?;
        }
        if !link.input.is_empty() && !self.is_paused(link) || matches!(self.rx, Rx::Pieces { buf: None, .. }) {
            let input = std::mem::take(&mut link.input);
            let taken = self.parse(link, ctx, &input)?;
            link.keep_input(&input[taken..]);
        }
        Ok(())
    }

    /// One receive, and the requests that it brought.
    fn receive(&mut self, link: &mut Link, ctx: &mut Ctx, scratch: &mut Scratch) -> Result<Received, End> {
        let area = match self.direct {
            true => wire::header_bytes(self.terms.extended),
            false => SCRATCH_BYTES,
        };
        let (received, into_payload) = match &mut self.rx {
            Rx::Payload { buf, filled, .. } | Rx::Pieces { buf: Some(buf), filled, .. } => {
                let place = &mut buf[*filled..];
                let room = place.len();
                let received = link.recv(ctx, place, scratch, area)?;
                (received, room)
            }
            _ => (link.recv(ctx, &mut [], scratch, area)?, 0),
        };
        let Received::Bytes(count) = received else { return Ok(received) };
        let into_payload = count.min(into_payload);
        if into_payload > 0 {
            self.filled(link, ctx, into_payload)?;
        }
        let left = link.input.len();
        scratch.put_before(&link.input);
        link.input.clear();
        let bytes = scratch.filled(left, count - into_payload);
        let taken = self.parse(link, ctx, bytes)?;
        link.keep_input(&bytes[taken..]);
        Ok(received)
    }

    /// Takes bytes off the front of `bytes` until they, or the room for requests, are used up;
    /// says how many.
    fn parse(&mut self, link: &mut Link, ctx: &mut Ctx, bytes: &[u8]) -> Result<usize, End> {
        let mut at = 0;
        while self.closing.is_none() {
            if self.parked.is_some() || self.stream.is_some() {
                break;
            }
            let rest = &bytes[at..];
            let taken = match self.rx {
                Rx::Header => self.parse_header(link, ctx, rest)?,
                _ => self.parse_payload(link, ctx, rest)?,
            };
            if taken == 0 {
                break;
            }
            at += taken;
            if link.out.bytes() >= FLUSH_BYTES {
                link.flush(ctx)?;
                if !link.writable {
                    break;
                }
            }
        }
        Ok(at)
    }

    fn parse_header(&mut self, link: &mut Link, ctx: &mut Ctx, bytes: &[u8]) -> Result<usize, End> {
        match wire::parse(bytes, self.terms.extended) {
            Ok(None) => Ok(0),
            Ok(Some(header)) => {
                self.request(link, ctx, header)?;
                Ok(wire::header_bytes(self.terms.extended))
            }
            Err(wire::BadMagic(magic)) => Err(format!("request with wrong magic number {magic:#010x}").into()),
        }
    }

    fn parse_payload(&mut self, link: &mut Link, ctx: &mut Ctx, bytes: &[u8]) -> Result<usize, End> {
        if let Rx::Pieces { buf: None, .. } = self.rx {
            if !self.piece_buffer(link, ctx) {
                return Ok(0);
            }
        }
        match &mut self.rx {
            Rx::Header => Ok(0),
            Rx::Payload { buf, filled, .. } | Rx::Pieces { buf: Some(buf), filled, .. } => {
                let count = bytes.len().min(buf.len() - *filled);
                buf[*filled..*filled + count].copy_from_slice(&bytes[..count]);
                self.filled(link, ctx, count)?;
                Ok(count)
            }
            Rx::Pieces { buf: None, .. } => Ok(0),
            Rx::Status { header, flags, bytes: payload, need } => {
                let count = bytes.len().min(*need - payload.len());
                payload.extend_from_slice(&bytes[..count]);
                if payload.len() == *need {
                    let (header, flags, payload) = (*header, *flags, std::mem::take(payload));
                    self.rx = Rx::Header;
                    self.status_payload(link, ctx, header, flags, &payload)?;
                }
                Ok(count)
            }
            Rx::Skip { header, left, no } => {
                let count = (bytes.len() as u64).min(*left);
                *left -= count;
                if *left == 0 {
                    let (header, no) = (*header, *no);
                    self.rx = Rx::Header;
                    self.refuse(link, ctx, &header, no);
                }
                Ok(count as usize)
            }
        }
    }

    /// `count` more bytes are in the payload's buffer.
    fn filled(&mut self, link: &mut Link, ctx: &mut Ctx, count: usize) -> Result<(), End> {
        match &mut self.rx {
            Rx::Payload { buf, filled, .. } => {
                *filled += count;
                if *filled < buf.len() {
                    return Ok(());
                }
                if let Rx::Payload { asked, buf, .. } = std::mem::replace(&mut self.rx, Rx::Header) {
                    self.start(link, ctx, asked, Some(buf), Role::Whole { ids: None })?;
                }
                Ok(())
            }
            Rx::Pieces { large, left, buf: place @ Some(_), filled } => {
                *filled += count;
                *left -= count as u64;
                if place.as_ref().is_some_and(|buf| *filled < buf.len()) {
                    return Ok(());
                }
                *filled = 0;
                let (large, left, buf) = (*large, *left, place.take());
                if left == 0 {
                    self.rx = Rx::Header;
                }
                self.write_piece(link, ctx, large, left, buf.expect("it was full"))
            }
            _ => unreachable!("only payloads are filled"),
        }
    }

    /// A request's header is there (now, or when it was parked): judge it, and go on with it.
    fn request(&mut self, link: &mut Link, ctx: &mut Ctx, header: Header) -> Result<(), End> {
        match admit(&header, &self.terms) {
            Verdict::Disconnect => self.close("disconnected by the client".into()),
            Verdict::Fatal(why) => return Err(why.into()),
            Verdict::Refuse { no, payload } => self.skip(link, ctx, header, payload, no),
            Verdict::CollectStatus { bytes, flags } => {
                self.rx = Rx::Status { header, flags, bytes: Vec::with_capacity(bytes), need: bytes };
            }
            Verdict::Run { op, flags, unfragmented } => {
                let asked =
                    Asked { op, flags, cookie: header.cookie, offset: header.offset, len: header.length };
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
        let cost = if has_data { BufPool::cost(asked.len as usize) } else { 0 };
        if !self.has_room(link, ctx, cost, 1) {
            self.parked = Some(header);
            return Ok(());
        }
        let buf = has_data.then(|| self.take(ctx, asked.len as usize));
        match (asked.op, buf) {
            (Op::Write, Some(buf)) => {
                self.direct = asked.len >= DIRECT_BYTES;
                self.rx = Rx::Payload { asked, buf, filled: 0 };
                Ok(())
            }
            (_, buf) => {
                self.direct = false;
                self.start(link, ctx, asked, buf, Role::Whole { ids: None })
            }
        }
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

    /// From here on a large WRITE's payload is collected.
    pub(super) fn collect_pieces(&mut self, large: TaskHandle, left: u64) {
        self.direct = true;
        self.rx = Rx::Pieces { large, left, buf: None, filled: 0 };
    }

    /// Gets the buffer for the next piece of a large WRITE's payload, if there is room for it.
    fn piece_buffer(&mut self, link: &mut Link, ctx: &mut Ctx) -> bool {
        let Rx::Pieces { left, .. } = self.rx else { return false };
        let len = left.min(PIECE_BYTES as u64) as usize;
        if !self.has_room(link, ctx, BufPool::cost(len), 1) {
            return false;
        }
        let fresh = self.take(ctx, len);
        if let Rx::Pieces { buf, .. } = &mut self.rx {
            *buf = Some(fresh);
        }
        true
    }

    /// May buffers of `cost` bytes be taken, and `tasks` be made?
    pub(super) fn has_room(&self, link: &Link, ctx: &Ctx, cost: usize, tasks: usize) -> bool {
        ctx.tasks.room() >= tasks
            && self.in_flight < ctx.limits.tasks_per_connection as usize
            && (cost == 0 || ctx.may_take(self.held_bytes(link), cost))
    }

    /// One that waits for what others hold must be woken by them.
    fn note_starved(&self, link: &Link, ctx: &mut Ctx) {
        let waits = self.parked.is_some() || !self.active.is_empty() || matches!(self.rx, Rx::Pieces { buf: None, .. });
        if waits && self.in_flight == 0 && !link.has_unsent() && !ctx.starved.contains(&link.handle) {
            ctx.starved.push(link.handle);
        }
    }

    /// A buffer out of the shard's pool.
    pub(super) fn take(&mut self, ctx: &mut Ctx, len: usize) -> IoBuf {
        let buf = ctx.bufs.take(len);
        self.held += buf.capacity();
        buf
    }

    /// Gives a buffer back to the shard's pool.
    pub(super) fn give(&mut self, ctx: &mut Ctx, buf: IoBuf) {
        self.held -= buf.capacity();
        ctx.bufs.give(buf);
    }

    fn check_gate(&self, link: &Link, ctx: &Ctx, asked: &Asked) -> Result<(), No> {
        if ctx.stopping {
            return Err(No { error: error::ESHUTDOWN, text: "the server is being shut down" });
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

    fn refuse(&mut self, link: &mut Link, ctx: &mut Ctx, header: &Header, no: No) {
        if let Some(op) = op_of(header.kind) {
            ctx.ended.push((op, 0, true));
        }
        let terms = &self.terms;
        let out = self.aside.as_mut().unwrap_or(&mut link.out);
        replies::error(out, terms, header.cookie, header.offset, no);
    }

    fn status_payload(
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
            Ok(_) if ctx.tasks.room() == 0 => {
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
        let mut request = Request::new(asked.op, asked.flags, asked.offset, asked.len);
        request.buf = buf;
        if self.check_gate(link, ctx, &asked).is_err() {
            let errno = if ctx.stopping { libc::ESHUTDOWN } else { libc::EPERM };
            return self.ended(link, ctx, asked, role, request, Err(errno), None);
        }
        if asked.op == Op::BlockStatus {
            request.extents = Some(ctx.extents.pop().unwrap_or_default());
        }
        let attachment = self.attachment.clone();
        let volume = &attachment.entry.volume;
        let started_ns = ctx.now_ns.get();
        let mut role = Some(role);
        let mut made = None;
        let (conn, conn_id, mailbox) = (link.handle, link.id, ctx.mailbox.clone());
        let ring = ctx.poller.has_ring();
        let tasks = &mut ctx.tasks;
        let mut insert = |ring: Option<RingJob>| {
            let role = role.take().expect("a request becomes one task");
            let attachment = self.attachment.clone();
            let task =
                Task { conn, conn_id, attachment, asked, role, started_ns, cost, waiting: false, ring };
            tasks.insert(task).ok().expect("room was checked before the request was started")
        };
        let step = volume.start(request, ring, || {
            let handle = insert(None);
            made = Some(handle);
            crate::shard::mailbox::Completion::new(mailbox, handle)
        });
        match step {
            Step::Done(request, result) => {
                let role = role.take().expect("it made no task");
                self.ended(link, ctx, asked, role, request, result, None)
            }
            Step::Pending { waiting } => {
                self.in_flight += 1;
                // Its completion is ours to read, so the task is still there.
                if let Some(task) = made.and_then(|handle| ctx.tasks.get_mut(handle)) {
                    task.waiting = waiting;
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
        let mut task = ctx.tasks.remove(handle).expect("it was just made");
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
            // A back end that lost the request lost its buffer too.
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
        };
        match started_ns {
            Some(started_ns) => count_task(&self.attachment, ctx, &asked, result.is_err(), started_ns),
            None => ctx.ended.push((asked.op, asked.len, result.is_err())),
        }
        match (asked.op, result, request.buf) {
            (Op::Read, Ok(()), Some(buf)) => {
                self.tally.reads += 1;
                self.tally.read_bytes += asked.len;
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
        if asked.op == Op::Write && result.is_ok() {
            self.tally.writes += 1;
            self.tally.written_bytes += asked.len;
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
        mut extents: Vec<crate::block::command::Extent>,
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
    fn count_ended(&self, ctx: &mut Ctx) {
        if ctx.ended.is_empty() {
            return;
        }
        let started = ctx.now_ns.get();
        let latency_us = (ctx.tick() - started) / 1000;
        let mut counts = self.attachment.counts.borrow_mut();
        for (op, bytes, failed) in ctx.ended.drain(..) {
            counts.count(op, bytes, failed, latency_us);
        }
    }

    /// Lets go of everything; what is in flight goes on without a connection.
    pub fn release(&mut self, ctx: &mut Ctx) {
        match std::mem::replace(&mut self.rx, Rx::Header) {
            Rx::Payload { buf, .. } | Rx::Pieces { buf: Some(buf), .. } => self.give(ctx, buf),
            _ => {}
        }
        let handles: Vec<_> = self.larges.iter().map(|(handle, _)| handle).collect();
        for handle in handles {
            if let Some(mut large) = self.larges.remove(handle) {
                large.take_kept().for_each(|buf| ctx.bufs.give(buf));
            }
        }
        if let Some(mut aside) = self.aside.take() {
            aside.discard(&mut ctx.bufs);
        }
    }
}

const SPARE_EXTENTS: usize = 16;

/// Books a request that took its time.
pub fn count_task(attachment: &Attachment, ctx: &Ctx, asked: &Asked, failed: bool, started_ns: u64) {
    let latency_us = ctx.now_ns.get().saturating_sub(started_ns) / 1000;
    attachment.counts.borrow_mut().count(asked.op, asked.len, failed, latency_us);
}

fn op_of(kind: u16) -> Option<Op> {
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
