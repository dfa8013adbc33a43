//! What comes in: headers are parsed where they were received, data goes to its command's page-aligned
//! buffer, large data straight from the socket.

use super::conn::{Conn, Rx, Segment, Sink, FLUSH_BYTES};
use super::digest::{Digest, DIGEST_BYTES};
use super::session::{Early, Session};
use super::window::Turn as Order;
use super::wire::{opcode, padding, reason, Bhs, BHS_BYTES};
use crate::shard::context::{Ctx, Scratch, SCRATCH_BYTES};
use crate::shard::link::{End, Received, Turn};
use crate::shard::tasks::TaskHandle;

/// Bytes that one connection moves, in and out, before others have their turn.
const TURN_BYTES: usize = 2 << 20;
/// What a PDU takes of its connection's turn besides its data, bytes.
const PDU_COST: usize = 512;
/// Data from here on is received into its buffer, without the copy that less takes.
const DIRECT_BYTES: usize = 32 << 10;

impl Session {
    /// Does what can be done now on one connection. `Err`: the connection is over.
    pub fn turn(&mut self, ctx: &mut Ctx, at: TaskHandle) -> Result<Turn, End> {
        let mut scratch = ctx.scratch.take().expect("one turn at a time");
        let now_ms = ctx.now_ms();
        let conn = self.conn(at);
        conn.kicked = false;
        conn.turn_left = TURN_BYTES;
        conn.resume_clock(now_ms);
        self.current = Some(at);
        self.sought = false;
        let result = self.turn_with(ctx, at, &mut scratch);
        self.current = None;
        ctx.scratch = Some(scratch);
        self.count_ended(ctx);
        self.note_window(ctx);
        self.note_missing(ctx);
        self.note_seeking(ctx);
        let now_ms = ctx.now_ms();
        let conn = self.conn(at);
        if conn.is_paused() {
            conn.paused_since_ms = Some(now_ms);
        }
        result
    }

    fn turn_with(&mut self, ctx: &mut Ctx, at: TaskHandle, scratch: &mut Scratch) -> Result<Turn, End> {
        let mut tried_at = usize::MAX;
        loop {
            self.go_on(ctx, at)?;
            let held = self.held_bytes();
            self.conn(at).link.flush(ctx)?;
            self.count_ended(ctx);
            let wanted = self.wanted;
            let conn = self.conn(at);
            if conn.turn_left == 0 && !(conn.is_clogged() && conn.is_unread(wanted)) {
                return Ok(Turn::More);
            }
            let (turn_left, parked, unsent) = (conn.turn_left, conn.parked, conn.link.has_unsent());
            if parked || !self.queued.is_empty() {
                // What has left made room, and nobody else will say so; one more try shows whether others
                // hold it.
                if self.held_bytes() < held || self.held == 0 && !unsent && turn_left != tried_at {
                    tried_at = turn_left;
                    continue;
                }
            }
            let conn = self.conn(at);
            if let Some(why) = &conn.closing {
                let why = why.clone();
                if conn.link.has_unsent() || !(conn.is_forsaken() || conn.replaced) {
                    return Ok(Turn::Over);
                }
                return Err(why);
            }
            if conn.is_unread(wanted) || !conn.link.readable {
                return Ok(self.rest(ctx, at));
            }
            match self.receive(ctx, at, scratch)? {
                Received::Nothing | Received::Bytes(_) => {}
                Received::End => return Err("closed by the initiator".into()),
            }
        }
    }

    /// Do PDUs wait for one with a lower CmdSN? It may lie unread on a connection whose replies nobody takes.
    fn note_missing(&mut self, ctx: &mut Ctx) {
        let wanted = !self.early.is_empty();
        if std::mem::replace(&mut self.wanted, wanted) == wanted || !wanted {
            return;
        }
        let clogged: Vec<TaskHandle> =
            self.conns.iter().filter(|(_, conn)| conn.is_clogged()).map(|(at, _)| at).collect();
        clogged.into_iter().for_each(|at| self.wake(ctx, at));
    }

    /// How a turn ends. What waits for its shard's memory, tasks or names is woken by others: what its own session has
    /// under way may be another connection's, whose turns are not this one's, or at a disk that hangs.
    fn rest(&self, ctx: &Ctx, at: TaskHandle) -> Turn {
        // It is woken when it is the first of those that wait for room.
        let sleeps = self.seeks.is_some() && !ctx.iscsi.seekers.is_turn_of(self.number);
        let parked = self.conns.get(at).is_some_and(|conn| conn.parked && !(sleeps && conn.waits_since_ms.is_some()));
        let alone = || !sleeps && self.commands.iter().all(|(_, command)| command.in_flight == 0);
        match parked || self.waits_for_names(ctx) || !self.queued.is_empty() && (self.starved || alone()) {
            true => Turn::Starved,
            false => Turn::Over,
        }
    }

