//! The transmission phase of one connection: requests are parsed as they come, carried out, and
//! answered in whatever order they end.
//!
//! Bounds: a request is started only while its buffers fit the connection's and the shard's
//! share; one that does not fit is parked, and its connection is not read until it does. So a
//! peer that does not read its replies stops being read, and holds no more than its share.

use std::rc::Rc;

use super::admit::Negotiated;
use super::intake::Rx;
use super::large::Large;
use super::link::{End, Link, Received, Turn};
use super::requests::op_of;
use super::wire::Header;
use crate::block::command::Op;
use crate::shard::buffers::{BufPool, IoBuf};
use crate::shard::context::{is_fair, Attachment, Ctx, Scratch};
use crate::shard::outqueue::OutQueue;
use crate::shard::status::OpCounts;
use crate::shard::tasks::{Slab, TaskHandle};

/// Replies of so many bytes are sent before more are made: their buffers are then still hot.
pub(super) const FLUSH_BYTES: usize = 256 << 10;
/// Bytes that one connection moves, in and out, before others have their turn.
const TURN_BYTES: usize = 2 << 20;
/// Replies that wait for each other, bytes, while more requests are at hand.
const DEFER_BYTES: usize = 64 << 10;
/// The same behind large WRITEs: eight simple replies, four extended ones.
const DEFER_LARGE_BYTES: usize = 128;

/// A payload must come at this rate at least, bytes per second, beside the time that every request has.
const SLOWEST_RATE: u64 = 64 << 10;

/// See the module's text.
pub struct Transmission {
    pub(super) attachment: Rc<Attachment>,
    pub(super) terms: Negotiated,
    pub(super) rx: Rx,
    /// A request that waits for buffers or tasks.
    pub(super) parked: Option<Header>,
    pub(super) larges: Slab<Large>,
    /// Large READs with pieces to start.
    pub(super) active: Vec<TaskHandle>,
    /// A READ whose one reply is being streamed; nothing more is parsed meanwhile.
    pub(super) stream: Option<TaskHandle>,
    /// A READ longer than what the connection may hold is being gathered.
    pub(super) apart: bool,
    /// Its head is out: other replies wait here.
    pub(super) aside: Option<OutQueue>,
    pub(super) in_flight: usize,
    /// Buffer capacity held, what waits in `out` apart.
    pub(super) held: usize,
    /// What the session has done so far; none before its first request, so that idle ones stay small.
    pub(super) counts: Option<Box<OpCounts>>,
    /// The last payload was received straight into its buffer: expect the next to be like it.
    pub(super) direct: bool,
    /// Bytes that were received together with the header that is looked at, and lie behind it.
    pub(super) at_hand: usize,
    /// There is no room to collect a payload in, but what comes of it is taken as it comes.
    pub(super) as_it_comes: bool,
    /// When the request that is being received, or is parked, began.
    pub(super) begun_ns: u64,
    /// How long it has not been read since then, by our own doing.
    pub(super) paused_ms: u64,
    /// Since when it is not being read.
    paused_since_ms: Option<u64>,
    /// Nothing more is read; the connection ends when all is answered.
    pub(super) closing: Option<End>,
    /// What is left of the connection's turn, in bytes.
    pub(super) turn_left: usize,
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
            apart: false,
            aside: None,
            in_flight: 0,
            held: 0,
            counts: None,
            direct: false,
            at_hand: 0,
            as_it_comes: false,
            begun_ns: 0,
            paused_ms: 0,
            paused_since_ms: None,
            closing: None,
            turn_left: 0,
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

    /// What the session has done so far; `None` before its first request has ended.
    pub fn counts(&self) -> Option<&OpCounts> {
        self.counts.as_deref()
    }

    /// Is a request half received, or waiting for room? Then its (op, offset, length, "collecting" or "queued").
    pub fn unfinished_request(&self) -> Option<(Op, u64, u64, &'static str)> {
        if let Some(header) = &self.parked {
            let op = op_of(header.kind)?;
            return Some((op, header.offset, header.length, "queued"));
        }
        match &self.rx {
            Rx::Payload { asked, .. } => Some((asked.op, asked.offset, asked.len, "collecting")),
            Rx::Pieces { large, buf, .. } => {
                let asked = self.larges.get(*large)?.asked;
                let phase = if buf.is_some() { "collecting" } else { "queued" };
                Some((asked.op, asked.offset, asked.len, phase))
            }
            _ => None,
        }
    }

