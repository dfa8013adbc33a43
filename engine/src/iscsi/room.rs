//! Room for data that is to come, where all that a shard has is promised already.
//!
//! A promise costs a buffer from when it is made on, and the initiator one header: a few sessions that announce data,
//! or are asked for it, and send nothing would hold all of the room for as long as data may take. So when another
//! wants room, what nothing comes into gives way, the longest silent first, as long as its session has more than the
//! one that asks; to a session that has none it gives way whoever holds it. Who sends is not disturbed, on whatever it
//! sends first: initiators send what they are asked for in its order.

use std::cell::RefCell;
use std::rc::Rc;

use super::command::{sense, Command};
use super::conn::{Rx, Segment, Sink};
use super::session::Session;
use crate::scsi::command::Answer;
use crate::shard::context::Ctx;
use crate::shard::limits::{Limits, PIECE_BYTES};
use crate::shard::tasks::TaskHandle;

/// All sessions of a shard are looked at for such room: not more often than this.
const LOOK_MS: u64 = 5;
/// So long the first of those that wait sleeps at most: it may have nothing to wait for any more.
const CHECK_MS: u64 = 250;
/// A header waits for its data's room as long as so many silences: what is behind it on its connection waits as well.
const SILENCES: u64 = 4;
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

/// What all sessions but the one that asks have of the room. `silent_ms`: when the next command will have been silent
/// for long enough.
struct Held {
    sessions: Vec<Rc<RefCell<Session>>>,
    weights: Vec<usize>,
    silent: Vec<Silent>,
    silent_ms: u64,
}

impl Session {
    /// Is there room in the shard for `cost` bytes to come, and is it this session's turn to have it? Else it waits for
    /// that. `firsts`: its own first bursts count as what it has already.
    pub(super) fn finds_room(&mut self, ctx: &mut Ctx, cost: usize, firsts: bool) -> bool {
        if ctx.iscsi.seekers.is_turn_of(self.number) && self.fits(ctx, cost, firsts) {
            self.seek_no_more(ctx);
            return true;
        }
        self.seek(ctx, cost, firsts)
    }

    /// Has the shard room for so much? For a session's first there is more.
    pub(super) fn fits(&self, ctx: &Ctx, cost: usize, firsts: bool) -> bool {
        ctx.may_collect(cost) || ctx.may_collect_first(cost) && self.promised(ctx, firsts) == 0
    }

    /// What the session has of the room for data that is to come.
    fn promised(&self, ctx: &Ctx, firsts: bool) -> usize {
        let its = self.commands.iter().filter(|(_, command)| command.collecting && (firsts || !command.first));
        its.map(|(_, command)| command.weight(&ctx.limits)).sum()
    }

    /// Waits for room among the others. The first of them asks those that are silent. True: it has some now.
    #[cold]
    fn seek(&mut self, ctx: &mut Ctx, cost: usize, firsts: bool) -> bool {
        if self.is_over() {
            return false;
        }
        self.sought = true;
        let mine = self.promised(ctx, firsts);
        let pieces = mine.div_ceil(PIECE_BYTES);
        if self.seeks.is_none_or(|place| place.pieces != pieces) {
            self.seek_no_more(ctx);
            self.seeks = Some(ctx.iscsi.seekers.join(self.number, pieces));
        }
        if !ctx.iscsi.seekers.is_turn_of(self.number) {
            self.asks_again_ms = None;
            return false;
        }
        self.starved = true;
        let now_ms = ctx.now_ms();
        if now_ms >= ctx.iscsi.look_ms {
            let fits = |ctx: &Ctx, cost| ctx.may_collect(cost) || mine == 0 && ctx.may_collect_first(cost);
            let (found, silent_ms) = make_room(ctx, mine, cost, fits);
            ctx.iscsi.look_ms = now_ms + LOOK_MS;
            if found {
                self.seek_no_more(ctx);
                return true;
            }
            // When somebody has been silent for long enough: nothing else would say so.
            ctx.iscsi.look_ms = silent_ms.clamp(now_ms + LOOK_MS, now_ms + CHECK_MS);
        }
        let look_ms = ctx.iscsi.look_ms;
        if self.asks_again_ms.replace(look_ms) != Some(look_ms) {
            // The timer is set at the end of a turn, which this need not be.
            self.wake_all(ctx);
        }
        false
    }

    /// It has what it wanted, or does not want it any more: who is the first now goes on.
    pub(super) fn seek_no_more(&mut self, ctx: &mut Ctx) {
        if let Some(place) = self.seeks.take() {
            let was_first = ctx.iscsi.seekers.is_turn_of(self.number);
            ctx.iscsi.seekers.leave(place);
            self.asks_again_ms = None;
            if was_first {
                self.wake_first(ctx);
            }
        }
    }