    /// Works on what is at hand, without receiving.
    fn go_on(&mut self, ctx: &mut Ctx, at: TaskHandle) -> Result<(), End> {
        if !self.terminated.is_empty() {
            self.see_terminated(ctx, at);
        }
        self.advance_waiting(ctx);
        let wanted = self.wanted;
        let conn = self.conn(at);
        conn.parked = false;
        if !conn.link.input.is_empty() && !conn.is_unread(wanted) && conn.closing.is_none() {
            let input = std::mem::take(&mut conn.link.input);
            let taken = self.parse(ctx, at, &input)?;
            self.conn(at).link.keep_input(&input[taken..]);
        }
        Ok(())
    }

    /// One receive, and the PDUs that it brought.
    fn receive(&mut self, ctx: &mut Ctx, at: TaskHandle, scratch: &mut Scratch) -> Result<Received, End> {
        let (received, into_buffer) = self.receive_into(ctx, at, scratch)?;
        let Received::Bytes(count) = received else { return Ok(received) };
        let now_ms = ctx.now_ms();
        let conn = self.conn(at);
        conn.ping = None;
        conn.turn_left = conn.turn_left.saturating_sub(count);
        if matches!(&conn.rx, Rx::Data(Segment { sink: Sink::Command { .. }, .. })) {
            conn.note_data(count as u32, now_ms, ctx.limits.silent_data_ms);
        }
        if matches!(conn.rx, Rx::Header) && conn.link.input.is_empty() {
            // Of the next header, which may come in parts: the one before it may have been long ago.
            conn.begun_ms = now_ms;
        }
        let into_buffer = count.min(into_buffer);
        if into_buffer > 0 {
            self.filled(at, into_buffer);
        }
        let input = std::mem::take(&mut self.conn(at).link.input);
        if !scratch.put_before(&input) {
            return Err("lost track of what was received".into());
        }
        let bytes = scratch.filled(input.len(), count - into_buffer);
        let taken = self.parse(ctx, at, bytes)?;
        self.conn(at).link.keep_input(&bytes[taken..]);
        Ok(received)
    }

    /// Receives; says how many bytes there was room for in a command's own buffer, which come first.
    fn receive_into(&mut self, ctx: &Ctx, at: TaskHandle, scratch: &mut Scratch) -> Result<(Received, usize), End> {
        let conn = self.conns.get_mut(at).expect("it has its turn");
        if let Rx::Data(Segment { sink: Sink::Command { command, at: place }, len, done, .. }) = &conn.rx {
            let left = len - done;
            if let Some(buf) = self.commands.get_mut(*command).and_then(|command| command.buf.as_mut()) {
                let start = (place + done).min(buf.len());
                let end = (start + left).min(buf.len());
                if conn.link.input.is_empty() && end > start {
                    let area = if conn.direct { BHS_BYTES + 2 * DIGEST_BYTES } else { SCRATCH_BYTES };
                    let received = conn.link.recv(ctx, &mut buf[start..end], scratch, area)?;
                    return Ok((received, end - start));
                }
            }
        }
        let area = if conn.direct && matches!(conn.rx, Rx::Header) { BHS_BYTES } else { SCRATCH_BYTES };
        Ok((conn.link.recv(ctx, &mut [], scratch, area)?, 0))
    }

    /// `count` bytes of the segment came straight into the command's buffer.
    fn filled(&mut self, at: TaskHandle, count: usize) {
        let conn = self.conns.get_mut(at).expect("it has its turn");
        let data_digest = conn.data_digest;
        let Rx::Data(segment) = &mut conn.rx else { unreachable!("only segments are filled") };
        if data_digest {
            if let Sink::Command { command, at: place } = segment.sink {
                let buf = self.commands.get(command).and_then(|command| command.buf.as_ref());
                let start = place + segment.done;
                segment.digest = segment.digest.and(buf.map_or(&[], |buf| &buf[start..start + count]));
            }
        }
        segment.done += count;
    }

    /// Takes bytes off the front of `bytes` until they are used up, or nothing more may be taken; says
    /// how many.
    fn parse(&mut self, ctx: &mut Ctx, at: TaskHandle, bytes: &[u8]) -> Result<usize, End> {
        let mut taken = 0;
        loop {
            let conn = self.conn(at);
            // A segment of which nothing is missing ends now: no byte may come any more that would end it.
            if conn.closing.is_some() || conn.parked || conn.turn_left == 0 && !conn.is_whole() {
                break;
            }
            let rest = &bytes[taken..];
            let in_data = matches!(conn.rx, Rx::Data(_));
            let count = match in_data {
                false => self.parse_header(ctx, at, rest)?,
                true => self.parse_data(ctx, at, rest)?,
            };
            // A segment whose bytes were received straight into its buffer takes none from here, and ends all the
            // same: the next header follows.
            let ended = in_data && matches!(self.conn(at).rx, Rx::Header);
            if count == 0 && !ended {
                break;
            }
            taken += count;
            let wanted = self.wanted;
            let conn = self.conn(at);
            if conn.link.out.bytes() >= FLUSH_BYTES {
                conn.link.flush(ctx)?;
                if conn.is_unread(wanted) {
                    break;
                }
            }
        }
        Ok(taken)
    }

