//! What a task management function, or Python, stops: which commands, since when, and until when.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use super::command::Command;
use super::wire::sn_lt;
use crate::shard::events::{Event, Lanes};
use crate::shard::tasks::TaskHandle;

/// Commands by volume and nexus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// Empty: every volume.
    pub volumes: Vec<u64>,
    /// 0: every nexus.
    pub nexus: u64,
}

impl Scope {
    /// Is a command of `nexus` at `volume` (0: at none) inside?
    pub fn covers(&self, volume: u64, nexus: u64) -> bool {
        (self.nexus == 0 || self.nexus == nexus) && (self.volumes.is_empty() || self.volumes.contains(&volume))
    }
}

/// A scope in which nothing is started until it is released. Its number is that of the task management
/// function that it was made for.
#[derive(Debug)]
pub struct Cut {
    pub number: u64,
    pub scope: Scope,
    /// The function's session, and its CmdSN there.
    pub session: u64,
    pub cmd_sn: u32,
}

/// A cut as one shard has it.
#[derive(Debug)]
pub struct Held {
    pub cut: Arc<Cut>,
    /// Commands of this shard whose `arrival` is lower came before it.
    pub since: u64,
    /// Volumes of its scope for which it is over: they go on while it waits for others.
    pub over: Vec<u64>,
}

impl Held {
    /// Does it keep back what `nexus` has for `volume`?
    pub fn holds(&self, volume: u64, nexus: u64) -> bool {
        self.cut.scope.covers(volume, nexus) && !self.over.contains(&volume)
    }

    /// Does it come behind a command of `session`, so that an abort reaches that one? In its own session CmdSN says
    /// so, by whichever connection a command comes, and none with a higher one is affected (RFC 7143 4.2.3.3). An
    /// immediate command has the CmdSN of the one that comes next: among those with its own, the first came first.
    pub fn is_behind(&self, session: u64, command: &Command) -> bool {
        let by_number = session == self.cut.session && (!command.immediate || command.cmd_sn != self.cut.cmd_sn);
        match by_number {
            true => sn_lt(command.cmd_sn, self.cut.cmd_sn),
            false => command.arrival < self.since,
        }
    }
}

/// Python's `abort`, on its way through the shards.
pub struct Abort {
    pub request: u64,
    pub scope: Scope,
    /// One command alone.
    pub task: Option<TaskHandle>,
    /// This one not.
    pub except: Option<TaskHandle>,
    /// What each is answered.
    pub status: Option<u8>,
    /// 0, or the cut behind which it does not reach.
    pub cut: u64,
    /// 0, or the connection by which what it reaches has come.
    pub conn: u64,
    /// Shards on which it is not over.
    pub shards: Arc<AtomicUsize>,
    pub lanes: Arc<Lanes>,
}

impl Abort {
    /// Does it reach what has come by this connection?
    pub fn reaches(&self, conn: u64) -> bool {
        self.conn == 0 || self.conn == conn
    }

    /// It is over on one shard.
    pub fn shard_is_done(&self) {
        if self.shards.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.lanes.post_urgent(Event::Aborted { request: self.request });
        }
    }
}

/// What an abort still waits for on one shard. A shard that ends drops it, and so ends the wait.
pub struct Drain {
    abort: Arc<Abort>,
    tasks: HashSet<TaskHandle>,
}

impl Drain {
    /// Waits for `tasks`; `None`: there are none, and the abort has been told.
    pub fn new(abort: Arc<Abort>, tasks: HashSet<TaskHandle>) -> Option<Self> {
        let drain = Self { abort, tasks };
        (!drain.tasks.is_empty()).then_some(drain)
    }

    /// A task has ended; true: it was the last.
    pub fn ended(&mut self, task: TaskHandle) -> bool {
        self.tasks.remove(&task) && self.tasks.is_empty()
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.abort.shard_is_done();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_cover_what_they_name() {
        let unit = Scope { volumes: vec![3], nexus: 0 };
        assert!(unit.covers(3, 1) && unit.covers(3, 2) && !unit.covers(4, 1) && !unit.covers(0, 1));
        let nexus = Scope { volumes: vec![], nexus: 7 };
        assert!(nexus.covers(0, 7) && nexus.covers(5, 7) && !nexus.covers(5, 8));
    }

    #[test]
    fn an_abort_is_over_when_the_last_task_of_the_last_shard_is() {
        let lanes = Arc::new(Lanes::new(1).unwrap());
        let abort = Arc::new(Abort {
            request: 9,
            scope: Scope::default(),
            task: None,
            except: None,
            status: None,
            cut: 0,
            conn: 0,
            shards: Arc::new(AtomicUsize::new(2)),
            lanes: lanes.clone(),
        });
        assert!(Drain::new(abort.clone(), HashSet::new()).is_none());
        let (one, two) = (TaskHandle(1), TaskHandle(2));
        let mut drain = Drain::new(abort, HashSet::from([one, two])).unwrap();
        assert!(!drain.ended(TaskHandle(3)) && !drain.ended(one));
        assert!(lanes.take(9).is_empty());
        assert!(drain.ended(two));
        drop(drain);
        assert_eq!(lanes.take(9), [Event::Aborted { request: 9 }]);
    }
}
