//! What a shard knows of iSCSI: its sessions, the names by which Python knows tasks, and what is held back.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::command::Command;
use super::scope::{Cut, Held};
use super::seekers::Seekers;
use super::session::Session;
use crate::shard::context::is_fair;
use crate::shard::shared::SHARD_BITS;
use crate::shard::tasks::{Slab, TaskHandle};

/// What Python's task numbers stand for.
#[derive(Debug)]
pub enum Named {
    Command {
        session: u64,
        command: TaskHandle,
    },
    Management {
        session: u64,
        conn: TaskHandle,
        itt: u32,
        /// ABORT TASK: whom it names.
        target: Option<TaskHandle>,
    },
}

/// What other shards, or Python, are to be told; the reactor does.
#[derive(Debug)]
pub enum Outgoing {
    Hold(Arc<Cut>),
    /// The last connection of a session is gone.
    Ended(u64),
}

/// See the module's text.
pub struct Table {
    /// The shard's number.
    pub index: usize,
    pub sessions: HashMap<u64, Rc<RefCell<Session>>>,
    pub named: Slab<Named>,
    /// Most names when a command gets one to be handed up; those beyond are for task management.
    names_for_commands: usize,
    /// Commands that have come to this shard.
    pub arrivals: u64,
    /// Its sessions that wait for room, and from when on they may be looked at for such that they can give.
    pub seekers: Seekers,
    pub look_ms: u64,
    pub outgoing: Vec<Outgoing>,
    /// How often a header was put off, its data having no room: every try counts.
    pub put_off: u64,
    cuts: Vec<Held>,
    /// What Python holds back, by nexus and volume. Most often nothing; where a disk hangs that many hosts have, it may
    /// be much, for long.
    holds: HashSet<(u64, u64)>,
}

impl Table {
    /// Without sessions; at most `tasks` tasks have a name. There is a quarter more of them for task management: it
    /// is what helps when Python answers nothing.
    pub fn new(tasks: usize) -> Self {
        Self {
            index: 0,
            sessions: HashMap::new(),
            named: Slab::new(tasks + tasks / 4),
            names_for_commands: tasks,
            arrivals: 0,
            seekers: Seekers::default(),
            look_ms: 0,
            outgoing: Vec::new(),
            put_off: 0,
            cuts: Vec::new(),
            holds: HashSet::new(),
        }
    }

    /// Is there a name for one more command of a session of which Python has `handed_up`? Near the end of them those
    /// sessions get one that have the fewest: many that have all they may leave something to the others.
    pub fn has_name_for(&self, handed_up: usize) -> bool {
        is_fair(handed_up, self.names_for_commands.saturating_sub(self.named.len()))
    }

    /// A name as Python sees it: it says which shard to ask.
    pub fn number_of(&self, name: TaskHandle) -> u64 {
        name.0 << SHARD_BITS | self.index as u64
    }

    /// Back from such a number.
    pub fn name_of(number: u64) -> TaskHandle {
        TaskHandle(number >> SHARD_BITS)
    }

    /// The command of a session that a name stands for.
    pub fn command_of(&self, session: u64, name: TaskHandle) -> Option<TaskHandle> {
        match self.named.get(name)? {
            Named::Command { session: its, command } if *its == session => Some(*command),
            _ => None,
        }
    }

    /// From now on nothing in the cut's scope is started.
    pub fn hold(&mut self, cut: Arc<Cut>) {
        self.cuts.push(Held { cut, since: self.arrivals + 1, over: Vec::new() });
    }

    /// From now on nothing is started that `nexus` has for `volume`.
    pub fn hold_nexus(&mut self, volume: u64, nexus: u64) {
        self.holds.insert((nexus, volume));
    }

    /// That ends.
    pub fn let_go(&mut self, volume: u64, nexus: u64) {
        self.holds.remove(&(nexus, volume));
    }

    /// Does a cut, or Python, keep back what `nexus` has for `volume`?
    pub fn is_held(&self, volume: u64, nexus: u64) -> bool {
        self.cuts.iter().any(|held| held.holds(volume, nexus))
            || !self.holds.is_empty() && self.holds.contains(&(nexus, volume))
    }

    /// The session whose function a cut was made for, if it is on this shard.
    pub fn session_of(&self, cut: u64) -> Option<&Rc<RefCell<Session>>> {
        let held = self.cuts.iter().find(|held| held.cut.number == cut)?;
        self.sessions.get(&held.cut.session)
    }

    /// Is an abort that a cut bounds to reach a command of `session`? Without a cut it reaches all.
    pub fn is_behind(&self, cut: u64, session: u64, command: &Command) -> bool {
        let held = self.cuts.iter().find(|held| held.cut.number == cut);
        held.is_none_or(|held| held.is_behind(session, command))
    }

    /// Ends a cut, or what it holds for one volume. True: there was one.
    pub fn release(&mut self, cut: u64, volume: Option<u64>) -> bool {
        let Some(at) = self.cuts.iter().position(|held| held.cut.number == cut) else { return false };
        match volume {
            Some(volume) => self.cuts[at].over.push(volume),
            None => drop(self.cuts.remove(at)),
        }
        true
    }
}