    fn parse_header(&mut self, ctx: &mut Ctx, at: TaskHandle, bytes: &[u8]) -> Result<usize, End> {
        let Some(bhs) = Bhs::at(bytes) else { return Ok(0) };
        let conn = self.conn(at);
        let covered = BHS_BYTES + bhs.ahs_bytes();
        let size = covered + if conn.header_digest { DIGEST_BYTES } else { 0 };
        let Some(header) = bytes.get(..size) else { return Ok(0) };
        if conn.header_digest && header[covered..] != Digest::of(&header[..covered]).bytes() {
            // What the lengths in it say cannot be believed: there is no next header to be found (7.7).
            return Err("header digest error".into());
        }
        conn.begun_ms = ctx.now_ms();
        if bhs.data_bytes() > conn.max_recv_data {
            self.reject(ctx, at, &bhs, reason::PROTOCOL);
            self.conn(at).close("data segment longer than MaxRecvDataSegmentLength", ctx.now_ms());
            return Ok(size);
        }
        let len = bhs.data_bytes();
        let Some(sink) = self.header(ctx, at, &bhs, &header[BHS_BYTES..covered])? else {
            ctx.iscsi.put_off += 1;
            self.conn(at).parked = true;
            return Ok(0);
        };
        let conn = self.conn(at);
        conn.waits_since_ms = None;
        conn.direct = len >= DIRECT_BYTES;
        conn.turn_left = conn.turn_left.saturating_sub(PDU_COST);
        let segment = Segment { bhs, sink, len, done: 0, digest: Digest::default() };
        match len {
            0 => self.ended_segment(ctx, at, segment, true)?,
            _ => self.conn(at).rx = Rx::Data(segment),
        }
        Ok(size)
    }

    fn parse_data(&mut self, ctx: &mut Ctx, at: TaskHandle, bytes: &[u8]) -> Result<usize, End> {
        let conn = self.conns.get_mut(at).expect("it has its turn");
        let trailer = conn.trailer(match &conn.rx {
            Rx::Data(segment) => segment.len,
            Rx::Header => 0,
        });
        let data_digest = conn.data_digest;
        let Rx::Data(segment) = &mut conn.rx else { unreachable!("looked at by the caller") };
        let count = bytes.len().min(segment.len - segment.done);
        let part = &bytes[..count];
        match &mut segment.sink {
            Sink::Skip => {}
            Sink::Bytes(kept) => kept.extend_from_slice(part),
            Sink::Command { command, at: place } => {
                let buf = self.commands.get_mut(*command).and_then(|command| command.buf.as_mut());
                if let Some(room) = buf.and_then(|buf| buf.get_mut(*place + segment.done..)) {
                    let fits = room.len().min(count);
                    room[..fits].copy_from_slice(&part[..fits]);
                }
            }
        }
        if data_digest {
            segment.digest = segment.digest.and(part);
        }
        segment.done += count;
        if segment.done < segment.len || bytes.len() < count + trailer {
            return Ok(count);
        }
        let trailing = &bytes[count..count + trailer];
        let pad = padding(segment.len);
        let sound = !data_digest || segment.digest.and(&trailing[..pad]).bytes() == trailing[pad..];
        let Rx::Data(segment) = std::mem::replace(&mut conn.rx, Rx::Header) else { unreachable!("as above") };
        conn.begun_ms = ctx.now_ms();
        self.ended_segment(ctx, at, segment, sound)?;
        Ok(count + trailer)
    }

