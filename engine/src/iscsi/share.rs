//! What the units of a session have of its memory and its window, so that one whose disk hangs takes neither from the
//! others.
//!
//! A unit leaves at least as much of `session_bytes` as it takes. First bursts are taken in all the same, as far as
//! the window has promised that: what a unit has of them beyond half of `session_bytes` is not counted where others
//! ask for room. With nothing but a hung disk's first bursts the window closes; then the session gets some relief,
//! a few credits with room of their own.

use super::lun::Lun;
use super::session::Session;
use super::wire::{self, Bhs, NO_TAG};
use crate::shard::buffers::BufPool;
use crate::shard::context::Ctx;
use crate::shard::tasks::TaskHandle;

/// Credits of a session whose memory allows none.
const RELIEF: usize = 4;
/// So long its window has been closed by then.
pub(super) const SHUT_MS: u64 = 1000;

impl Session {
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

    /// May a command bring a first burst of `cost` bytes? While the session is relieved not every one may: that room is
    /// not for the unit that has taken all there is, whose commands are told so, TASK SET FULL.
    pub(super) fn may_bring(&self, bhs: &Bhs, cost: usize) -> bool {
        let taken = self.first_bursts + cost;
        if !self.relieved || self.held + taken <= 2 * self.unit_bytes {
            return true;
        }
        let its = self.commands.iter().filter(|(_, command)| command.lun_field == bhs.lun());
        let its = its.map(|(_, command)| command.lent + command.buf.as_ref().map_or(0, |buf| buf.capacity()));
        let room = RELIEF * BufPool::cost(self.terms.first_burst as usize);
        its.sum::<usize>() <= self.unit_bytes && self.counted_bytes() + taken <= 2 * self.unit_bytes + room
    }

    /// Sees whether the window has closed for want of memory: nothing that ends may be there to open it.
    pub(super) fn note_window(&mut self, ctx: &Ctx) {
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
        let open = self.conns.iter().filter(|(_, conn)| conn.closing.is_none());
        let open: Vec<TaskHandle> = open.map(|(at, _)| at).collect();
        for at in open {
            let numbers = self.numbers(ctx, at);
            self.conn(at).send(&wire::nop_in(NO_TAG, NO_TAG, 0, 0, numbers), &[]);
            self.wake(ctx, at);
        }
    }
}
