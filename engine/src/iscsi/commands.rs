//! SCSI commands on their way in: numbered, ordered, judged.
//!
//! The order of the checks is that of SAM-5 5.3.3: unit attentions of a reset or a lost nexus, reservation,
//! the other unit attentions; then what is wrong with the command itself: that the unit does not know it, the
//! port's ALUA state and, for what the engine executes, readiness, the fields of the CDB, write protection.

use super::ahs;
use super::command::{Command, Plan, Stage};
use super::conn::Sink;
use super::lun::Lun;
use super::session::{Early, Session, Terminated};
use super::window::Turn as Order;
use super::wire::{attribute, reason, Bhs, NO_TAG};
use crate::block::command::Claim;
use crate::scsi::attention;
use crate::scsi::canned::allocation;
use crate::scsi::check;
use crate::scsi::command::{status, Answer};
use crate::scsi::row::{self, Action, OnAttention, Row};
use crate::scsi::sense::{Sense, SENSE_BYTES};
use crate::shard::buffers::BufPool;
use crate::shard::context::Ctx;
use crate::shard::tasks::TaskHandle;

/// Commands that are answered although their LUN is not mapped (SPC-4 4.6.1, SAM-5 4.7.4).
const INQUIRY: u8 = 0x12;
pub(super) const REPORT_LUNS: u8 = 0xa0;
const REQUEST_SENSE: u8 = 0x03;

/// What judging a command came to.
enum Verdict {
    Plan(Plan, u64),
    /// Ready data, of which so much may be sent.
    Ready(std::sync::Arc<[u8]>, usize),
    /// A unit attention as the data of REQUEST SENSE.
    Sense(Sense, bool, usize),
}

impl Session {
    /// A SCSI Command's header. `None`: its shard has no room for its first burst now.
    pub(super) fn command(&mut self, ctx: &mut Ctx, at: TaskHandle, bhs: &Bhs, ahs: &[u8]) -> Option<Sink> {
        let first = self.first_burst(bhs);
        let may_bring = first == 0 || self.may_bring(ctx, bhs, BufPool::cost(first));
        let room = first == 0 || may_bring && self.may_begin(ctx, BufPool::cost(first));
        // While others wait for data of this session, what brings that data must not wait for them: then a
        // command without room is refused, so that what is behind it is read.
        if may_bring && !room && self.commands.iter().all(|(_, command)| !command.collecting) && self.may_park(ctx, at)
        {
            return None;
        }
        let order = self.take_turn(bhs);
        if order == Order::Ignore {
            return Some(Sink::Skip);
        }
        match self.new_command(ctx, at, bhs, ahs, order) {
            Err(why) => {
                self.reject(ctx, at, bhs, why);
                if order == Order::Early {
                    self.wait_for_turn(bhs.cmd_sn(), Early::Plugged);
                }
                self.deliver_early(ctx);
                Some(Sink::Skip)
            }
            Ok(handle) => {
                if !room {
                    self.commands.get_mut(handle).expect("just made").fail(Answer::TASK_SET_FULL);
                }
                match order {
                    Order::Early => self.wait_for_turn(bhs.cmd_sn(), Early::Command(handle)),
                    _ => self.advance(ctx, handle),
                }
                self.take_first(ctx, handle, first);
                match order {
                    Order::Early => self.wake_parked(ctx),
                    _ => self.deliver_early(ctx),
                }
                Some(Sink::Command { command: handle, at: 0 })
            }
        }
    }

    /// How much data a command may bring without being asked.
    fn first_burst(&self, bhs: &Bhs) -> usize {
        let brings = bhs.writes() && (bhs.data_bytes() > 0 || !bhs.is_final());
        if brings {
            bhs.word20().min(self.terms.first_burst) as usize
        } else {
            0
        }
    }

    /// Has the shard room for a first burst? Its session always has.
    fn may_begin(&mut self, ctx: &mut Ctx, cost: usize) -> bool {
        ctx.task_room() >= 1 && ctx.may_take_within(usize::MAX, None, 0, cost) && self.finds_room(ctx, cost, true)
    }

