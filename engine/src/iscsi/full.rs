//! A write that found no room in a thin pool: its initiator is warned before it is refused.
//!
//! The attention for a threshold comes before the pool is full (SBC-3 4.7.3.7), a write that finds no room ends with
//! DATA PROTECT (4.7.3.6). Who looks at a pool now and then comes too late for one that fills at once. So such a write
//! does not end yet: Python has it, as it has commands of its own, establishes the attention for every nexus unless
//! that has been done since the pool was last less full, and lets it go on. Where the attention is pending then, the
//! write ends with it; its initiator sends it again, and learns that there is no room.

use super::session::Session;
use crate::scsi::attention;
use crate::scsi::command::Answer;
use crate::scsi::sense::Sense;
use crate::shard::context::Ctx;
use crate::shard::tasks::TaskHandle;

impl Session {
    /// Ends a command that has failed, of which nothing is under way any more.
    pub(super) fn end_in_error(&mut self, ctx: &mut Ctx, handle: TaskHandle, answer: Answer) {
        match is_full(answer) && self.provisioning(handle).1 {
            true => self.end_full(ctx, handle, answer),
            false => self.end_failed(ctx, handle, answer),
        }
    }

    fn end_full(&mut self, ctx: &mut Ctx, handle: TaskHandle, answer: Answer) {
        let Some(command) = self.commands.get(handle) else { return };
        let threshold = attention::soft_threshold();
        let pending = threshold.filter(|(bit, _)| command.lun.as_ref().is_some_and(|lun| lun.take(*bit)));
        match (pending, command.warned) {
            (Some((_, sense)), _) => self.end_failed(ctx, handle, Answer::check(sense)),
            (None, true) => self.end_failed(ctx, handle, answer),
            (None, false) => self.hand_up(ctx, handle),
        }
    }
}

/// Is there no room for what was to be written?
pub(super) fn is_full(answer: Answer) -> bool {
    answer.sense == Some(Sense::SPACE_ALLOCATION_FAILED)
}
