//! ORWRITE: many requests to the volume, and one to everybody else.
//!
//! It is "an uninterrupted series of actions" (SBC-3, ORWRITE (16)), in which the transfer of the data is one: so a
//! long one has the range of all its pieces from the first to the last, while its data comes. Its initiator must
//! keep pace for that time, like any other's (`solicited_ms`, and the slowest rate).

use std::sync::Arc;

use super::command::Command;
use super::execute::Submitted;
use super::session::Session;
use crate::block::command::{Claim, Errno, Op, Request};
use crate::block::volume::Permit;
use crate::scsi::command::Media;
use crate::shard::buffers::IoBuf;
use crate::shard::context::Ctx;
use crate::shard::tasks::TaskHandle;

impl Session {
    /// The data of a piece is there: has its command the range that it needs for that? It is asked for here. (All but
    /// ORWRITEs of several pieces need none beside that of each piece.)
    pub(super) fn has_range(&mut self, ctx: &mut Ctx, handle: TaskHandle, media: &Media) -> bool {
        let command = self.commands.get(handle).expect("it is being carried out");
        let len = command.wants();
        // Without room for more a first burst is a piece, too.
        let is_whole = command.base == 0 && command.buf.as_ref().is_some_and(|buf| buf.len() >= len as usize);
        match command.claim {
            _ if media.op != Op::OrWrite || is_whole => return true,
            Claim::Has(_) => return true,
            Claim::Asks => return false,
            Claim::No => {}
        }
        if !self.has_room(ctx, handle, 0) {
            self.queue(handle);
            return false;
        }
        self.commands.get_mut(handle).expect("looked at above").claim = Claim::Asks;
        let request = Request::new(media.op, media.flags, media.offset, len.into());
        match self.submit(ctx, handle, Request { claim: Claim::Asks, ..request }) {
            Submitted::Done(request, result) => {
                self.request_ended(ctx, handle, request, result);
                self.carry_out(ctx, handle);
            }
            Submitted::Refused => self.carry_out(ctx, handle),
            Submitted::Pending(_) | Submitted::Fenced => {}
        }
        // What there was to do has been done.
        false
    }

    /// Gives back the buffer of a request that has ended. Who has a claim keeps one, and the room for its task, until
    /// all of its data has come: what it would have to wait for may be held by those who wait for its range.
    pub(super) fn give_or_keep(&mut self, ctx: &mut Ctx, handle: TaskHandle, buf: IoBuf) {
        let Some(command) = self.commands.get_mut(handle).filter(|command| command.keeps_a_buffer()) else {
            return self.give(ctx, buf);
        };
        ctx.begin_collecting(buf.capacity());
        let len = buf.capacity().min((command.wants() - command.base) as usize);
        (command.buf, command.collecting) = (Some(buf.with_len(len)), true);
    }
}

impl Command {
    /// One of its requests has ended, and has no permit any more: is it the one that asked for the range of all? A
    /// command that has failed or was aborted meanwhile does not take it.
    pub(super) fn takes_claim(&mut self, request: &Request, permit: Option<Permit>, result: Result<(), Errno>) -> bool {
        let asks = matches!((&request.claim, &self.claim), (Claim::Asks, Claim::Asks));
        match permit {
            Some(permit) if asks && result.is_ok() => {
                self.claim = Claim::Has(Arc::new(permit.into_hold()));
                true
            }
            _ => false,
        }
    }

    /// Would its next piece write to a block of the storage that one before it is still writing to? Such a block is
    /// read and written back as a whole, and pieces of one claim have no ranges of their own to keep them apart.
    pub(super) fn shares_a_block(&self, media: &Media) -> bool {
        if self.in_flight == 0 || !matches!(self.claim, Claim::Has(_)) {
            return false;
        }
        let volume = &self.lun.as_ref().expect("media commands have a unit").attachment.entry.volume;
        (media.offset + u64::from(self.base)) % u64::from(volume.alignment()) != 0
    }

    fn keeps_a_buffer(&self) -> bool {
        let has_claim = matches!(self.claim, Claim::Has(_));
        has_claim && self.error.is_none() && self.buf.is_none() && self.base < self.wants()
    }
}
