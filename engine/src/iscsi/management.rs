//! Task management (RFC 7143 11.5, 11.6; SAM-5 7): the engine stops what is in scope, Python decides, and
//! says in parts what is to be aborted.

use std::sync::Arc;

use super::command::{Command, Stage};
use super::inflow::Inflow;
use super::scope::{Abort, Cut, Scope};
use super::session::{Early, Session};
use super::shard::{Named, Outgoing};
use super::window::Turn as Order;
use super::wire::{self, function, response, sn_lt, Bhs};
use crate::block::command::Claim;
use crate::shard::context::Ctx;
use crate::shard::events::Event;
use crate::shard::tasks::TaskHandle;

/// A function on its way up; see `TaskManagement` in `_engine.pyi`.
#[derive(Debug, PartialEq, Eq)]
pub struct Management {
    pub task: u64,
    pub session: u64,
    pub conn: u64,
    pub nexus: u64,
    pub port: u64,
    pub volume: u64,
    pub lun: u64,
    pub function: u8,
    /// Of ABORT TASK, if the task is there.
    pub referenced_task: Option<u64>,
    pub verdict: &'static str,
    pub cut: u64,
}

impl Session {
    /// A Task Management Function Request, in its turn or immediate. One for many tasks waits, even then, until all
    /// commands with a lower CmdSN have come by the session's other connections (RFC 7143 4.2.3.3 b): else they
    /// would be carried out after the answer that says that they are aborted.
    pub(super) fn management(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs) {
        let of_many = bhs.low7() != function::ABORT_TASK && bhs.low7() != function::TASK_REASSIGN;
        if !(of_many && sn_lt(self.window.expected(), bhs.cmd_sn())) {
            return self.begin_management(ctx, at, bhs);
        }
        // Behind a command that no window allows it would wait for ever.
        let never = sn_lt(self.window.most().wrapping_add(1), bhs.cmd_sn());
        if never || self.functions.len() + self.managements >= ctx.limits.managements_per_session as usize {
            return self.management_response(ctx, at, bhs.itt(), response::REJECTED);
        }
        self.functions.push((at, *bhs));
    }

    /// Commands have come: so have, for some functions, all that they waited for.
    pub(super) fn begin_managements(&mut self, ctx: &mut Ctx) {
        let expected = self.window.expected();
        while let Some(place) = self.functions.iter().position(|(_, bhs)| !sn_lt(expected, bhs.cmd_sn())) {
            let (at, bhs) = self.functions.remove(place);
            self.begin_management(ctx, at, &bhs);
        }
    }

    fn begin_management(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs) {
        let function = bhs.low7();
        let lun = self.luns.get(bhs.lun()).cloned();
        let of_unit = matches!(
            function,
            function::ABORT_TASK..=function::ABORT_TASK_SET | function::CLEAR_TASK_SET | function::LOGICAL_UNIT_RESET
        );
        let of_target = matches!(function, function::TARGET_WARM_RESET | function::TARGET_COLD_RESET);
        let refused = match function {
            function::TASK_REASSIGN => Some(response::NO_REASSIGN),
            _ if self.discovery || !of_unit && !of_target => Some(response::NOT_SUPPORTED),
            _ if of_unit && lun.is_none() => Some(response::NO_SUCH_LUN),
            _ if self.managements >= ctx.limits.managements_per_session as usize => Some(response::REJECTED),
            // One for the function, one for the task that it names: without that Python could not say which is meant.
            _ if ctx.iscsi.named.room() < 2 => Some(response::REJECTED),
            _ => None,
        };
        if let Some(refused) = refused {
            return self.management_response(ctx, at, bhs.itt(), refused);
        }
        let volume = lun.as_ref().map_or(0, |lun| lun.volume());
        let (target, verdict) = match function {
            function::ABORT_TASK => self.referenced(at, bhs),
            _ => (None, "found"),
        };
        let named = Named::Management { session: self.number, conn: at, itt: bhs.itt(), target };
        let name = ctx.iscsi.named.insert(named).expect("there is room for two names");
        self.managements += 1;
        let number = ctx.iscsi.number_of(name);
        let referenced = target.map(|target| self.name(ctx, target).expect("the second of the two"));
        let volume = if of_target { 0 } else { volume };
        let scope = match function {
            function::ABORT_TASK => None,
            function::ABORT_TASK_SET => Some(Scope { volumes: vec![volume], nexus: self.nexus }),
            _ if of_unit => Some(Scope { volumes: vec![volume], nexus: 0 }),
            // A map without units still has a scope: that of nothing.
            _ => Some(Scope { volumes: self.luns.iter().map(|lun| lun.volume()).chain([0]).collect(), nexus: 0 }),
        };
        if let Some(scope) = scope {
            let everywhere = scope.nexus == 0;
            let cut = Arc::new(Cut { number, scope, session: self.number, cmd_sn: bhs.cmd_sn() });
            ctx.iscsi.hold(cut.clone());
            if everywhere {
                ctx.iscsi.outgoing.push(Outgoing::Hold(cut));
            }
        }
        if let Some(command) = target.and_then(|target| self.commands.get_mut(target)) {
            command.frozen = true;
        }
        ctx.lanes.post_urgent(Event::TaskManagement(Management {
            task: number,
            session: self.number,
            conn: self.conn(at).link.id,
            nexus: self.nexus,
            port: self.port,
            volume,
            lun: bhs.lun(),
            function,
            referenced_task: referenced.map(|name| ctx.iscsi.number_of(name)),
            verdict,
            cut: number,
        }));
    }

