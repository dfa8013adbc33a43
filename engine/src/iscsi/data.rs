//! Data-Out: where it belongs, whether it may come, and what is asked for next (RFC 7143 11.7, 11.8).

use super::command::{sense, Command, Plan};
use super::conn::{Ghost, Sink};
use super::execute::{way, Way};
use super::inflow::Fault;
use super::session::{Session, SLOWEST_RATE};
use super::share::Lack;
use super::wire::{self, reason, Bhs, NO_TAG};
use crate::block::command::Claim;
use crate::scsi::command::Answer;
use crate::shard::buffers::BufPool;
use crate::shard::context::Ctx;
use crate::shard::limits::PIECE_BYTES;
use crate::shard::tasks::TaskHandle;

/// A Target Transfer Tag names a command's slot, a use of that slot, and one of its R2Ts. Never [`NO_TAG`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ttt(u32);

const SLOT_BITS: u32 = 12;
const R2T_BITS: u32 = 8;
const USE_MASK: u32 = (1 << (31 - SLOT_BITS - R2T_BITS)) - 1;

/// The most commands that tags tell apart.
pub const TTT_SLOTS: u64 = 1 << SLOT_BITS;

impl Ttt {
    fn new(command: TaskHandle, r2t_sn: u32) -> Self {
        let (slot, used) = (command.slot() as u32, command.generation() & USE_MASK);
        debug_assert!(slot < 1 << SLOT_BITS);
        Self((used << SLOT_BITS | slot) << R2T_BITS | r2t_sn & ((1 << R2T_BITS) - 1))
    }

    /// What all of a command's have in common.
    fn of_command(self) -> u32 {
        self.0 >> R2T_BITS << R2T_BITS
    }

    fn slot(self) -> usize {
        (self.0 >> R2T_BITS & ((1 << SLOT_BITS) - 1)) as usize
    }

    /// Is it `command`'s?
    fn names(self, command: TaskHandle) -> bool {
        self.of_command() == Self::new(command, 0).0
    }

    /// The R2TSN, of which it has the low bits; `oldest`: of the R2Ts that are open.
    fn r2t_sn(self, oldest: u32) -> u32 {
        let mask = (1 << R2T_BITS) - 1;
        oldest.wrapping_add((self.0 & mask).wrapping_sub(oldest) & mask)
    }
}

impl Session {
    /// A Data-Out's header: where its data goes.
    pub(super) fn data_out(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs) -> Sink {
        let (ttt, last) = (bhs.word20(), bhs.is_final());
        let found = match ttt {
            NO_TAG => self.tags.get(&bhs.itt()).copied(),
            _ => self.commands.handle_at(Ttt(ttt).slot()).filter(|handle| Ttt(ttt).names(*handle)),
        };
        let command = found.and_then(|handle| Some((handle, self.commands.get_mut(handle)?)));
        // Of one that was aborted while the volume has a part of it the rest may still come.
        let is_its = |command: &Command| command.itt == bhs.itt() && command.conn == at && command.aborted.is_none();
        let Some((handle, command)) = command.filter(|(_, command)| is_its(command)) else {
            return self.stray(ctx, at, bhs);
        };
        let r2t =
            (ttt != NO_TAG).then(|| Ttt(ttt).r2t_sn(command.inflow.r2t_count() - command.inflow.open_r2ts() as u32));
        let offset = bhs.buffer_offset();
        let len = bhs.data_bytes() as u32;
        let taken = command.inflow.data_out(r2t, bhs.data_sn(), offset, len, last);
        if let Err(fault) = taken {
            command.inflow.spoil(r2t, last);
            command.fail(Answer::check(sense::of(fault)));
        }
        let (base, failed) = (command.base, matches!(command.plan, Plan::Fail(_)));
        match taken {
            Err(fault) => {
                let why = if fault == Fault::Sequence { reason::PROTOCOL } else { reason::INVALID_FIELD };
                self.reject(ctx, at, bhs, why);
                self.advance(ctx, handle);
                Sink::Skip
            }
            // Its place may be behind what is wanted: that part is thrown away.
            Ok(()) if !failed => Sink::Command { command: handle, at: offset.saturating_sub(base) as usize },
            Ok(()) => Sink::Command { command: handle, at: PIECE_BYTES },
        }
    }

    /// Data of no command that there is: of one that was aborted, or of nobody.
    fn stray(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs) -> Sink {
        let ttt = match bhs.word20() {
            NO_TAG => NO_TAG,
            ttt => Ttt(ttt).of_command(),
        };
        if !self.conn(at).is_ghost(bhs.itt(), ttt, bhs.is_final()) {
            self.reject(ctx, at, bhs, reason::INVALID_FIELD);
        }
        Sink::Skip
    }