    /// Answers what is in flight, takes nothing more, and then ends.
    pub fn close(&mut self, link: &mut Link, ctx: &mut Ctx, why: End) {
        if self.closing.is_none() {
            self.closing = Some(why);
            self.parked = None;
            self.abandon_rx(link, ctx);
        }
    }

    /// Is it ending, and has all left that is to be said?
    pub fn has_said_all(&self, link: &Link) -> bool {
        self.closing.is_some() && self.in_flight == 0 && self.larges.is_empty() && !link.has_unsent()
    }

    /// When the request that is half received (or parked) began, on the shard's clock.
    pub fn begun_ns(&self) -> u64 {
        self.begun_ns
    }

    /// Until when the peer must send more: it may be silent for `stall_ms`, and has as long for a
    /// request, and the time for its payload. `None`: nothing is half received, or it is not read.
    pub fn receive_deadline_ms(&self, link: &Link, stall_ms: u64) -> Option<u64> {
        let payload = match &self.rx {
            Rx::Header if link.input.is_empty() => return None,
            Rx::Header => 0,
            Rx::Payload { asked, .. } => asked.len,
            Rx::Pieces { large, .. } => self.larges.get(*large).map_or(0, |large| large.asked.len),
            Rx::Status { need, .. } => *need as u64,
            Rx::Skip { header, .. } => header.length,
        };
        if self.closing.is_some() || self.is_paused(link) {
            return None;
        }
        let whole = self.begun_ns / 1_000_000 + self.paused_ms + payload * 1000 / SLOWEST_RATE;
        Some(link.received_ms.min(whole) + stall_ms)
    }

    /// The time in which it was not read does not count against the peer.
    fn resume_clock(&mut self, link: &mut Link, now_ms: u64) {
        if let Some(since_ms) = self.paused_since_ms.take() {
            let paused_ms = now_ms.saturating_sub(since_ms);
            self.paused_ms += paused_ms;
            link.received_ms += paused_ms;
        }
    }

    fn is_paused(&self, link: &Link) -> bool {
        self.parked.is_some()
            || self.stream.is_some()
            || matches!(&self.rx, Rx::Pieces { buf: None, .. }) && !self.as_it_comes
            || self.is_clogged(link)
    }

    /// Does the peer not take its replies?
    pub(super) fn is_clogged(&self, link: &Link) -> bool {
        !link.writable && link.out.bytes() >= FLUSH_BYTES
    }

    /// What the connection holds that goes as it gets on: buffers, and replies in whatever form.
    /// (What was received and not parsed has a bound of its own, the scratch's size.)
    pub(super) fn held_bytes(&self, link: &Link) -> usize {
        let aside = self.aside.as_ref().map_or(0, OutQueue::waiting_bytes);
        self.held + aside + link.out.waiting_bytes() + link.transport.unsent()
    }

    /// Memory that the connection holds beside the pool's buffers.
    pub fn beside_buffers(&self, link: &Link) -> usize {
        link.beside_buffers() + self.aside.as_ref().map_or(0, OutQueue::beside_buffers)
    }

    /// Where replies go.
    pub(super) fn sink<'a>(&'a mut self, link: &'a mut Link) -> &'a mut OutQueue {
        self.aside.as_mut().unwrap_or(&mut link.out)
    }

    /// Does what can be done now.
    pub fn turn(&mut self, link: &mut Link, ctx: &mut Ctx) -> Result<Turn, End> {
        let mut scratch = ctx.scratch.take().expect("one turn at a time");
        self.turn_left = TURN_BYTES;
        self.resume_clock(link, ctx.now_ms());
        let result = self.turn_with(link, ctx, &mut scratch);
        ctx.scratch = Some(scratch);
        self.count_ended(ctx);
        if self.is_paused(link) {
            self.paused_since_ms = Some(ctx.now_ms());
        }
        result
    }

