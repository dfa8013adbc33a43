//! Commands that are Python's: up with all their data, and down again, once, or not at all any more.

use super::command::{Plan, Stage};
use super::session::Session;
use super::shard::Named;
use crate::shard::context::Ctx;
use crate::shard::events::Event;
use crate::shard::tasks::TaskHandle;

impl Session {
    /// Hands a command up, unless Python has as many of this nexus's as it may.
    pub(super) fn hand_up(&mut self, ctx: &mut Ctx, handle: TaskHandle) {
        let full = self.handed_up >= ctx.limits.handed_up_per_nexus as usize;
        let name = if full { None } else { self.name(ctx, handle) };
        let Some(name) = name else {
            let command = self.commands.get_mut(handle).expect("it is being carried out");
            if !command.queued {
                command.queued = true;
                self.quota.push_back(handle);
            }
            return;
        };
        let (session, nexus, port) = (self.number, self.nexus, self.port);
        let command = self.commands.get_mut(handle).expect("it is being carried out");
        // What comes beyond the parameter list is nobody's.
        let len = command.inflow.received().min(command.wants()) as usize;
        let data = command.buf.as_ref().map_or(Vec::new(), |buf| buf[..len.min(buf.len())].to_vec());
        if let Some(buf) = &command.buf {
            if std::mem::take(&mut command.collecting) {
                ctx.end_collecting(buf.capacity());
            }
        }
        command.stage = Stage::HandedUp;
        command.queued = false;
        let (volume, lun, read_only) = (command.volume(), command.lun_field, command.lun.as_ref());
        let read_only = read_only.is_some_and(|lun| lun.read_only);
        let conn = self.conns.get(command.conn).map_or(0, |conn| conn.link.id);
        ctx.lanes.post(Event::Command(Box::new(HandedUp {
            task: ctx.iscsi.number_of(name),
            session,
            conn,
            nexus,
            port,
            volume,
            lun,
            read_only,
            cdb: command.cdb.bytes().to_vec(),
            data,
            attribute: command.attribute,
            expected_in: command.expected_in,
            expected_out: command.expected_out,
        })));
        self.handed_up += 1;
        self.handed.push_back((ctx.now_ms() + ctx.limits.handed_up_ms, name));
    }

    /// The name by which Python knows a command; `None`: there are too many of them.
    pub(super) fn name(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> Option<TaskHandle> {
        let command = self.commands.get_mut(handle)?;
        if command.name.is_none() {
            let named = Named::Command { session: self.number, command: handle };
            command.name = ctx.iscsi.named.insert(named).ok();
        }
        command.name
    }

    /// Python's answer. False: it is late.
    pub fn complete(&mut self, ctx: &mut Ctx, handle: TaskHandle, status: u8, data: &[u8], sense: &[u8]) -> bool {
        if !self.is_handed_up(handle) {
            return false;
        }
        self.end_with(ctx, handle, status, data, sense);
        true
    }

    /// Back to the gate, as if it had just come.
    pub fn resume(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> bool {
        if !self.is_handed_up(handle) {
            return false;
        }
        let command = self.commands.get_mut(handle).expect("looked at above");
        (command.stage, command.plan) = (Stage::Enabled, Plan::None);
        let (name, at) = (command.name.take(), command.conn);
        if let (Some(buf), false) = (&command.buf, command.collecting) {
            ctx.begin_collecting(buf.capacity());
            command.collecting = true;
        }
        if let Some(name) = name {
            ctx.iscsi.named.remove(name);
        }
        self.handed_up -= 1;
        self.forget_answered(ctx);
        self.advance(ctx, handle);
        self.kick(ctx, at);
        true
    }

    fn is_handed_up(&self, handle: TaskHandle) -> bool {
        self.commands.get(handle).is_some_and(|command| command.stage == Stage::HandedUp)
    }
}

/// A command on its way up; see `Command` in `_engine.pyi`.
#[derive(Debug, PartialEq, Eq)]
pub struct HandedUp {
    pub task: u64,
    pub session: u64,
    pub conn: u64,
    pub nexus: u64,
    pub port: u64,
    pub volume: u64,
    pub lun: u64,
    pub read_only: bool,
    pub cdb: Vec<u8>,
    pub data: Vec<u8>,
    pub attribute: u8,
    pub expected_in: u32,
    pub expected_out: u32,
}
