//! SYNCHRONIZE CACHE with IMMED: its status comes before it is done (SBC-3 5.26), and the next command of its nexus
//! tells what failed then.
//!
//! The flush goes on like whatever the volume has of a command that is gone. There is one at a time for each unit of
//! a session: who asks for another one meanwhile is answered when that is done, so that no number of them takes the
//! shard's room from others. A failure is a deferred error (SPC-4 4.5.5): the next command that would report a unit
//! attention ends with it instead of being executed, and REQUEST SENSE returns it. That nothing is written any more
//! after it is a matter of the volume's health.
//!
//! PRE-FETCH is never waited for, with IMMED or without: the kernel is told what to read, and that is all.

use std::rc::Rc;

use super::lun::Lun;
use super::session::Session;
use crate::block::command::{Errno, Op};
use crate::scsi::attention;
use crate::scsi::command::Media;
use crate::scsi::sense::Sense;
use crate::shard::context::{Ctx, Task};
use crate::shard::tasks::TaskHandle;

impl Session {
    /// The volume has the one request of a command. With IMMED that was all that its initiator waits for.
    pub(super) fn is_under_way(&mut self, ctx: &mut Ctx, handle: TaskHandle, media: &Media, task: TaskHandle) {
        let unit = self.commands.get(handle).filter(|_| media.immediate).and_then(|command| command.lun.clone());
        let Some(unit) = unit else { return };
        if unit.flush.get().is_some_and(|other| ctx.tasks.get(other).is_some()) {
            return;
        }
        unit.flush.set(Some(task));
        self.end_good(ctx, handle, 0);
    }

    /// What the volume had of a command that is gone has come back: a flush that its initiator believes done?
    pub(super) fn note_deferred(&self, ctx: &Ctx, task: &Task, result: Result<(), Errno>) {
        let Err(errno) = result else { return };
        let unit = self.luns.iter().find(|lun| Rc::ptr_eq(&lun.attachment, &task.attachment));
        let Some(unit) = unit.filter(|_| task.asked.op == Op::Flush) else { return };
        if unit.flush.get().is_some_and(|flush| ctx.tasks.get(flush).is_none()) {
            unit.flush.set(None);
            unit.deferred.set(errno);
        }
    }
}

impl Lun {
    /// Takes what REQUEST SENSE is to return: the unit attention that is reported first, else a deferred error
    /// (SPC-4 6.39).
    pub(super) fn take_sense(&self) -> Option<Sense> {
        let attention = attention::first(self.attentions.get()).filter(|(bit, _)| self.take(*bit));
        attention.map(|(_, sense)| sense).or_else(|| self.take_deferred())
    }

    /// Takes the error of a flush that was answered before it ended, to report it.
    pub(super) fn take_deferred(&self) -> Option<Sense> {
        match self.deferred.get() {
            0 => None,
            errno => {
                self.deferred.set(0);
                Some(Sense::of_errno(Op::Flush, errno).deferred())
            }
        }
    }
}