    /// A buffer for the first burst of a command that has none: it cannot be carried out yet, or there was
    /// no room for more. What the window promises has this room, whatever else its session holds.
    fn take_first(&mut self, ctx: &mut Ctx, handle: TaskHandle, first: usize) {
        let Some(command) = self.commands.get_mut(handle) else { return };
        if first == 0 || command.buf.is_some() || matches!(command.plan, Plan::Fail(_)) {
            return;
        }
        let cost = BufPool::cost(first);
        ctx.begin_collecting(cost);
        self.first_bursts += cost;
        command.buf = Some(ctx.bufs.take(cost));
        (command.collecting, command.first) = (true, true);
    }

    /// Connections that wait for room in their shard try again: what others of their session have begun may
    /// wait for them, and there is more for the first of a session to collect data.
    pub(super) fn wake_parked(&mut self, ctx: &mut Ctx) {
        let parked: Vec<TaskHandle> = self.conns.iter().filter(|(_, conn)| conn.parked).map(|(at, _)| at).collect();
        parked.into_iter().for_each(|at| self.kick(ctx, at));
    }

    fn new_command(
        &mut self,
        ctx: &mut Ctx,
        at: TaskHandle,
        bhs: &Bhs,
        ahs: &[u8],
        order: Order,
    ) -> Result<TaskHandle, u8> {
        let extra = ahs::parse(ahs).ok_or(reason::INVALID_FIELD)?;
        self.check_new(ctx, bhs)?;
        ctx.iscsi.arrivals += 1;
        let mut command = Command::new(bhs, &extra, &self.terms, at);
        (command.arrival, command.started_ns) = (ctx.iscsi.arrivals, ctx.now_ns.get());
        command.lun = self.luns.get(bhs.lun()).cloned();
        command.data_since_ms = self.data_due(ctx, at, command.inflow.is_due());
        command.heard_ms = ctx.now_ms();
        if order == Order::Early {
            command.stage = Stage::Early;
        }
        let handle = self.commands.insert(command).map_err(|_| reason::TOO_MANY_IMMEDIATE)?;
        self.tags.insert(bhs.itt(), handle);
        self.conn(at).forget_ghost(bhs.itt());
        match (bhs.is_immediate(), order) {
            (true, _) => self.immediates += 1,
            (false, Order::Early) => {}
            (false, _) => self.delivered += 1,
        }
        Ok(handle)
    }

    /// Whether a command may be made of a header; the reason of its Reject (RFC 7143 11.17.1).
    fn check_new(&self, ctx: &Ctx, bhs: &Bhs) -> Result<(), u8> {
        if self.discovery {
            return Err(reason::NOT_SUPPORTED);
        }
        if bhs.itt() == NO_TAG {
            return Err(reason::INVALID_FIELD);
        }
        if self.tags.contains_key(&bhs.itt()) {
            return Err(reason::TASK_IN_PROGRESS);
        }
        let first = self.first_burst(bhs);
        // No window bounds what these bring.
        let too_many = self.immediates >= ctx.limits.immediate_commands as usize
            || first > 0 && self.first_bursts + BufPool::cost(first) > ctx.limits.session_bytes as usize;
        if bhs.is_immediate() && too_many || self.commands.room() == 0 {
            return Err(reason::TOO_MANY_IMMEDIATE);
        }
        Ok(())
    }

    /// Where a PDU's CmdSN stands; takes it if it is the next. One that waits for its turn already is a
    /// duplicate, and ignored like one that has had it (4.2.2.1): seen here, before anything is had for it.
    pub(super) fn take_turn(&mut self, bhs: &Bhs) -> Order {
        if bhs.is_immediate() {
            return Order::Now;
        }
        match self.window.take(bhs.cmd_sn()) {
            Order::Early if self.place_of(bhs.cmd_sn()).is_ok() => Order::Ignore,
            order => order,
        }
    }

