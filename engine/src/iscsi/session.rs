//! A session: all its connections, commands and logical units, on one shard.
//!
//! ```text
//! PDU ─▶ intake ─▶ delivered by CmdSN ─▶ task set ─▶ judged ─▶ volume, or Python ─▶ answer
//! ```
//! What cannot go on waits in its command: for data, for memory, for a task before it, for a cut. Only
//! a first burst without room in its shard stops a connection from being read, and that not while other data of
//! its session is to come, so that task management always comes through.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use super::command::{Command, Stage};
use super::conn::{Conn, Rx};
use super::handed::InLane;
use super::inflow::Terms;
use super::lun::Luns;
use super::params::Params;
use super::room::longest_wait_ms;
use super::scope::Scope;
use super::seekers::Place;
use super::shard::Table;
use super::share::SHUT_MS;
use super::window::Window;
use super::wire::{Bhs, Numbers};
use crate::block::command::Op;
use crate::shard::buffers::{BufPool, IoBuf};
use crate::shard::context::{Attachment, Ctx, Task};
use crate::shard::link::{End, Link};
use crate::shard::status::OpCounts;
use crate::shard::tasks::{Slab, TaskHandle};

/// Data must come at this rate at least, bytes per second, beside the time that every PDU has.
pub(super) const SLOWEST_RATE: u64 = 64 << 10;

/// Connections of one session (MaxConnections is negotiated well below).
const CONNECTIONS: usize = 64;