    /// A command's data segment is complete. `sound`: as far as its digest tells.
    pub(super) fn data_arrived(&mut self, ctx: &mut Ctx, handle: TaskHandle, sound: bool) {
        let Some(command) = self.commands.get_mut(handle) else { return };
        let came = command.inflow.arrived();
        if let Some(conn) = self.conns.get_mut(command.conn) {
            command.heard_ms = ctx.now_ms();
            conn.note_data(came, ctx.now_ms(), ctx.limits.silent_data_ms);
            command.data_since_ms = later_ms(command.data_since_ms, came, conn.clock_ms(ctx.now_ms()));
            let paid = came.min(command.owed);
            command.owed -= paid;
            conn.owed -= u64::from(paid);
        }
        if !sound {
            // Level 0 knows no recovery R2T: the command ends, when its other data has come (7.8).
            command.fail(Answer::check(super::command::sense::CRC_ERROR));
        }
        self.advance(ctx, handle);
    }

    /// Asks for what is missing of the part that is being collected: up to a piece from `base` on. True:
    /// all of it is there.
    pub(super) fn collect(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> bool {
        let Some(end) = self.part_end(ctx, handle) else { return false };
        let command = self.commands.get_mut(handle).expect("it advances");
        let flow = &command.inflow;
        if flow.received() >= end && (end < command.wants() || !flow.is_open()) {
            return true;
        }
        if !command.inflow.is_unsolicited() {
            self.ask(ctx, handle, end);
        }
        false
    }

    /// Up to where the part goes that there is a buffer for. `None`: there is none yet.
    fn part_end(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> Option<u32> {
        let command = self.commands.get(handle).expect("it advances");
        let end = command.wants().min(command.base.saturating_add(PIECE_BYTES as u32));
        let len = end.saturating_sub(command.base) as usize;
        let (have, comes) = (command.buf.as_ref().map_or(0, |buf| buf.len()), command.inflow.is_open());
        // A buffer is not exchanged while something comes into it.
        if len <= have || !(comes && have > 0) && self.take_larger(ctx, handle, len) {
            return Some(end);
        }
        let command = self.commands.get(handle).expect("as above");
        match command.plan {
            // A first burst is a part by itself.
            Plan::Media(_, media) if have > 0 && way(&media) == Way::Write => Some(command.base + have as u32),
            _ if comes => None,
            // Its first burst is no part, and stands where others' data is to go: all of the room could be
            // held by such, each waiting for the others.
            _ if have > 0 && !self.fits(ctx, BufPool::cost(len), false) => {
                self.refuse(ctx, handle, Answer::TASK_SET_FULL);
                None
            }
            _ => {
                self.queue(handle);
                None
            }
        }
    }

    /// A buffer of `len` bytes for a command that has none, or too small a one. False: there is no room.
    fn take_larger(&mut self, ctx: &mut Ctx, handle: TaskHandle, len: usize) -> bool {
        let cost = BufPool::cost(len);
        if !self.has_room(ctx, handle, cost) {
            return false;
        }
        if !self.finds_room(ctx, cost, false) {
            self.commands.get_mut(handle).expect("it advances").lacks = Some(Lack::Collecting);
            return false;
        }
        let mut larger = self.take(ctx, len);
        if let Some(buf) = self.take_collected(ctx, handle) {
            larger[..buf.len()].copy_from_slice(&buf);
            self.give(ctx, buf);
        }
        ctx.begin_collecting(cost);
        let command = self.commands.get_mut(handle).expect("as above");
        (command.buf, command.collecting, command.heard_ms) = (Some(larger), true, ctx.now_ms());
        true
    }

    /// Sends the R2Ts that may be sent, for data up to `end`.
    fn ask(&mut self, ctx: &mut Ctx, handle: TaskHandle, end: u32) {
        loop {
            let command = self.commands.get_mut(handle).expect("it advances");
            let was_due = command.inflow.is_due();
            let Some(burst) = command.inflow.ask(&self.terms, end) else { return };
            let (itt, lun, at) = (command.itt, command.lun_field, command.conn);
            let since_ms = self.data_due(ctx, at, true);
            let command = self.commands.get_mut(handle).expect("as above");
            command.data_since_ms = if was_due { command.data_since_ms.max(since_ms) } else { since_ms };
            command.owed += burst.len;
            self.conn(at).owed += u64::from(burst.len);
            let numbers = self.numbers(ctx, at);
            let ttt = Ttt::new(handle, burst.sn).0;
            let conn = self.conn(at);
            conn.send(&wire::r2t(itt, lun, ttt, burst.sn, burst.offset, burst.len, numbers), &[]);
            self.kick(ctx, at);
        }
    }

    /// A command's data becomes due, if `is_due`: gives the time, by its connection's clock, from which on it is
    /// waited for. It comes after what was asked for before it, and that may take its time at the slowest rate.
    pub(super) fn data_due(&mut self, ctx: &Ctx, at: TaskHandle, is_due: bool) -> u64 {
        let conn = self.conn(at);
        let now_ms = conn.clock_ms(ctx.now_ms());
        if is_due {
            conn.data_since_ms.get_or_insert(now_ms);
        }
        now_ms + slowest_ms(conn.owed)
    }

    /// Has data of some command been due for too long? Each has a time of its own: it holds memory that others
    /// wait for, whatever comes for those beside it. When these have got theirs there is nothing left to wait for.
    pub fn is_data_late(&mut self, ctx: &Ctx, at: TaskHandle) -> bool {
        let conn = self.conn(at);
        let (now_ms, owed) = (conn.clock_ms(ctx.now_ms()), conn.owed);
        let due = self.commands.iter_mut().filter(|command| command.conn == at && command.inflow.is_due());
        let since_ms = due.map(|command| {
            let latest_ms = now_ms + slowest_ms(owed - u64::from(command.owed));
            command.data_since_ms = command.data_since_ms.min(latest_ms);
            command.data_since_ms
        });
        let since_ms = since_ms.min();
        self.conn(at).data_since_ms = since_ms;
        since_ms.is_some_and(|since| since + ctx.limits.solicited_ms <= now_ms)
    }

    /// Puts a command among those that wait for memory, by its age.
    pub(super) fn queue(&mut self, handle: TaskHandle) {
        if let Some(command) = self.commands.get_mut(handle) {
            if !command.queued {
                command.queued = true;
                let arrival = command.arrival;
                let place = self.queued.partition_point(|(other, _)| *other < arrival);
                self.queued.insert(place, (arrival, handle));
            }
        }
    }
}

/// Since when data is due of which `came` bytes have come: they count for the time that they take at the slowest
/// rate, and headers without data for none.
pub(super) fn later_ms(since_ms: u64, came: u32, now_ms: u64) -> u64 {
    (since_ms + slowest_ms(came.into())).min(now_ms.max(since_ms))
}

/// How long so many bytes may take.
fn slowest_ms(bytes: u64) -> u64 {
    bytes * 1000 / SLOWEST_RATE
}

impl Command {
    /// What may still come of it if it ends now.
    pub(super) fn ghost(&self, handle: TaskHandle) -> Option<Ghost> {
        match (self.inflow.is_unsolicited(), self.inflow.open_r2ts()) {
            (true, _) => Some(Ghost { itt: self.itt, ttt: NO_TAG, sequences: 1 }),
            (false, 0) => None,
            (false, sequences) => Some(Ghost { itt: self.itt, ttt: Ttt::new(handle, 0).0, sequences }),
        }
    }

    /// It ends with this, once no data is on its way any more; the first failure counts.
    pub(super) fn fail(&mut self, answer: Answer) {
        if !matches!(self.plan, Plan::Fail(_)) {
            self.plan = Plan::Fail(answer);
            // Not while its data is seen off. What the volume has of it has the range, too.
            self.claim = Claim::No;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bytes_put_off_a_deadline() {
        assert_eq!(later_ms(1000, 0, 50_000), 1000);
        assert_eq!(later_ms(1000, 65_536, 50_000), 2000);
        assert_eq!(later_ms(49_900, 65_536, 50_000), 50_000, "not beyond now");
        assert_eq!(later_ms(60_000, 65_536, 50_000), 60_000, "what comes early takes nothing away");
    }

    #[test]
    fn tags_name_a_command_and_its_r2t() {
        let command = TaskHandle::new(77, 0x0fff_ffff);
        for sn in [0, 1, 255, 256, 70_000] {
            let ttt = Ttt::new(command, sn);
            assert_ne!(ttt.0, NO_TAG);
            assert!(ttt.names(command) && ttt.slot() == 77);
            assert!(!ttt.names(TaskHandle::new(77, 5)) && !ttt.names(TaskHandle::new(78, 0x0fff_ffff)));
            assert_eq!(ttt.r2t_sn(sn.saturating_sub(3)), sn);
        }
    }
}
