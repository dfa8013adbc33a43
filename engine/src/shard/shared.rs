//! What all shards, and the control side, have in common: little, and all of it atomic.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::events::Lanes;
use super::lease::Lease;
use super::mailbox::Mailbox;

/// The most shards that an engine has.
pub const MAX_SHARDS: usize = 1 << SHARD_BITS;
/// Bits of a connection's or a task's number that name its shard.
pub const SHARD_BITS: u32 = 3;

/// See the module's text.
pub struct Shared {
    pub lanes: Arc<Lanes>,
    pub lease: Arc<Lease>,
    pub mailboxes: Vec<Arc<Mailbox>>,
    loads: Vec<AtomicUsize>,
    next_conn: AtomicU64,
    places: Mutex<Places>,
}

/// Where things are that do not stay where their number says. Asked by the control side alone.
#[derive(Default)]
struct Places {
    /// iSCSI connections that went to their session's shard.
    moved: HashMap<u64, usize>,
    sessions: HashMap<u64, usize>,
}

impl Shared {
    /// For as many shards as there are mailboxes.
    pub fn new(lanes: Arc<Lanes>, mailboxes: Vec<Arc<Mailbox>>) -> Self {
        assert!(mailboxes.len() <= MAX_SHARDS);
        let loads = mailboxes.iter().map(|_| AtomicUsize::new(0)).collect();
        let (next_conn, places) = (AtomicU64::new(1), Mutex::default());
        Self { lanes, lease: Arc::default(), mailboxes, loads, next_conn, places }
    }

    /// A new connection's shard (the one with the fewest) and its number, which names the shard.
    pub fn place_connection(&self) -> (usize, u64) {
        let loads = self.loads.iter().enumerate();
        let (shard, _) = loads.min_by_key(|(_, load)| load.load(Ordering::Relaxed)).expect("at least one shard");
        self.loads[shard].fetch_add(1, Ordering::Relaxed);
        let number = self.next_conn.fetch_add(1, Ordering::Relaxed);
        (shard, number << SHARD_BITS | shard as u64)
    }

    /// A connection of that shard is gone.
    pub fn unload(&self, shard: usize) {
        self.loads[shard].fetch_sub(1, Ordering::Relaxed);
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // Maps are whole between any two statements.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mailbox of a connection's shard; `None`: there never was such a connection.
    pub fn mailbox_of(&self, conn: u64) -> Option<&Arc<Mailbox>> {
        let moved = self.places().moved.get(&conn).copied();
        self.mailboxes.get(moved.unwrap_or((conn % MAX_SHARDS as u64) as usize))
    }

    /// The mailbox of the shard that a task's number names.
    pub fn mailbox_of_task(&self, task: u64) -> Option<&Arc<Mailbox>> {
        self.mailboxes.get((task % MAX_SHARDS as u64) as usize)
    }

    /// The shard of a session; that of `conn`, its first connection, if it is a new one.
    pub fn place_session(&self, session: u64, conn: u64) -> usize {
        let mut places = self.places();
        let here = places.moved.get(&conn).copied().unwrap_or((conn % MAX_SHARDS as u64) as usize);
        *places.sessions.entry(session).or_insert(here)
    }

    /// The mailbox of a session's shard.
    pub fn mailbox_of_session(&self, session: u64) -> Option<&Arc<Mailbox>> {
        let shard = self.places().sessions.get(&session).copied();
        shard.and_then(|shard| self.mailboxes.get(shard))
    }

    /// A session is over.
    pub fn forget_session(&self, session: u64) {
        self.places().sessions.remove(&session);
    }

    /// A connection goes to another shard.
    pub fn move_connection(&self, conn: u64, from: usize, to: usize) {
        self.places().moved.insert(conn, to);
        self.unload(from);
        self.loads[to].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection is gone, from that shard.
    pub fn forget_connection(&self, conn: u64, shard: usize) {
        if conn % MAX_SHARDS as u64 != shard as u64 {
            self.places().moved.remove(&conn);
        }
        self.unload(shard);
    }
}
