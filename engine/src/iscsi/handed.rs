//! Commands that are Python's: up with all their data, and down again, once, or not at all any more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::Arc;

use super::command::{Command, Plan, Stage};
use super::session::Session;
use super::shard::Named;
use crate::scsi::command::Answer;
use crate::shard::context::Ctx;
use crate::shard::events::Event;
use crate::shard::tasks::TaskHandle;

impl Session {
    /// Hands a command up, if Python may have one more.
    pub(super) fn hand_up(&mut self, ctx: &mut Ctx, handle: TaskHandle) {
        let name = if self.may_hand_up(ctx) { self.name(ctx, handle) } else { None };
        let Some(name) = name else {
            let command = self.commands.get_mut(handle).expect("it is being carried out");
            if !command.queued {
                command.queued = true;
                self.quota.push_back(handle);
            }
            return;
        };
        // So many were aborted before Python has even heard of them: it is not told of more.
        if self.in_lane.count() >= ctx.limits.handed_up_per_nexus as usize {
            return self.end_failed(ctx, handle, Answer::TASK_SET_FULL);
        }
        let (session, nexus, port) = (self.number, self.nexus, self.port);
        let (entered, fate) = (self.in_lane.enter(ctx.now_ms()), Fate::default());
        let command = self.commands.get_mut(handle).expect("it is being carried out");
        // What comes beyond the parameter list is nobody's.
        let len = command.inflow.received().min(command.wants()) as usize;
        let data = command.buf.as_ref().map_or(Vec::new(), |buf| buf[..len.min(buf.len())].to_vec());
        let collected = command.buf.as_ref().filter(|_| std::mem::take(&mut command.collecting));
        let collected = collected.map(|buf| ctx.end_collecting(buf.capacity())).is_some();
        command.stage = Stage::HandedUp;
        command.fate = Some(fate.clone());
        command.queued = false;
        let (volume, lun, read_only) = (command.volume(), command.lun_field, command.lun.as_ref());
        let read_only = read_only.is_some_and(|lun| lun.read_only.get());
        let no_room = matches!(command.plan, Plan::Fail(_));
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
            no_room,
            entered,
            fate,
        })));
        if collected {
            self.wake_parked(ctx);
        }
        self.handed_up += 1;
    }

    /// May Python have one more command of this nexus? Who tries those that wait asks this first: what would only
    /// come back to wait is not tried.
    pub(super) fn may_hand_up(&self, ctx: &Ctx) -> bool {
        !self.has_used_its_quota(ctx) && ctx.iscsi.has_name_for(self.handed_up)
    }

    fn has_used_its_quota(&self, ctx: &Ctx) -> bool {
        self.handed_up >= ctx.limits.handed_up_per_nexus as usize
    }

    /// Do commands wait for names? Those other sessions of the shard have, and give back.
    pub(super) fn waits_for_names(&self, ctx: &Ctx) -> bool {
        !self.quota.is_empty() && !self.has_used_its_quota(ctx)
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

    /// A command that is Python's ends without an answer. For the initiator it is gone; in the books it stays until
    /// Python has answered, or aborts what it has of this nexus at that volume: so a peer that makes its commands end
    /// like that does not get more of them into Python's hands than others. True: Python has it, and is to be told.
    pub(super) fn abandon(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> bool {
        if let Some(buf) = self.take_collected(ctx, handle) {
            self.give(ctx, buf);
        }
        let Some(command) = self.commands.get_mut(handle) else { return false };
        if command.fate.as_ref().is_some_and(Fate::end) {
            // Not taken yet: there is nothing that Python would answer.
            self.drop_command(ctx, handle);
            return false;
        }
        command.aborted = Some(None);
        command.abandoned = Some(command.volume());
        let (itt, attribute, lun) = (command.itt, command.attribute, command.lun.take());
        if self.tags.get(&itt) == Some(&handle) {
            self.tags.remove(&itt);
        }
        if let Some(lun) = lun {
            lun.tasks.borrow_mut().leave(attribute);
            self.enable_next(ctx, &lun);
        }
        true
    }

    /// Python's answer. False: it is late.
    pub fn complete(&mut self, ctx: &mut Ctx, handle: TaskHandle, status: u8, data: &[u8], sense: &[u8]) -> bool {
        if !self.is_handed_up(handle) || self.was_abandoned(ctx, handle) {
            return false;
        }
        self.end_with(ctx, handle, status, data, sense);
        true
    }

    /// Back to the gate, as if it had just come; one that found no room only has its end before it.
    pub fn resume(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> bool {
        if !self.is_handed_up(handle) || self.was_abandoned(ctx, handle) {
            return false;
        }
        let command = self.commands.get_mut(handle).expect("looked at above");
        command.stage = Stage::Enabled;
        match command.plan {
            Plan::Fail(_) => command.warned = true,
            _ => command.plan = Plan::None,
        }
        command.no_longer_up();
        let (name, at) = (command.name.take(), command.conn);
        if let (Some(buf), false) = (&command.buf, command.collecting) {
            ctx.begin_collecting(buf.capacity());
            command.collecting = true;
        }
        if let Some(name) = name {
            ctx.iscsi.named.remove(name);
        }
        self.handed_up -= 1;
        self.advance(ctx, handle);
        self.kick(ctx, at);
        true
    }

    /// Python has answered a command: was nobody waiting for that? Then it is over now, and others have its place.
    fn was_abandoned(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> bool {
        let Some(command) = self.commands.get(handle).filter(|command| command.is_abandoned()) else { return false };
        let at = command.conn;
        self.drop_command(ctx, handle);
        self.kick(ctx, at);
        true
    }

    pub(super) fn is_handed_up(&self, handle: TaskHandle) -> bool {
        self.commands.get(handle).is_some_and(|command| command.stage == Stage::HandedUp)
    }
}

impl Command {
    /// Has it ended for its initiator, while Python still has it?
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned.is_some()
    }

    /// Python has it no longer, or is never to hear of it.
    pub(super) fn no_longer_up(&mut self) {
        if let Some(fate) = self.fate.take() {
            fate.end();
        }
    }
}

/// What becomes of a command on its way up, for its session and for whoever has its event. Functions that abort are
/// urgent and overtake commands: one that they have ended must not be carried out after their answer.
#[derive(Clone, Debug, Default)]
pub struct Fate(Arc<AtomicU8>);

const WAITS: u8 = 0;
const TAKEN: u8 = 1;
const OVER: u8 = 2;

impl Fate {
    /// Python takes the event. False: its command has ended, and Python is not to hear of it.
    pub fn take(&self) -> bool {
        self.0.compare_exchange(WAITS, TAKEN, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The command has ended, and what is not carried out yet never is. True: Python had not taken it.
    fn end(&self) -> bool {
        self.0.swap(OVER, Ordering::SeqCst) == WAITS
    }

    /// Has the command ended?
    pub fn is_over(&self) -> bool {
        self.0.load(Ordering::SeqCst) == OVER
    }
}

/// Nothing that an event says.
impl PartialEq for Fate {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Fate {}

/// A session's commands that are in the lane, whatever has become of them: Python has not taken these events yet.
///
/// A lane that nobody reads tells that Python does not react, and then the session ends. How long a command takes that
/// Python has taken says nothing of that: to sanitize a disk, or to wait for one that hangs, may take hours.
#[derive(Debug, Default)]
pub struct InLane {
    count: Arc<AtomicUsize>,
    /// Since when, in the order of the lane. Those in front that are too many have been taken.
    since_ms: VecDeque<u64>,
}

impl InLane {
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn taken(&self) -> usize {
        self.since_ms.len() - self.count()
    }

    /// Since when the first of them has been there.
    pub(super) fn since_ms(&self) -> Option<u64> {
        self.since_ms.get(self.taken()).copied()
    }

    fn enter(&mut self, now_ms: u64) -> Entered {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.since_ms.push_back(now_ms);
        self.since_ms.drain(..self.taken());
        Entered(self.count.clone())
    }
}

/// Counts for as long as its event is there.
#[derive(Debug)]
pub struct Entered(Arc<AtomicUsize>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Nothing that an event says.
impl PartialEq for Entered {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Entered {}

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
    /// It has been carried out as far as there was room, see `full.rs`: to be resumed when everybody has been warned.
    pub no_room: bool,
    pub entered: Entered,
    pub fate: Fate,
}