    /// A turn is over. Who waits for room has asked for it again, or has a connection whose header waits for that.
    pub(super) fn note_seeking(&mut self, ctx: &mut Ctx) {
        let waits = || self.conns.iter().any(|(_, conn)| conn.parked && conn.waits_since_ms.is_some());
        if self.seeks.is_some() && (!self.sought && !waits() || self.is_over()) {
            self.seek_no_more(ctx);
        }
    }

    /// Is nothing more to come, however long its peer keeps its connections? It has no timer any more that would let it
    /// ask again, and those behind it would wait for that.
    fn is_over(&self) -> bool {
        self.conns.iter().all(|(_, conn)| conn.closing.is_some())
    }

    /// May the header at hand, for whose data there is no room now, wait for that?
    pub(super) fn may_park(&mut self, ctx: &Ctx, at: TaskHandle) -> bool {
        let sought = self.sought;
        let waits_since_ms = &mut self.conn(at).waits_since_ms;
        if !sought {
            *waits_since_ms = None;
            return true;
        }
        let since_ms = *waits_since_ms.get_or_insert(ctx.now_ms());
        ctx.now_ms() < since_ms + longest_wait_ms(&ctx.limits)
    }

    /// It is time to ask again: whichever of its connections waits for room tries.
    pub(super) fn try_again(&mut self, ctx: &mut Ctx) {
        self.asks_again_ms = None;
        self.wake_all(ctx);
    }

    fn wake_all(&mut self, ctx: &mut Ctx) {
        let all: Vec<TaskHandle> = self.conns.iter().map(|(at, _)| at).collect();
        all.into_iter().for_each(|at| self.wake(ctx, at));
    }

    /// Another session is the first of those that wait.
    fn wake_first(&self, ctx: &mut Ctx) {
        while let Some(first) = ctx.iscsi.seekers.first().filter(|first| *first != self.number) {
            match ctx.iscsi.sessions.get(&first).cloned() {
                // Only the one whose turn it is is borrowed, and that is this one.
                Some(session) => return session.borrow_mut().try_again(ctx),
                None => ctx.iscsi.seekers.drop_first(),
            }
        }
    }

    /// When something last came for a command, or may have: what stands before its data has come since, or has not been
    /// looked at.
    fn heard_ms(&self, ctx: &Ctx, handle: TaskHandle, command: &Command) -> u64 {
        let Some(conn) = self.conns.get(command.conn) else { return command.heard_ms };
        if conn.is_behind() {
            return ctx.now_ms();
        }
        let comes = match &conn.rx {
            Rx::Data(Segment { sink: Sink::Command { command, .. }, .. }) if *command == handle => {
                conn.link.received_ms
            }
            _ => 0,
        };
        comes.max(conn.live_ms).max(command.heard_ms)
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
        let sessions = ctx.iscsi.sessions.values().cloned().collect();
        let mut all = Self { sessions, weights: Vec::new(), silent: Vec::new(), silent_ms: u64::MAX };
        for (at, session) in all.sessions.iter().enumerate() {
            let session = session.try_borrow();
            let mut total = 0;
            for (handle, command) in session.iter().flat_map(|it| it.commands.iter()).filter(|(_, it)| it.collecting) {
                let weight = command.weight(&ctx.limits);
                total += weight;
                let Some(its) = session.as_ref().ok().filter(|_| command.is_filling()) else { continue };
                let heard_ms = its.heard_ms(ctx, handle, command);
                let silent_ms = heard_ms + ctx.limits.silent_data_ms;
                match silent_ms <= ctx.now_ms() {
                    true => all.silent.push(Silent { heard_ms, weight, session: at, command: handle }),
                    false => all.silent_ms = all.silent_ms.min(silent_ms),
                }
            }
            all.weights.push(total);
        }
        all.silent.sort_unstable_by_key(|it| it.heard_ms);
        all
    }
}

/// Makes room for `cost` bytes of one that has `mine`, and some to spare. Tells whether it is there, and when there may
/// be more.
fn make_room(ctx: &mut Ctx, mine: usize, cost: usize, fits: impl Fn(&Ctx, usize) -> bool) -> (bool, u64) {
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
    (fits(ctx, cost), held.silent_ms)
}

/// How long a header may wait for its data's room.
pub(super) fn longest_wait_ms(limits: &Limits) -> u64 {
    SILENCES * limits.silent_data_ms
}