    /// Among those that come before their turn: where a CmdSN is (`Ok`), or would be.
    fn place_of(&self, cmd_sn: u32) -> Result<usize, usize> {
        let at = self.early.partition_point(|(sn, _)| super::wire::sn_lt(*sn, cmd_sn));
        match self.early.get(at) {
            Some((sn, _)) if *sn == cmd_sn => Ok(at),
            _ => Err(at),
        }
    }

    /// Puts a PDU, whose turn was found to be early, among those that come before theirs.
    pub(super) fn wait_for_turn(&mut self, cmd_sn: u32, early: Early) {
        let at = self.place_of(cmd_sn).expect_err("a duplicate is ignored");
        self.early.insert(at, (cmd_sn, early));
    }

    /// Delivers what has waited for the commands before it: a task management function before the command that
    /// comes next.
    pub(super) fn deliver_early(&mut self, ctx: &mut Ctx) {
        loop {
            self.begin_managements(ctx);
            let Some((sn, _)) = self.early.first() else { return };
            if self.window.take(*sn) != Order::Now {
                return;
            }
            match self.early.remove(0).1 {
                Early::Plugged => {}
                Early::Command(handle) => {
                    if let Some(command) = self.commands.get_mut(handle) {
                        command.stage = Stage::Arrived;
                        let conn = command.conn;
                        self.delivered += 1;
                        self.advance(ctx, handle);
                        self.kick(ctx, conn);
                    }
                }
                Early::Other { conn, bhs, data } => {
                    self.release_early(ctx, &data);
                    if self.deliver_other(ctx, conn, &bhs, data).is_err() {
                        self.conn(conn).close("a request that was refused", ctx.now_ms());
                    }
                    self.kick(ctx, conn);
                }
            }
        }
    }

    /// Lets a command go on as far as it can: the one place where its next step is decided.
    pub(super) fn advance(&mut self, ctx: &mut Ctx, handle: TaskHandle) {
        let Some(command) = self.commands.get_mut(handle) else { return };
        if matches!(command.stage, Stage::Early | Stage::HandedUp) || command.aborted.is_some() {
            return;
        }
        let (volume, arrival) = (command.volume(), command.arrival);
        let is_begun = !matches!(command.plan, Plan::None);
        let stands_before = |it: &Terminated| it.volume == volume && (it.arrivals < arrival || !is_begun);
        let behind = self.terminated.iter().any(|it| stands_before(it) && ctx.tasks.get(it.task).is_some());
        // Who has the range of all its pieces goes on to the last: what holds the others up may wait for some that wait
        // for its range.
        let may_wait = !matches!(command.claim, Claim::Has(_));
        command.held = command.frozen || may_wait && (behind || ctx.iscsi.is_held(volume, self.nexus));
        if command.held {
            if behind {
                let at = command.conn;
                self.await_terminated(ctx, at);
            }
            return;
        }
        if command.stage == Stage::Arrived {
            let enabled =
                command.lun.as_ref().is_none_or(|lun| lun.tasks.borrow_mut().enter(command.attribute, handle));
            command.stage = if enabled { Stage::Enabled } else { Stage::Dormant };
        }
        if command.stage == Stage::Dormant {
            return;
        }
        if command.attribute == attribute::ORDERED {
            // All before it are over: what they read is what was there until now.
            self.settle(ctx);
        }
        let Some(command) = self.commands.get(handle) else { return };
        if matches!(command.plan, Plan::None) && !self.judge(ctx, handle) {
            return;
        }
        self.carry_out(ctx, handle);
    }

    /// A connection gets a turn when a task has ended, as one of those may have that its commands wait for.
    fn await_terminated(&mut self, ctx: &mut Ctx, at: TaskHandle) {
        let conn = self.conn(at).link.handle;
        if !ctx.awaiting.contains(&conn) {
            ctx.awaiting.push(conn);
        }
    }