    /// The task that ABORT TASK names, and what is to be said of it (11.6.1).
    fn referenced(&mut self, at: TaskHandle, bhs: &Bhs) -> (Option<TaskHandle>, &'static str) {
        let tagged = self.tags.get(&bhs.word20()).copied();
        let of_lun = |handle: &TaskHandle| self.commands.get(*handle).is_some_and(|it| it.lun_field == bhs.lun());
        if let Some(handle) = tagged.filter(of_lun) {
            return (Some(handle), "found");
        }
        let named = bhs.ref_cmd_sn();
        let expected = self.window.expected();
        let in_window = !sn_lt(named, expected) && !sn_lt(self.window.most(), named) && sn_lt(named, bhs.cmd_sn());
        if !in_window || self.early.iter().any(|(sn, _)| *sn == named) {
            return (None, "gone");
        }
        // It counts as received from now on. If it is the next, those behind it go on.
        if self.window.take(named) == Order::Early {
            self.wait_for_turn(named, Early::Plugged);
        }
        self.conn(at).parked = false;
        (None, "not_received")
    }

    pub(super) fn management_response(&mut self, ctx: &mut Ctx, at: TaskHandle, itt: u32, response: u8) {
        if self.conns.get(at).is_some() {
            let numbers = self.take_numbers(ctx, at);
            self.conn(at).send(&wire::management_response(itt, response, numbers), &[]);
            self.kick(ctx, at);
        }
    }

    /// Python has decided: the answer, and what was stopped goes on if it is still there.
    pub fn management_done(
        &mut self,
        ctx: &mut Ctx,
        at: TaskHandle,
        itt: u32,
        target: Option<TaskHandle>,
        response: u8,
    ) {
        self.managements -= 1;
        self.management_response(ctx, at, itt, response);
        if let Some(handle) = target {
            if let Some(command) = self.commands.get_mut(handle) {
                command.frozen = false;
                self.advance(ctx, handle);
            }
        }
        self.deliver_early(ctx);
    }

    /// A cut was released: what it held goes on, in the order in which it came.
    pub fn released(&mut self, ctx: &mut Ctx) {
        let mut held: Vec<(u64, TaskHandle)> =
            self.commands.iter().filter(|(_, command)| command.held).map(|(handle, it)| (it.arrival, handle)).collect();
        held.sort_unstable();
        for (_, handle) in held {
            let Some(command) = self.commands.get(handle) else { continue };
            let conn = command.conn;
            self.advance(ctx, handle);
            self.kick(ctx, conn);
        }
    }

    /// Aborts what is in scope and came before its cut: what the volume has keeps its place until its fate
    /// is known.
    pub fn abort(&mut self, ctx: &mut Ctx, abort: &Abort, one: Option<TaskHandle>) {
        let except = abort.except.and_then(|name| ctx.iscsi.command_of(self.number, name));
        let volume_of = |command: &Command| command.abandoned.unwrap_or_else(|| command.volume());
        let came_by = |command: &Command| self.conns.get(command.conn).map_or(0, |conn| conn.link.id);
        let inside: Vec<TaskHandle> = self
            .commands
            .iter()
            .filter(|(handle, command)| {
                one.is_none_or(|one| one == *handle)
                    && abort.reaches(came_by(command))
                    && except != Some(*handle)
                    && ctx.iscsi.is_behind(abort.cut, self.number, command)
                    && (one.is_some() || abort.scope.covers(volume_of(command), self.nexus))
            })
            .map(|(handle, _)| handle)
            .collect();
        for handle in inside {
            self.abort_one(ctx, handle, abort.status);
        }
    }

    /// A command has ended with CHECK CONDITION: where QERR says so, its task set ends with it (SPC-4 7.5.8). TST is
    /// 001b, each nexus has a task set of its own, so 01b and 11b mean the same commands; and as they are the nexus's
    /// own, TAS does not ask for a status.
    pub(super) fn fail_others(&mut self, ctx: &mut Ctx, failed: &Command) {
        let Some(lun) = &failed.lun else { return };
        let qerr = lun.attachment.entry.gate.borrow().as_ref().and_then(|gate| Some(gate.scsi.as_ref()?.qerr));
        if qerr.unwrap_or(0) == 0 {
            return;
        }
        let others = self.commands.iter().filter(|(_, it)| it.volume() == lun.volume() && it.stage != Stage::Early);
        let mut abandoned = false;
        for handle in others.map(|(handle, _)| handle).collect::<Vec<_>>() {
            match self.is_handed_up(handle) {
                true => abandoned |= self.abandon(ctx, handle),
                false => self.abort_one(ctx, handle, None),
            }
        }
        if abandoned {
            ctx.lanes.post_urgent(Event::Abandoned { volume: lun.volume() });
        }
    }

    pub(super) fn abort_one(&mut self, ctx: &mut Ctx, handle: TaskHandle, status: Option<u8>) {
        let Some(command) = self.commands.get_mut(handle) else { return };
        if command.in_flight == 0 {
            // Nobody hears of a command whose turn has not come, or that has ended for its initiator: another one may
            // have its tag.
            let unheard = command.stage == Stage::Early || command.is_abandoned();
            return self.end_aborted(ctx, handle, status.filter(|_| !unheard));
        }
        command.aborted = Some(status);
        command.claim = Claim::No;
        let ghost = command.ghost(handle);
        command.inflow = Inflow::default();
        let (at, owed) = (command.conn, std::mem::take(&mut command.owed));
        if let Some(buf) = self.take_collected(ctx, handle) {
            self.give(ctx, buf);
        }
        if let Some(conn) = self.conns.get_mut(at) {
            conn.owed -= u64::from(owed);
            let most = ctx.limits.commands_per_session as usize;
            ghost.into_iter().for_each(|ghost| conn.expect_ghost(ghost, most));
        }
    }
}
