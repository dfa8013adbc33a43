//! Room for data that is to come, where all that a shard has is promised already.
//!
//! A promise costs a buffer from when it is made on, and the initiator one header: a few sessions that announce data,
//! or are asked for it, and send nothing would hold all of the room for as long as data may take. So when another
//! wants room, what nothing comes into gives way, the longest silent first, as long as its session has more than the
//! one that asks; to a session that has none it gives way whoever holds it. Who sends is not disturbed.

use std::cell::RefCell;
use std::rc::Rc;

use super::command::{sense, Command};
use super::conn::{Conn, Rx, Segment, Sink};
use super::session::Session;
use crate::scsi::command::Answer;
use crate::shard::context::Ctx;
use crate::shard::limits::Limits;
use crate::shard::tasks::TaskHandle;

/// All sessions of a shard are looked at for such room: not more often than this.
const LOOK_MS: u64 = 5;
/// The part of `shard_hard_bytes` that is made room for at a time, lest it is done for each command anew.
const SPARE_PART: u64 = 64;

/// A command whose data does not come.
struct Silent {
    heard_ms: u64,
    weight: usize,
    /// Its session's place among `Held`'s.
    session: usize,
    command: TaskHandle,
}

/// What all sessions but the one that asks have of the room.
#[derive(Default)]
struct Held {
    sessions: Vec<Rc<RefCell<Session>>>,
    weights: Vec<usize>,
    silent: Vec<Silent>,
}

impl Session {
    /// Asks others for room for `cost` bytes to come. True: it is there now. `firsts`: its own first bursts count as
    /// what it has already.
    #[cold]
    pub(super) fn ask_for_room(&mut self, ctx: &mut Ctx, cost: usize, firsts: bool) -> bool {
        if !may_look(ctx, &mut self.asks_again_ms) {
            return false;
        }
        let its = self.commands.iter().filter(|(_, command)| command.collecting && (firsts || !command.first));
        let mine = its.map(|(_, command)| command.weight(&ctx.limits)).sum();
        let fits = |ctx: &Ctx, cost| ctx.may_collect(cost) || mine == 0 && ctx.may_collect_first(cost);
        let found = make_room(ctx, mine, cost, fits);
        self.asks_again_ms = after_look(ctx, found);
        found
    }

    /// It is time to ask again: whichever of its connections waits for room tries.
    pub(super) fn try_again(&mut self, ctx: &mut Ctx) {
        self.asks_again_ms = None;
        let all: Vec<TaskHandle> = self.conns.iter().map(|(at, _)| at).collect();
        all.into_iter().for_each(|at| self.kick(ctx, at));
    }

    /// When something last came into a command's buffer.
    fn heard_ms(&self, handle: TaskHandle, command: &Command) -> u64 {
        let comes = |conn: &&Conn| match &conn.rx {
            Rx::Data(Segment { sink: Sink::Command { command, .. }, .. }) => *command == handle,
            _ => false,
        };
        let conn = self.conns.get(command.conn);
        conn.filter(comes).map_or(command.heard_ms, |conn| conn.link.received_ms.max(command.heard_ms))
    }

    /// A command's room goes to others. It ends, once the data that is due has come, or its time is over.
    fn give_way(&mut self, ctx: &mut Ctx, handle: TaskHandle) {
        if let Some(buf) = self.take_collected(ctx, handle) {
            self.give(ctx, buf);
        }
        if let Some(command) = self.commands.get_mut(handle) {
            // One of which the volume has a part was in the task set (SAM-5 5.3.1).
            let untouched = command.base == 0;
            command.fail(if untouched { Answer::TASK_SET_FULL } else { Answer::check(sense::INITIATOR_TIMEOUT) });
        }
    }
}

impl Command {
    /// What it takes of its shard's room: bytes, and one of as many tasks.
    fn weight(&self, limits: &Limits) -> usize {
        let task = (limits.shard_hard_bytes / limits.tasks_per_shard) as usize;
        self.buf.as_ref().map_or(0, |buf| buf.capacity()).max(task)
    }

    /// Is data to come into its buffer?
    fn is_filling(&self) -> bool {
        self.collecting && self.inflow.is_open() && self.aborted.is_none()
    }
}

impl Held {
    /// Looks at all sessions but the one whose turn it is.
    fn of(ctx: &Ctx) -> Self {
        let mut all = Self { sessions: ctx.iscsi.sessions.values().cloned().collect(), ..Self::default() };
        for (at, session) in all.sessions.iter().enumerate() {
            let session = session.try_borrow();
            let mut total = 0;
            for (handle, command) in session.iter().flat_map(|it| it.commands.iter()).filter(|(_, it)| it.collecting) {
                let weight = command.weight(&ctx.limits);
                total += weight;
                let heard_ms = session.as_ref().map_or(u64::MAX, |it| it.heard_ms(handle, command));
                if command.is_filling() && ctx.now_ms().saturating_sub(heard_ms) >= ctx.limits.silent_data_ms {
                    all.silent.push(Silent { heard_ms, weight, session: at, command: handle });
                }
            }
            all.weights.push(total);
        }
        all.silent.sort_unstable_by_key(|it| it.heard_ms);
        all
    }
}

/// The same for a connection of another protocol, that collects one payload at a time and has none of it yet. When it
/// may ask again is kept by itself.
#[cold]
pub fn ask_for_payload(ctx: &mut Ctx, cost: usize, asks_again_ms: &mut Option<u64>) -> bool {
    if !may_look(ctx, asks_again_ms) {
        return false;
    }
    let found = make_room(ctx, 0, cost, Ctx::may_collect);
    *asks_again_ms = after_look(ctx, found);
    found
}

/// May all sessions be looked at now? If not, the one that asks is told when.
fn may_look(ctx: &mut Ctx, asks_again_ms: &mut Option<u64>) -> bool {
    let now_ms = ctx.now_ms();
    if asks_again_ms.is_some_and(|at_ms| now_ms < at_ms) {
        return false;
    }
    let looks_ms = ctx.iscsi.looked_ms + LOOK_MS;
    if now_ms < looks_ms {
        *asks_again_ms = Some(looks_ms);
        return false;
    }
    ctx.iscsi.looked_ms = now_ms;
    true
}

/// When the next look is worth it. Who is not silent for long enough now may be then; nothing else would say so.
fn after_look(ctx: &Ctx, found: bool) -> Option<u64> {
    (!found).then_some(ctx.now_ms() + ctx.limits.silent_data_ms)
}

/// Makes room for `cost` bytes of one that has `mine`, and some to spare. True: it is there.
fn make_room(ctx: &mut Ctx, mine: usize, cost: usize, fits: impl Fn(&Ctx, usize) -> bool) -> bool {
    let spare = (ctx.limits.shard_hard_bytes / SPARE_PART) as usize;
    let mut held = Held::of(ctx);
    for it in held.silent {
        if fits(ctx, cost + spare) {
            break;
        }
        let weight = &mut held.weights[it.session];
        if *weight > mine + cost || mine == 0 && !fits(ctx, cost) {
            held.sessions[it.session].borrow_mut().give_way(ctx, it.command);
            *weight -= it.weight;
        }
    }
    fits(ctx, cost)
}