/// Tags are the initiator's, but no more of them are kept than commands: a cheap hash will do.
#[derive(Default)]
pub struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, tag: u32) {
        self.0 = (self.0 ^ u64::from(tag)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

type Tags = HashMap<u32, TaskHandle, BuildHasherDefault<TagHasher>>;

/// A PDU that came before its turn.
pub enum Early {
    Command(TaskHandle),
    Other {
        conn: TaskHandle,
        bhs: Bhs,
        data: Vec<u8>,
    },
    /// ABORT TASK has come before the command that it names (RFC 7143 11.6.1): that one never runs.
    Plugged,
}

/// A task of a connection that another has taken the place of, at a volume. What begins later waits for its end: it may
/// have been behind it before, by its task attribute. What had begun by then, on other connections, ran beside it.
pub struct Terminated {
    pub task: TaskHandle,
    pub volume: u64,
    pub arrivals: u64,
}

/// See the module's text.
pub struct Session {
    pub number: u64,
    pub nexus: u64,
    pub port: u64,
    pub discovery: bool,
    pub initiator: String,
    pub target: String,
    pub terms: Terms,
    pub queue_depth: u32,
    pub nop_interval_ms: u64,
    pub nop_timeout_ms: u64,
    pub window: Window,
    /// By CmdSN.
    pub early: Vec<(u32, Early)>,
    /// Data of those that are no commands.
    pub early_bytes: usize,
    /// There were such at the end of the last turn.
    pub wanted: bool,
    /// Commands ended without a word while the window was closed: that it is open now has to be told.
    pub untold: bool,
    pub commands: Slab<Command>,
    pub tags: Tags,
    /// Commands that were delivered and have not ended, immediate ones apart; and those.
    pub delivered: usize,
    pub immediates: usize,
    pub luns: Luns,
    pub conns: Slab<Conn>,
    /// Capacity of the buffers that its commands hold; those for first bursts apart.
    pub held: usize,
    pub first_bursts: usize,
    /// Half of what it may hold; and what units have beyond that.
    pub unit_bytes: usize,
    pub beyond: usize,
    /// Since when its window is closed for want of memory; that has been long, and has not passed.
    pub shut_since_ms: Option<u64>,
    pub relieved: bool,
    /// Commands that wait for memory, or for their connection to send what waits, with their arrivals: the oldest first.
    pub queued: VecDeque<(u64, TaskHandle)>,
    /// One of them waits for what others of its shard hold.
    pub starved: bool,
    /// Its place among those that wait for room in their shard; and whether it has asked for some in this turn.
    pub seeks: Option<Place>,
    pub sought: bool,
    /// When it may ask others for room again.
    pub asks_again_ms: Option<u64>,
    /// Commands that may run now: those before them have ended.
    pub enabled: VecDeque<TaskHandle>,
    /// The connection that has its turn.
    pub current: Option<TaskHandle>,
    /// Commands that Python has.
    pub handed_up: usize,
    pub in_lane: InLane,
    /// Those that wait for the quota of such.
    pub quota: VecDeque<TaskHandle>,
    pub managements: usize,
    /// Task management functions that wait for commands before them, with their connections.
    pub functions: Vec<(TaskHandle, Bhs)>,
    /// Tasks of connections that others have taken the places of.
    pub terminated: Vec<Terminated>,
    pub pings: u32,
    /// What it has done so far; none before its first command.
    pub counts: Option<Box<OpCounts>>,
    /// Commands of this turn that did not take their time.
    pub ended: Vec<(Rc<Attachment>, Op, u64, bool)>,
}

impl Session {
    /// A session without connections.
    pub fn new(ctx: &mut Ctx, params: &mut Params) -> Self {
        let mut session = Self {
            number: params.session,
            nexus: params.nexus,
            port: params.port,
            discovery: params.discovery,
            initiator: std::mem::take(&mut params.initiator),
            target: std::mem::take(&mut params.target),
            terms: params.terms,
            queue_depth: params.queue_depth,
            nop_interval_ms: params.nop_interval_ms,
            nop_timeout_ms: params.nop_timeout_ms,
            window: Window::new(params.exp_cmd_sn),
            early: Vec::new(),
            early_bytes: 0,
            wanted: false,
            untold: false,
            commands: Slab::new(ctx.limits.commands_per_session as usize),
            tags: Tags::default(),
            delivered: 0,
            immediates: 0,
            luns: Luns::default(),
            conns: Slab::new(CONNECTIONS),
            held: 0,
            first_bursts: 0,
            unit_bytes: ctx.limits.session_bytes as usize / 2,
            beyond: 0,
            shut_since_ms: None,
            relieved: false,
            queued: VecDeque::new(),
            starved: false,
            seeks: None,
            sought: false,
            asks_again_ms: None,
            enabled: VecDeque::new(),
            current: None,
            handed_up: 0,
            in_lane: InLane::default(),
            quota: VecDeque::new(),
            managements: 0,
            functions: Vec::new(),
            terminated: Vec::new(),
            pings: 0,
            counts: None,
            ended: Vec::new(),
        };
        if let Some(map) = params.luns.take() {
            session.set_luns(ctx, map);
        }
        // What the last Login Response says is less: nobody may be ignored who keeps to that.
        session.grant(ctx);
        session
    }

    /// Shared by its connections.
    pub fn shared(self) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(self))
    }

    /// A connection has logged in. `Err`: there are too many.
    pub fn join(&mut self, ctx: &mut Ctx, link: Link, params: &Params) -> Result<TaskHandle, Box<Link>> {
        self.reinstate(ctx, params.cid);
        let digests = (params.header_digest, params.data_digest);
        let lengths = (params.max_send_data, params.max_recv_data);
        let conn = Conn::new(link, params.cid, digests, lengths, params.stat_sn, ctx.now_ms());
        self.conns.insert(conn).map_err(|conn| Box::new(conn.link))
    }

    /// A connection with this CID logs in: that is the logout of the one that has it. Below level 2 its tasks end
    /// at once, without a word; the session and its other connections go on (RFC 7143 6.3.4). What the volumes have of
    /// them ends by itself, and is not to end behind what comes for the same volume now.
    fn reinstate(&mut self, ctx: &mut Ctx, cid: u16) {
        let named = |conn: &Conn| conn.cid == cid && !conn.logged_out;
        let former = self.conns.iter().find(|(_, conn)| named(conn)).map(|(at, _)| at);
        if let Some(former) = former {
            self.forget_early(ctx, former);
        }
        self.note_terminated(ctx, cid);
        let Some(former) = former else { return };
        self.drop_commands(ctx, former);
        let now_ms = ctx.now_ms();
        let conn = self.conn(former);
        conn.link.out.discard(&mut ctx.bufs);
        (conn.logged_out, conn.replaced) = (true, true);
        conn.close("another connection has taken its place", now_ms);
        self.kick(ctx, former);
    }

    /// What the volumes have of connections with this CID has an end to be waited for: of the one that is replaced, and
    /// of one whose logout has not been answered, which may be gone by now.
    fn note_terminated(&mut self, ctx: &Ctx, cid: u16) {
        let asked = self.conns.iter().flat_map(|(_, conn)| &conn.logouts).filter(|asked| asked.cid == Some(cid));
        let there = self.conns.iter().filter(|(_, conn)| conn.cid == cid).map(|(_, conn)| conn.link.id);
        let former: Vec<u64> = asked.map(|asked| asked.closes).chain(there).collect();
        let its = |task: &Task| former.contains(&task.conn_id) && task.asked.op != Op::Read;
        let arrivals = ctx.iscsi.arrivals;
        let terminated = ctx.tasks.iter().filter(|(_, task)| its(task)).map(|(task, it)| {
            let volume = it.attachment.entry.volume.id();
            Terminated { task, volume, arrivals }
        });
        self.terminated.extend(terminated);
    }

    /// A connection that is known to be there.
    pub fn conn(&mut self, at: TaskHandle) -> &mut Conn {
        self.conns.get_mut(at).expect("a connection lives while its PDUs are handled")
    }

    /// Opens the window as far as commands and memory allow.
    ///
    /// What it promises is kept: first bursts have a budget of their own, which nothing else takes from, so
    /// that a command whose data another waits for always has room. Both together are at most twice `session_bytes`,
    /// and the room of what it gets for relief.
    pub fn grant(&mut self, ctx: &Ctx) {
        let depth = (self.queue_depth as usize).saturating_sub(self.delivered);
        let mut credit = depth;
        if self.terms.immediate_data || !self.terms.initial_r2t {
            let each = BufPool::cost((self.terms.first_burst as usize).max(1));
            let taken = self.held + self.first_bursts;
            let promised = (ctx.limits.session_bytes as usize).saturating_sub(taken) / each;
            credit = credit.min(promised.max(self.relief()));
            self.relieved &= promised < self.relief();
        }
        if ctx.is_pressed() {
            credit = credit.min(1);
        }
        // A session that waits for nothing can always go on.
        self.window.grant(credit.max(usize::from(self.delivered == 0)) as u32);
    }

    /// The numbers of a PDU that takes a StatSN.
    pub fn take_numbers(&mut self, ctx: &Ctx, at: TaskHandle) -> Numbers {
        self.grant(ctx);
        let (expected, most) = (self.window.expected(), self.window.most());
        self.conn(at).next_numbers(expected, most)
    }

    /// The numbers of one that does not: a Data-In without status, an R2T, a ping of ours.
    pub fn numbers(&mut self, ctx: &Ctx, at: TaskHandle) -> Numbers {
        self.grant(ctx);
        let (exp_cmd_sn, max_cmd_sn) = (self.window.expected(), self.window.most());
        Numbers { stat_sn: self.conn(at).stat_sn, exp_cmd_sn, max_cmd_sn }
    }

    /// Memory that its commands and unread replies hold, first bursts apart.
    pub fn held_bytes(&self) -> usize {
        let waiting = self.conns.iter().map(|(_, conn)| conn.link.out.waiting_bytes() + conn.link.transport.unsent());
        self.held + waiting.sum::<usize>()
    }

    /// A buffer out of the shard's pool.
    pub fn take(&mut self, ctx: &mut Ctx, len: usize) -> IoBuf {
        let buf = ctx.bufs.take(len);
        self.held += buf.capacity();
        buf
    }

    /// Gives one back.
    pub fn give(&mut self, ctx: &mut Ctx, buf: IoBuf) {
        self.held -= buf.capacity();
        ctx.bufs.give(buf);
    }

    /// The buffer in which a command's data is collected leaves it: it is counted like any other from here on.
    pub(super) fn take_collected(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> Option<IoBuf> {
        let command = self.commands.get_mut(handle)?;
        let buf = command.buf.take()?;
        let collecting = std::mem::take(&mut command.collecting);
        if std::mem::take(&mut command.first) {
            self.first_bursts -= buf.capacity();
            self.held += buf.capacity();
        }
        if collecting {
            ctx.end_collecting(buf.capacity());
            self.wake_parked(ctx);
        }
        Some(buf)
    }

    /// What its connections have yet to send of mapped files is from here on what these have now.
    pub fn settle(&mut self, ctx: &mut Ctx) {
        self.settle_within(ctx, &Scope::default());
    }

    /// The same for what is in a scope.
    pub fn settle_within(&mut self, ctx: &mut Ctx, scope: &Scope) {
        let nexus = self.nexus;
        let queues = self.conns.iter_mut().map(|conn| &mut conn.link.out);
        queues.for_each(|out| out.settle(&mut ctx.bufs, |volume| scope.covers(volume, nexus)));
    }

    /// Books what ended in this turn, all with the time of their batch.
    pub fn count_ended(&mut self, ctx: &mut Ctx) {
        if self.ended.is_empty() {
            return;
        }
        let started = ctx.now_ns.get();
        let latency_us = (ctx.tick() - started) / 1000;
        let own = self.counts.get_or_insert_default();
        for (attachment, op, bytes, failed) in self.ended.drain(..) {
            attachment.counts.borrow_mut().count(op, bytes, failed, latency_us);
            own.count(op, bytes, failed, latency_us);
        }
    }

    /// Commands of one connection that have not ended.
    pub fn in_flight(&self, at: TaskHandle) -> usize {
        self.commands.iter().filter(|(_, command)| command.conn == at).count()
    }

    /// A connection is gone: what was not submitted is dropped. True: it was the last.
    pub fn leave(&mut self, ctx: &mut Ctx, at: TaskHandle) -> bool {
        self.forget_early(ctx, at);
        if let Some(mut conn) = self.conns.remove(at) {
            conn.link.out.discard(&mut ctx.bufs);
            conn.rx = Rx::Header;
        }
        self.drop_commands(ctx, at);
        // It may have been the one that was to be woken when there is memory for what the others have waiting.
        let others: Vec<TaskHandle> = self.conns.iter().map(|(other, _)| other).collect();
        others.into_iter().for_each(|other| self.kick(ctx, other));
        self.conns.is_empty()
    }

    /// What came before its turn on a connection that is left was not acknowledged: it counts as never
    /// received, and the initiator sends it again on another connection, with the same CmdSN (7.2.2, 11.14).
    pub(super) fn forget_early(&mut self, ctx: &mut Ctx, at: TaskHandle) {
        self.functions.retain(|(conn, _)| *conn != at);
        let early = std::mem::take(&mut self.early);
        for (sn, early) in early {
            let conn = match &early {
                Early::Command(handle) => self.commands.get(*handle).map(|command| command.conn),
                Early::Other { conn, .. } => Some(*conn),
                Early::Plugged => None,
            };
            match early {
                early if conn != Some(at) => self.early.push((sn, early)),
                Early::Command(handle) => drop(self.remove(ctx, handle)),
                Early::Other { data, .. } => self.release_early(ctx, &data),
                Early::Plugged => {}
            }
        }
    }

    /// The data of a PDU that came before its turn is not kept any more.
    pub(super) fn release_early(&mut self, ctx: &mut Ctx, data: &[u8]) {
        self.early_bytes -= data.len();
        ctx.bufs.forget(data.len());
    }

    /// Nobody hears of the ends of a connection's commands any more.
    fn drop_commands(&mut self, ctx: &mut Ctx, at: TaskHandle) {
        let its: Vec<_> = self.commands.iter().filter(|(_, command)| command.conn == at).map(|(h, _)| h).collect();
        its.into_iter().for_each(|handle| self.drop_command(ctx, handle));
    }

    /// Takes a command out of all books, without an answer.
    pub fn remove(&mut self, ctx: &mut Ctx, handle: TaskHandle) -> Option<Command> {
        if let Some(buf) = self.take_collected(ctx, handle) {
            self.give(ctx, buf);
        }
        let mut command = self.commands.remove(handle)?;
        if self.tags.get(&command.itt) == Some(&handle) {
            self.tags.remove(&command.itt);
        }
        match (command.immediate, command.stage) {
            (true, _) => self.immediates -= 1,
            (false, Stage::Early) => {}
            (false, _) => self.delivered -= 1,
        }
        command.no_longer_up();
        if let Some(name) = command.name.take() {
            ctx.iscsi.named.remove(name);
        }
        if command.stage == Stage::HandedUp {
            self.handed_up -= 1;
        }
        // What the volume has comes back without it.
        let lent = std::mem::take(&mut command.lent);
        self.held -= lent;
        let kept: Vec<IoBuf> = command.pieces.drain().collect();
        if let Some(unit) = &command.lun {
            self.count_lent(unit, 0, lent + kept.iter().map(IoBuf::capacity).sum::<usize>());
        }
        kept.into_iter().for_each(|buf| self.give(ctx, buf));
        if let Some(conn) = self.conns.get_mut(command.conn) {
            conn.owed -= u64::from(command.owed);
            let most = ctx.limits.commands_per_session as usize;
            command.ghost(handle).into_iter().for_each(|ghost| conn.expect_ghost(ghost, most));
        }
        Some(command)
    }

    /// Nobody hears of its end any more. What the volume has goes on, and ends by itself.
    pub fn drop_command(&mut self, ctx: &mut Ctx, handle: TaskHandle) {
        let Some(command) = self.remove(ctx, handle) else { return };
        for (_, early) in &mut self.early {
            if matches!(early, Early::Command(other) if *other == handle) {
                // Its number is used up all the same.
                *early = Early::Plugged;
            }
        }
        self.leave_task_set(ctx, handle, &command);
        self.note_silent_end(ctx);
    }

    /// A command has the range that it waited for: it passes the gate again.
    pub fn granted(&mut self, table: &Table, handle: TaskHandle, fenced: bool) -> Granted {
        let Some(command) = self.commands.get_mut(handle) else { return Granted::Never };
        if fenced {
            // Nobody is told: its connection is about to be closed.
            command.aborted.get_or_insert(None);
        }
        if command.aborted.is_some() {
            return Granted::Never;
        }
        let command = self.commands.get(handle).expect("looked at above");
        if command.frozen || table.is_held(command.volume(), self.nexus) {
            return Granted::Stop;
        }
        match self.recheck(command) {
            Ok(_) => Granted::Go,
            Err(answer) => {
                self.commands.get_mut(handle).expect("looked at above").fail(answer);
                Granted::Never
            }
        }
    }

    /// Why, and at what time of the shard's clock, a connection must end or be asked whether it is there.
    pub fn deadline_ms(&self, ctx: &Ctx, at: TaskHandle) -> Option<(u64, Due)> {
        let conn = self.conns.get(at)?;
        let limits = &ctx.limits;
        let close = |at_ms, why| Some((at_ms, Due::Close(why)));
        if conn.closing.is_some() {
            return close(conn.closing_since_ms + limits.linger_ms, "closed");
        }
        let stuck = conn.link.stuck_since_ms.map(|since| since + limits.send_stall_ms);
        let stuck = stuck.and_then(|at_ms| close(at_ms, "the initiator does not read its replies"));
        let segment = match &conn.rx {
            Rx::Data(segment) => Some(segment.len as u64),
            Rx::Header => (!conn.link.input.is_empty()).then_some(0),
        };
        // Silent for so long, or slower than a segment may be.
        let since = |len| conn.link.received_ms.min(conn.begun_ms + len * 1000 / SLOWEST_RATE);
        let stalled = segment.filter(|_| !conn.is_paused()).map(|len| since(len) + limits.receive_stall_ms);
        let stalled = stalled.and_then(|at_ms| close(at_ms, "a PDU was begun and not finished in time"));
        let data = conn.data_since_ms.filter(|_| !conn.is_paused());
        let data = data.map(|since| (since + conn.unread_ms + limits.solicited_ms, Due::Data));
        let untaken = self.in_lane.since_ms().map(|since| since + limits.handed_up_ms);
        let untaken = untaken.and_then(|at_ms| close(at_ms, "the gateway did not take up a command in time"));
        let ping = match conn.ping {
            Some(ping) => Some((ping.sent_ms + self.nop_timeout_ms, Due::Pong)),
            None if self.nop_interval_ms > 0 && !conn.is_paused() => {
                Some((conn.link.received_ms + self.nop_interval_ms, Due::Ping))
            }
            None => None,
        };
        let shut = self.shut_since_ms.map(|since| (since + SHUT_MS, Due::Relief));
        let room = self.asks_again_ms.map(|at_ms| (at_ms, Due::Room));
        let waits =
            conn.waits_since_ms.filter(|_| conn.parked).map(|since| (since + longest_wait_ms(limits), Due::Room));
        [stuck, stalled, data, untaken, ping, shut, room, waits].into_iter().flatten().min_by_key(|(at_ms, _)| *at_ms)
    }
}

/// May a command go on whose range has become free?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Granted {
    Go,
    /// Not before a task management function has been decided.
    Stop,
    /// It is aborted, or the gate does not allow it any more.
    Never,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    Close(&'static str),
    Ping,
    /// A ping may have been without an answer for too long: the connection says whether it has.
    Pong,
    /// Data may have been due for too long: its commands say whether it has.
    Data,
    /// The window has been closed for too long.
    Relief,
    /// Room that was not to be had may be by now.
    Room,
}

/// Why a session's connection is over although nothing was wrong with itself.
pub const SESSION_OVER: End = std::borrow::Cow::Borrowed("its session is over");
