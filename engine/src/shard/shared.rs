//! What all shards, and the control side, have in common: little, and all of it atomic.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;

use super::events::Lanes;
use super::mailbox::Mailbox;

/// The most shards that an engine has.
pub const MAX_SHARDS: usize = 1 << SHARD_BITS;
const SHARD_BITS: u32 = 3;

/// See the module's text.
pub struct Shared {
    pub lanes: Arc<Lanes>,
    pub mailboxes: Vec<Arc<Mailbox>>,
    loads: Vec<AtomicUsize>,
    next_conn: AtomicU64,
}

impl Shared {
    /// For as many shards as there are mailboxes.
    pub fn new(lanes: Arc<Lanes>, mailboxes: Vec<Arc<Mailbox>>) -> Self {
        assert!(mailboxes.len() <= MAX_SHARDS);
        let loads = mailboxes.iter().map(|_| AtomicUsize::new(0)).collect();
        Self { lanes, mailboxes, loads, next_conn: AtomicU64::new(1) }
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

    /// The mailbox of a connection's shard; `None`: there never was such a connection.
    pub fn mailbox_of(&self, conn: u64) -> Option<&Arc<Mailbox>> {
        self.mailboxes.get((conn % MAX_SHARDS as u64) as usize)
    }
}