    /// What waited for the tasks of a connection that is replaced goes on when they have ended.
    pub(super) fn see_terminated(&mut self, ctx: &mut Ctx, at: TaskHandle) {
        let before = self.terminated.len();
        self.terminated.retain(|it| ctx.tasks.get(it.task).is_some());
        if self.terminated.len() < before {
            self.released(ctx);
        }
        if !self.terminated.is_empty() {
            self.await_terminated(ctx, at);
        }
    }

    /// Decides what an enabled command is. False: it has ended by that.
    fn judge(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> bool {
        if ctx.is_fenced() {
            self.abort_one(ctx, handle, None);
            return false;
        }
        let command = self.commands.get(handle).expect("it advances");
        let verdict = self.verdict(ctx, command).unwrap_or_else(|answer| Verdict::Plan(Plan::Fail(answer), 0));
        let open = command.inflow.is_open();
        match verdict {
            Verdict::Plan(plan, generation) => {
                let command = self.commands.get_mut(handle).expect("it advances");
                (command.plan, command.generation) = (plan, generation);
                true
            }
            // Data that nobody wants is on its way: seen off before the answer. Such commands have none.
            _ if open => {
                let command = self.commands.get_mut(handle).expect("it advances");
                command.plan = Plan::HandUp(0);
                true
            }
            Verdict::Ready(data, most) => {
                let data = &data[..data.len().min(most)];
                self.end_with(ctx, handle, status::GOOD, data, &[]);
                false
            }
            Verdict::Sense(sense, descriptor, most) => {
                let mut bytes = [0; SENSE_BYTES];
                let len = sense.encode(descriptor, &mut bytes).min(most);
                self.end_with(ctx, handle, status::GOOD, &bytes[..len], &[]);
                false
            }
        }
    }

    fn verdict(&self, ctx: &Ctx, command: &Command) -> Result<Verdict, Answer> {
        if ctx.stopping {
            return Err(Answer::BUSY);
        }
        let cdb = command.cdb.bytes();
        let Some(lun) = &command.lun else { return self.unmapped(command) };
        let gate = lun.attachment.entry.gate.borrow();
        let gate = gate.as_ref().ok_or(Answer::check(Sense::LOGICAL_UNIT_NOT_SUPPORTED))?;
        let scsi = gate.scsi.as_deref().ok_or(Answer::check(Sense::LOGICAL_UNIT_NOT_SUPPORTED))?;
        let found = check::known(scsi, cdb);
        let pending = attention::first(lun.attentions.get());
        if let (Some((bit, sense)), OnAttention::Report) =
            (pending, found.map_or(OnAttention::Report, |it| it.attention))
        {
            let conflict = found.is_ok_and(|row| row.conflicts_in(gate.situation(self.nexus), cdb));
            if !conflict || attention::is_of_reset(sense) {
                lun.attentions.set(lun.attentions.get() & !bit);
                return Err(Answer::check(sense));
            }
        }
        let row = found?;
        if row.attention == OnAttention::Report {
            if let Some(sense) = lun.take_deferred() {
                return Err(Answer::check(sense));
            }
        }
        check::admit(gate, scsi, row, cdb, self.nexus, self.port)?;
        if row.attention == OnAttention::Sense {
            if let Some(sense) = lun.take_sense() {
                // DESC: descriptor format is asked for (SPC-4 6.39).
                return Ok(Verdict::Sense(sense, cdb[1] & 1 != 0, allocation(row, cdb)));
            }
        }
        if command.attribute == attribute::ACA {
            // No ACA is ever established here (NORMACA is 0): such a task has nothing to belong to.
            return Err(Answer::check(Sense::new(0x0b, 0x49, 0x00)));
        }
        let plan = match row.action {
            Action::Handed => Plan::HandUp(row.parameter_list.map_or(0, |field| field.of(cdb) as u32)),
            Action::Canned => return Ok(self.ready(scsi, row, cdb).unwrap_or(Verdict::Plan(Plan::HandUp(0), 0))),
            _ => Plan::Media(row, check::media(gate, scsi, row, cdb, lun.read_only.get())?),
        };
        Ok(Verdict::Plan(plan, gate.generation))
    }

    fn ready(&self, scsi: &crate::scsi::gate::ScsiGate, row: &'static Row, cdb: &[u8]) -> Option<Verdict> {
        let found = match row.opcode {
            REPORT_LUNS => self.luns.report_luns.get(row, cdb),
            _ => scsi.ready(row, cdb, self.port),
        };
        Some(Verdict::Ready(found?.clone(), allocation(row, cdb)))
    }

    /// A command to a LUN that is not mapped: some are answered all the same.
    fn unmapped(&self, command: &Command) -> Result<Verdict, Answer> {
        let cdb = command.cdb.bytes();
        match cdb[0] {
            REPORT_LUNS => {
                let row = row::find(cdb).map_err(Answer::unknown)?;
                let ready = self.luns.report_luns.get(row, cdb);
                let ready = ready.map(|data| Verdict::Ready(data.clone(), allocation(row, cdb)));
                Ok(ready.unwrap_or(Verdict::Plan(Plan::HandUp(0), 0)))
            }
            INQUIRY | REQUEST_SENSE => Ok(Verdict::Plan(Plan::HandUp(0), 0)),
            _ => Err(Answer::check(Sense::LOGICAL_UNIT_NOT_SUPPORTED)),
        }
    }

    /// Has the gate changed, or the LUN map, so that an admitted command may not go on?
    pub(super) fn recheck(&self, command: &Command) -> Result<u64, Answer> {
        let (Some(lun), Plan::Media(row, _)) = (&command.lun, &command.plan) else { return Ok(command.generation) };
        let gate = lun.attachment.entry.gate.borrow();
        let gate = gate.as_ref().ok_or(Answer::check(Sense::NOT_READY))?;
        // The LUN map is no part of the gate, and has no generation.
        if row.writes && lun.read_only.get() {
            return Err(Answer::check(Sense::WRITE_PROTECTED));
        }
        if gate.generation == command.generation {
            return Ok(gate.generation);
        }
        let scsi = gate.scsi.as_deref().ok_or(Answer::check(Sense::NOT_READY))?;
        let cdb = command.cdb.bytes();
        check::admit(gate, scsi, check::known(scsi, cdb)?, cdb, self.nexus, self.port)?;
        check::media(gate, scsi, row, cdb, false)?;
        Ok(gate.generation)
    }

    /// A command has left: those that it stood before may go on.
    pub(super) fn leave_task_set(&mut self, ctx: &mut Ctx, handle: TaskHandle, command: &Command) {
        let Some(lun) = &command.lun else { return };
        match command.stage {
            Stage::Early | Stage::Arrived => return,
            Stage::Dormant => lun.tasks.borrow_mut().forget(handle),
            Stage::Enabled | Stage::HandedUp => lun.tasks.borrow_mut().leave(command.attribute),
        }
        self.enable_next(ctx, lun);
    }

    /// Those that may run now go on, in a turn, not from here: a long chain of them must not nest.
    pub(super) fn enable_next(&mut self, ctx: &mut Ctx, lun: &Lun) {
        loop {
            let next = lun.tasks.borrow_mut().enable_next();
            let Some(next) = next else { return };
            if let Some(other) = self.commands.get_mut(next) {
                other.stage = Stage::Enabled;
                let conn = other.conn;
                self.enabled.push_back(next);
                self.wake(ctx, conn);
            }
        }
    }

    /// Something is to be sent on a connection: it gets its turn, unless it has it.
    pub(super) fn kick(&mut self, ctx: &mut Ctx, at: TaskHandle) {
        if self.current != Some(at) {
            self.wake(ctx, at);
        }
    }

    /// Gives a connection a turn.
    pub(super) fn wake(&mut self, ctx: &mut Ctx, at: TaskHandle) {
        if let Some(conn) = self.conns.get_mut(at) {
            if !conn.kicked {
                conn.kicked = true;
                ctx.kicked.push(conn.link.handle);
            }
        }
    }
}