    fn turn_with(&mut self, link: &mut Link, ctx: &mut Ctx, scratch: &mut Scratch) -> Result<Turn, End> {
        let mut tried_at = usize::MAX;
        loop {
            self.progress(link, ctx)?;
            let held = self.held_bytes(link);
            if !self.may_defer(link) {
                link.flush(ctx)?;
                self.count_ended(ctx);
            }
            if self.turn_left == 0 && !self.is_clogged(link) {
                return Ok(Turn::More);
            }
            // What has left made room for what waits, and nobody else will say so. When all has, one
            // more try shows whether it is others who hold the room; a try that begins something
            // is followed by another.
            if self.waits_for_room() {
                let quiet = self.in_flight == 0 && !link.has_unsent() && self.turn_left != tried_at;
                if quiet || self.held_bytes(link) < held {
                    tried_at = self.turn_left;
                    continue;
                }
            }
            if let Some(why) = &self.closing {
                return if self.has_said_all(link) { Err(why.clone()) } else { Ok(self.rest(link)) };
            }
            if self.is_paused(link) || !link.readable {
                return Ok(self.rest(link));
            }
            match self.receive(link, ctx, scratch)? {
                // `readable` is false now: once more around, to send what was held back.
                Received::Nothing | Received::Bytes(_) => {}
                Received::End if matches!(self.rx, Rx::Header) && link.input.is_empty() => {
                    // As after DISC: what was asked is still answered.
                    self.close(link, ctx, "closed by the client".into());
                }
                Received::End => return Err("closed by the client in the middle of a request".into()),
            }
        }
    }

    /// May replies wait until no more requests are at hand? Each send wakes the client; a few replies
    /// at a time cost less, and a receive that finds nothing is due in any case.
    fn may_defer(&self, link: &Link) -> bool {
        link.readable
            && link.writable
            && self.turn_left > 0
            && self.closing.is_none()
            // Nothing is received then, and room for what is parked may come with the replies' leaving.
            && !self.is_paused(link)
            && link.out.bytes() < if self.direct { DEFER_LARGE_BYTES } else { DEFER_BYTES }
    }

    /// How a turn ends that has no more to do. What waits, and has nothing of its own under way
    /// that will wake it, must be woken by others.
    fn rest(&self, link: &Link) -> Turn {
        if self.waits_for_room() && self.in_flight == 0 && !link.has_unsent() {
            Turn::Starved
        } else {
            Turn::Over
        }
    }

    /// Is there something that could not be begun for want of buffers or tasks?
    fn waits_for_room(&self) -> bool {
        self.parked.is_some() || !self.active.is_empty() || matches!(self.rx, Rx::Pieces { buf: None, .. })
    }

    /// Works on what is at hand, without receiving.
    fn progress(&mut self, link: &mut Link, ctx: &mut Ctx) -> Result<(), End> {
        self.pump(link, ctx)?;
        if let Some(header) = self.parked.take() {
            self.at_hand = link.input.len();
            self.request(link, ctx, header)?;
        }
        if !link.input.is_empty() && !self.is_paused(link) || matches!(self.rx, Rx::Pieces { buf: None, .. }) {
            let input = std::mem::take(&mut link.input);
            let taken = self.parse(link, ctx, &input, true)?;
            link.keep_input(&input[taken..]);
        }
        Ok(())
    }

    /// May buffers of `cost` bytes be taken, and `tasks` be made?
    pub(super) fn has_room(&self, link: &Link, ctx: &Ctx, cost: usize, tasks: usize) -> bool {
        let (entry, room) = (&self.attachment.entry, ctx.task_room());
        room >= tasks
            && is_fair(entry.tasks.get(), room)
            && self.in_flight < ctx.limits.tasks_per_connection as usize
            && (cost == 0 || ctx.may_take(entry, self.held_bytes(link), cost))
    }

    /// The same for a payload of `len` bytes that is to be collected. One that is here already is
    /// not held up by those that are slow to come.
    pub(super) fn has_room_to_collect(&self, link: &Link, ctx: &Ctx, len: usize) -> bool {
        let cost = BufPool::cost(len);
        (self.at_hand >= len || ctx.may_collect(cost)) && self.has_room(link, ctx, cost, 1)
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

    /// Lets go of everything; what is in flight goes on without a connection.
    pub fn release(&mut self, ctx: &mut Ctx) {
        match std::mem::replace(&mut self.rx, Rx::Header) {
            Rx::Payload { buf, .. } | Rx::Pieces { buf: Some(buf), .. } => {
                ctx.end_collecting(buf.capacity());
                self.give(ctx, buf);
            }
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