    /// A header is there: where its data goes. `None`: there is no room for that data now, ask again.
    fn header(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs, ahs: &[u8]) -> Result<Option<Sink>, End> {
        let len = bhs.data_bytes();
        match bhs.opcode() {
            opcode::SCSI_COMMAND => Ok(self.command(ctx, at, bhs, ahs)),
            opcode::DATA_OUT if !ahs.is_empty() => {
                self.reject(ctx, at, bhs, reason::INVALID_FIELD);
                Ok(Some(Sink::Skip))
            }
            // Only SCSI Commands have additional headers (11.2.2.1); the others are rejected in their turn.
            _ if !ahs.is_empty() => Ok(Some(Sink::Skip)),
            opcode::DATA_OUT => Ok(Some(self.data_out(ctx, at, bhs))),
            opcode::TEXT if len <= ctx.limits.text_bytes as usize => Ok(Some(Sink::Bytes(Vec::with_capacity(len)))),
            opcode::TEXT => Err("a text longer than allowed".into()),
            opcode::NOP_OUT if bhs.itt() != super::wire::NO_TAG && self.may_reflect(ctx, len) => {
                Ok(Some(Sink::Bytes(Vec::with_capacity(len))))
            }
            opcode::LOGIN => Err("a login request in full feature phase".into()),
            _ => Ok(Some(Sink::Skip)),
        }
    }

    /// Is a ping's data to be sent back (11.18)? It is held as it comes and as it leaves, so what is long needs room
    /// for both, in its session and in its shard.
    fn may_reflect(&self, ctx: &Ctx, len: usize) -> bool {
        let room = || {
            // Held or not, it is nothing that others wait for: it takes none of what is kept for those.
            let held = self.held_bytes().max(1);
            ctx.may_take_within(ctx.limits.session_bytes as usize, None, held, 2 * len)
        };
        len <= ctx.limits.ping_bytes as usize || room()
    }

    /// A PDU is complete. `sound`: its data digest is right.
    fn ended_segment(&mut self, ctx: &mut Ctx, at: TaskHandle, segment: Segment, sound: bool) -> Result<(), End> {
        let bhs = segment.bhs;
        if !sound {
            self.reject(ctx, at, &bhs, reason::DATA_DIGEST);
        }
        match (bhs.opcode(), segment.sink) {
            (opcode::SCSI_COMMAND | opcode::DATA_OUT, Sink::Command { command, .. }) => {
                self.data_arrived(ctx, command, sound);
                Ok(())
            }
            (opcode::SCSI_COMMAND | opcode::DATA_OUT, _) => Ok(()),
            // A PDU without its data is none; it was rejected, and its number is not used up (7.8).
            _ if !sound => Ok(()),
            (_, sink) => {
                let data = if let Sink::Bytes(data) = sink { data } else { Vec::new() };
                self.other(ctx, at, bhs, data)
            }
        }
    }

    /// A PDU that is neither a command nor data: in its turn.
    fn other(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: Bhs, data: Vec<u8>) -> Result<(), End> {
        let numbered =
            matches!(bhs.opcode(), opcode::NOP_OUT | opcode::TASK_MANAGEMENT | opcode::TEXT | opcode::LOGOUT);
        if !numbered || bhs.is_immediate() {
            return self.deliver_other(ctx, at, &bhs, data);
        }
        match self.take_turn(&bhs) {
            Order::Ignore => Ok(()),
            Order::Now => {
                self.deliver_other(ctx, at, &bhs, data)?;
                self.deliver_early(ctx);
                Ok(())
            }
            Order::Early => {
                let early = self.keep_early(ctx, at, bhs, data);
                self.wait_for_turn(bhs.cmd_sn(), early);
                Ok(())
            }
        }
    }

    /// One that comes before its turn. Of the data of all such a session keeps as much as one text may have:
    /// beyond that a ping goes without (as one does that is too long), and a text is to be sent again.
    fn keep_early(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: Bhs, mut data: Vec<u8>) -> Early {
        if self.early_bytes + data.len() > ctx.limits.text_bytes as usize {
            if bhs.opcode() == opcode::TEXT {
                self.reject(ctx, at, &bhs, reason::OUT_OF_RESOURCES);
                return Early::Plugged;
            }
            data = Vec::new();
        }
        self.early_bytes += data.len();
        ctx.bufs.charge(data.len());
        Early::Other { conn: at, bhs, data }
    }
}

impl Conn {
    /// All has been sent: says goodbye, and waits for the initiator's. Closing with unread bytes would
    /// reset the connection, and our last words with it. True: it is gone.
    fn is_forsaken(&mut self) -> bool {
        if !std::mem::replace(&mut self.finished, true) {
            self.link.transport.finish();
        }
        let mut bytes = [0; 4096];
        loop {
            match self.link.transport.recv(&mut bytes, &mut []) {
                Ok(count) if count > 0 => match self.closing_left.checked_sub(count) {
                    Some(left) => self.closing_left = left,
                    None => return true,
                },
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => return true,
            }
        }
    }

    /// The time in which it was not read does not count against the peer.
    fn resume_clock(&mut self, now_ms: u64) {
        if let Some(since_ms) = self.paused_since_ms.take() {
            let paused_ms = now_ms.saturating_sub(since_ms);
            self.unread_ms += paused_ms;
            self.begun_ms += paused_ms;
            self.link.received_ms += paused_ms;
        }
    }
}
