//! What the units of a session have of its memory and its window, so that one whose disk hangs takes neither from the
//! others.
//!
//! A unit leaves at least as much of `session_bytes` as it takes. First bursts are taken in all the same, as far as
//! the window has promised that: what a unit has of them beyond half of `session_bytes` is not counted where others
//! ask for room. With nothing but a hung disk's first bursts the window closes; then the session gets some relief,
//! a few credits with room of their own.

use super::command::{Command, Plan};
use super::lun::Lun;
use super::session::Session;
use super::wire::{self, attribute, Bhs, NO_TAG};
use crate::scsi::row::{self, Action};
use crate::shard::buffers::BufPool;
use crate::shard::context::{is_fair, Ctx};
use crate::shard::tasks::TaskHandle;

/// Credits of a session whose memory allows none.
const RELIEF: usize = 4;
/// So long its window has been closed by then.
pub(super) const SHUT_MS: u64 = 1000;

/// Why there is no room for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// Its unit has its share of the session, or an older command is to have the room first.
    Unit,
    /// Its volume has its share of the shard.
    Volume,
    /// Its shard collects as much data as it may.
    Collecting,
    /// Its session has all that it may hold.
    Session,
    /// Its shard has no more.
    Shard,
}

impl Lack {
    /// Do the session's other commands take from the same, whatever they are?
    pub fn is_common(self) -> bool {
        matches!(self, Lack::Session | Lack::Shard)
    }
}

impl Session {
    /// May a command have a buffer of `cost` bytes, and a task?
    pub(super) fn has_room(&mut self, ctx: &Ctx, handle: TaskHandle, cost: usize) -> bool {
        let command = self.commands.get(handle).expect("it advances");
        let lacks = match cost > 0 && self.is_behind(command) {
            true => Some(Lack::Unit),
            false => self.lack(ctx, command.lun.as_deref(), cost),
        };
        self.starved |= matches!(lacks, Some(Lack::Volume | Lack::Shard));
        self.commands.get_mut(handle).expect("looked at above").lacks = lacks;
        lacks.is_none()
    }

    /// Does an older command wait for memory that this one would take? Smaller ones would take each piece that is
    /// given back, and a large one never had enough. Python's have what they need: they are few, and some of them are
    /// to put an end to what hangs there.
    fn is_behind(&self, command: &Command) -> bool {
        if self.queued.is_empty()
            || command.attribute == attribute::HEAD_OF_QUEUE
            || matches!(command.plan, Plan::HandUp(_))
        {
            return false;
        }
        let older = self.queued.iter().take_while(|(arrival, _)| *arrival < command.arrival);
        let mut older = older.filter_map(|(_, handle)| self.commands.get(*handle));
        older.any(|older| {
            let same = match older.lacks {
                None => false,
                Some(Lack::Unit | Lack::Volume) => older.volume() == command.volume(),
                Some(Lack::Collecting) => command.wants() > 0,
                Some(Lack::Session | Lack::Shard) => true,
            };
            same && older.aborted.is_none() && !self.waits_for_its_connection(older)
        })
    }

    /// What is missing for `cost` bytes and a task. What the unit or its volume has itself counts first: others may
    /// still have room then.
    fn lack(&self, ctx: &Ctx, unit: Option<&Lun>, cost: usize) -> Option<Lack> {
        if cost > 0 && unit.is_some_and(|unit| self.is_beyond_share(unit, cost)) {
            return Some(Lack::Unit);
        }
        let (room, held) = (ctx.task_room(), self.counted_bytes());
        let bound = ctx.limits.session_bytes as usize;
        let entry = unit.map(|unit| &*unit.attachment.entry);
        let full = cost > 0 && held > 0 && held + cost > bound;
        let has = room >= 1
            && entry.is_none_or(|entry| is_fair(entry.tasks.get(), room))
            && (cost == 0 || ctx.may_take_within(bound, entry, held, cost));
        match has && !full {
            true => None,
            false if entry.is_some_and(|entry| ctx.is_at_share(entry, held, cost)) => Some(Lack::Volume),
            false if full => Some(Lack::Session),
            false => Some(Lack::Shard),
        }
    }

    /// The volume of a command has `more` of its buffers, and `less`.
    pub(super) fn count_lent(&mut self, unit: &Lun, more: usize, less: usize) {
        let now = unit.lent.get() + more - less;
        let beyond = |bytes: usize| bytes.saturating_sub(self.unit_bytes);
        self.beyond = self.beyond + beyond(now) - beyond(unit.lent.replace(now));
    }

    /// What counts of its memory where somebody asks for room.
    pub(super) fn counted_bytes(&self) -> usize {
        let beyond = if self.luns.are_several() { self.beyond } else { 0 };
        self.held_bytes().saturating_sub(beyond)
    }

    /// Would a unit, with `cost` bytes more, have more than it leaves to the others? One that has nothing asks for no
    /// more than there is.
    pub(super) fn is_beyond_share(&self, unit: &Lun, cost: usize) -> bool {
        let lent = unit.lent.get();
        self.luns.are_several() && lent > 0 && self.counted_bytes() + lent + 2 * cost > 2 * self.unit_bytes
    }

    /// The credits that a session has at least, and the room for their first bursts.
    pub(super) fn relief(&self) -> usize {
        if self.relieved {
            RELIEF
        } else {
            0
        }
    }

    /// May a command bring a first burst of `cost` bytes? Not where its volume has its share of the shard: what the
    /// windows of many sessions promise is more than a shard has, and a disk that hangs would take it from all others.
    /// (Python's are none of the volume's, and are what fences those off whose WRITEs hang there.) And while the session
    /// is relieved not every one may: that room is not for the unit that has taken all there is. Who may not is told so,
    /// TASK SET FULL.
    pub(super) fn may_bring(&self, ctx: &Ctx, bhs: &Bhs, cost: usize) -> bool {
        let is_handed = || row::find(&bhs.cdb()).is_ok_and(|row| matches!(row.action, Action::Handed));
        let unit = self.luns.get(bhs.lun());
        if unit.is_some_and(|unit| ctx.is_at_share(&unit.attachment.entry, 0, cost)) && !is_handed() {
            return false;
        }
        let taken = self.first_bursts + cost;
        if !self.relieved || self.held + taken <= 2 * self.unit_bytes {
            return true;
        }
        let its = self.commands.iter().filter(|(_, command)| command.lun_field == bhs.lun());
        let its = its.map(|(_, command)| command.lent + command.buf.as_ref().map_or(0, |buf| buf.capacity()));
        let room = RELIEF * BufPool::cost(self.terms.first_burst as usize);
        its.sum::<usize>() <= self.unit_bytes && self.counted_bytes() + taken <= 2 * self.unit_bytes + room
    }

    /// A command has ended without a word, which would have said that the window is open again.
    pub(super) fn note_silent_end(&mut self, ctx: &mut Ctx) {
        if self.window.is_shut() && !self.untold {
            self.untold = true;
            let open = self.conns.iter().find(|(_, conn)| !conn.is_leaving()).map(|(at, _)| at);
            open.into_iter().for_each(|at| self.kick(ctx, at));
        }
    }

    /// Tells what nobody has been told meanwhile; and sees whether the window has closed for want of memory: nothing
    /// that ends may be there to open it.
    pub(super) fn note_window(&mut self, ctx: &mut Ctx) {
        if std::mem::take(&mut self.untold) && self.window.is_shut() {
            self.grant(ctx);
            if !self.window.is_shut() {
                self.tell_window(ctx);
            }
        }
        let shut = self.window.is_shut() && self.delivered < self.queue_depth as usize && self.luns.are_several();
        self.shut_since_ms = if shut { self.shut_since_ms.or(Some(ctx.now_ms())) } else { None };
    }

    /// It has been closed for long: opens it a little, and says so.
    pub(super) fn relieve(&mut self, ctx: &mut Ctx) {
        self.shut_since_ms = None;
        self.relieved = true;
        self.tell_window(ctx);
    }

    /// Tells the initiator how far its window is open, where nothing else does (RFC 7143 11.19: a NOP-In that wants no
    /// answer).
    pub(super) fn tell_window(&mut self, ctx: &mut Ctx) {
        let open = self.conns.iter().filter(|(_, conn)| !conn.is_leaving());
        let open: Vec<TaskHandle> = open.map(|(at, _)| at).collect();
        for at in open {
            let numbers = self.numbers(ctx, at);
            self.conn(at).send(&wire::nop_in(NO_TAG, NO_TAG, 0, 0, numbers), &[]);
            self.wake(ctx, at);
        }
    }
}
