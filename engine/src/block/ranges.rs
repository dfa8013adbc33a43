//! Ranges in flight: which request has to wait for which.
//!
//! The table is asynchronous: it never blocks, it says who may go. A request that
//! overlaps an earlier one that it must not meet waits until that one is released,
//! and whoever comes later and overlaps it waits in turn: first come, first served,
//! so nobody starves. Requests that do not overlap never wait for one another.
//!
//! | | Read | Write | Exclusive |
//! |---|---|---|---|
//! | Read | together | together | wait |
//! | Write | together | wait | wait |
//! | Exclusive | wait | wait | wait |
//!
//! A write never passes an earlier one to the same bytes: whoever sent that one may have given it up and
//! think it over. `Exclusive` is for what reads and then writes back: a part of a block, COMPARE AND WRITE, all of
//! a long ORWRITE ([`Claim`](super::command::Claim)). Who has a range waits for no other: so nobody waits for ever.
//!
//! Every request knows how many earlier ones it waits for, and every request the later
//! ones that wait for it, so that a release costs what it lets go. An exclusive request
//! stands in for everything before it in the part that it covers, and a write for all writes: those
//! that come later wait for it alone, which keeps the number of such edges proportional to the
//! requests even when thousands want one block. For that reason a request that is withdrawn while it
//! waits leaves its place behind, until all have gone that it waited for.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Bytes `start..end`, not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    pub start: u64,
    pub end: u64,
}

impl Range {
    fn overlaps(self, other: Range) -> bool {
        self.start < other.end && other.start < self.end
    }
}

/// See the table in the module's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Exclusive,
}

impl Kind {
    fn excludes(self, earlier: Kind) -> bool {
        self == Kind::Exclusive || earlier == Kind::Exclusive || self == Kind::Write && earlier == Kind::Write
    }

    /// Has an `earlier` one waited for all that this one would have to wait for?
    fn is_covered_by(self, earlier: Kind) -> bool {
        earlier == Kind::Exclusive || self == Kind::Write && earlier == Kind::Write
    }
}

/// Names a range in the table from `acquire` to `release`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    slot: u32,
}

/// Names a range that waits, for [`Ranges::withdraw`]; it may be out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    slot: u32,
    seq: u64,
}

/// Answer of [`Ranges::acquire`].
#[derive(Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Go on, and `release` the ticket afterwards.
    Granted(Ticket),
    /// `park` what is to be handed back when it is its turn.
    Queued(Ticket),
}

/// Entries up to this length (bytes) are found by the bucket of their start. Most are a piece at most.
const BUCKET: u64 = 256 << 10;
/// The bucket of all longer ones, which every look-up passes through.
const LONG: u64 = u64::MAX;

/// Newest first within a bucket: a new entry meets the exclusive one that stands in
/// for the older ones before it meets those.
type Key = (u64, Reverse<u64>);

struct Entry<W> {
    range: Range,
    kind: Kind,
    key: Key,
    /// Earlier entries that must be released first.
    blockers: usize,
    /// Slots of later entries that count this one among their blockers.
    dependents: Vec<u32>,
    waiter: Option<W>,
    /// Nobody waits any more; released when its turn has come.
    withdrawn: bool,
}

/// The table of one volume. `W` is handed back when its turn has come.
pub struct Ranges<W> {
    slots: Vec<Option<Entry<W>>>,
    free: Vec<u32>,
    index: BTreeMap<Key, u32>,
    next_seq: u64,
    /// Exclusive entries in the table: while there is none, nobody else needs to look.
    exclusives: usize,
    writes: usize,
}

impl<W> Default for Ranges<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Ranges<W> {
    /// An empty table.
    pub const fn new() -> Self {
        let index = BTreeMap::new();
        Ranges { slots: Vec::new(), free: Vec::new(), index, next_seq: 0, exclusives: 0, writes: 0 }
    }

    /// Ranges held or waited for.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Is nothing held?
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Enter a range. `Queued`: call [`park`](Self::park) before the table is used by anybody else.
    pub fn acquire(&mut self, range: Range, kind: Kind) -> Acquired {
        assert!(range.start < range.end, "empty range");
        let mut blocking = Vec::new();
        if kind == Kind::Exclusive || self.exclusives > 0 || kind == Kind::Write && self.writes > 0 {
            self.find_blockers(range, kind, &mut blocking);
        }
        let slot = self.insert(range, kind, blocking.len());
        for &blocker in &blocking {
            self.entry(blocker).dependents.push(slot);
        }
        match blocking.is_empty() {
            true => Acquired::Granted(Ticket { slot }),
            false => Acquired::Queued(Ticket { slot }),
        }
    }

    /// What [`release`](Self::release) hands back when the queued ticket's turn has come.
    pub fn park(&mut self, ticket: Ticket, waiter: W) -> Place {
        let entry = self.entry(ticket.slot);
        debug_assert!(entry.blockers > 0 && entry.waiter.is_none());
        entry.waiter = Some(waiter);
        Place { slot: ticket.slot, seq: entry.key.1 .0 }
    }

    /// Hand back what waits there; its range is given up (not to be released any more). `None`: its turn has
    /// come already.
    pub fn withdraw(&mut self, place: Place) -> Option<W> {
        let entry = self.slots.get_mut(place.slot as usize)?.as_mut()?;
        let waiter = (entry.key.1 == Reverse(place.seq)).then(|| entry.waiter.take())??;
        entry.withdrawn = true;
        Some(waiter)
    }

    /// End a granted range. Those that may go now are appended to `runnable`, in the
    /// order in which they came; their tickets count as granted. `ended` is told the kind of each range that is
    /// gone: this one, and those that had been withdrawn.
    pub fn release(&mut self, ticket: Ticket, runnable: &mut Vec<W>, mut ended: impl FnMut(Kind)) {
        let mut next = Some(ticket.slot);
        // Empty, and unallocated, but for what was withdrawn.
        let mut more = Vec::new();
        while let Some(slot) = next {
            let Some(entry) = self.slots[slot as usize].take() else {
                unreachable!("a ticket is released once");
            };
            debug_assert_eq!(entry.blockers, 0, "released before it was granted");
            self.free.push(slot);
            self.index.remove(&entry.key);
            self.exclusives -= usize::from(entry.kind == Kind::Exclusive);
            self.writes -= usize::from(entry.kind == Kind::Write);
            ended(entry.kind);
            for slot in entry.dependents {
                let dependent = self.entry(slot);
                dependent.blockers -= 1;
                if dependent.blockers == 0 {
                    runnable.extend(dependent.waiter.take());
                    more.extend(dependent.withdrawn.then_some(slot));
                }
            }
            next = more.pop();
        }
    }

    /// Slots of the entries that must be released before a new one with this range may go.
    fn find_blockers(&self, range: Range, kind: Kind, blocking: &mut Vec<u32>) {
        let first = (range.start / BUCKET).saturating_sub(1);
        let last = (range.end - 1) / BUCKET;
        self.find_blockers_in(first, last, range, kind, blocking);
        self.find_blockers_in(LONG, LONG, range, kind, blocking);
    }

    fn find_blockers_in(&self, first: u64, last: u64, range: Range, kind: Kind, blocking: &mut Vec<u32>) {
        let mut open = Uncovered::new(range);
        let mut bucket = first;
        let mut from: Key = (first, Reverse(u64::MAX));
        'buckets: loop {
            for (&key, &slot) in self.index.range(from..=(last, Reverse(0))) {
                if key.0 != bucket {
                    // The order by age holds within a bucket only, so each starts afresh.
                    bucket = key.0;
                    open.reset();
                }
                let Some(earlier) = &self.slots[slot as usize] else { unreachable!("indexed slots are in use") };
                if !kind.excludes(earlier.kind) || !open.overlaps(earlier.range) {
                    continue;
                }
                blocking.push(slot);
                if kind.is_covered_by(earlier.kind) && open.cover(earlier.range) {
                    if bucket >= last {
                        return;
                    }
                    from = (bucket + 1, Reverse(u64::MAX));
                    continue 'buckets;
                }
            }
            return;
        }
    }

    fn insert(&mut self, range: Range, kind: Kind, blockers: usize) -> u32 {
        let bucket = if range.end - range.start <= BUCKET { range.start / BUCKET } else { LONG };
        let key = (bucket, Reverse(self.next_seq));
        self.next_seq += 1;
        self.exclusives += usize::from(kind == Kind::Exclusive);
        self.writes += usize::from(kind == Kind::Write);
        let entry = Entry { range, kind, key, blockers, dependents: Vec::new(), waiter: None, withdrawn: false };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                (self.slots.len() - 1) as u32
            }
        };
        self.index.insert(key, slot);
        slot
    }

    fn entry(&mut self, slot: u32) -> &mut Entry<W> {
        match &mut self.slots[slot as usize] {
            Some(entry) => entry,
            None => unreachable!("edges lead to entries that wait"),
        }
    }
}

/// The parts of a range that no exclusive entry seen so far covers.
struct Uncovered {
    whole: Range,
    parts: Vec<Range>,
    /// Nothing covered yet: `parts` is not in use (and costs no allocation).
    untouched: bool,
}

impl Uncovered {
    fn new(whole: Range) -> Self {
        Uncovered { whole, parts: Vec::new(), untouched: true }
    }

    fn reset(&mut self) {
        self.untouched = true;
    }

    fn overlaps(&self, range: Range) -> bool {
        match self.untouched {
            true => self.whole.overlaps(range),
            false => self.parts.iter().any(|part| part.overlaps(range)),
        }
    }

    /// Take `range` away; is nothing left?
    fn cover(&mut self, range: Range) -> bool {
        if range.start <= self.whole.start && self.whole.end <= range.end {
            self.untouched = false;
            self.parts.clear();
            return true;
        }
        if std::mem::take(&mut self.untouched) {
            self.parts.clear();
            self.parts.push(self.whole);
        }
        let mut rest = Vec::with_capacity(self.parts.len() + 1);
        for part in &self.parts {
            let before = Range { start: part.start, end: part.end.min(range.start) };
            let after = Range { start: part.start.max(range.end), end: part.end };
            rest.extend([before, after].into_iter().filter(|piece| piece.start < piece.end));
        }
        self.parts = rest;
        self.parts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::testing::{seed, Rng};

    const fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    fn granted(acquired: Acquired) -> Ticket {
        match acquired {
            Acquired::Granted(ticket) => ticket,
            Acquired::Queued(_) => panic!("queued"),
        }
    }

    fn queued<W>(table: &mut Ranges<W>, r: Range, kind: Kind, waiter: W) -> Ticket {
        match table.acquire(r, kind) {
            Acquired::Queued(ticket) => {
                table.park(ticket, waiter);
                ticket
            }
            Acquired::Granted(_) => panic!("granted"),
        }
    }

    fn release<W>(table: &mut Ranges<W>, ticket: Ticket, out: &mut Vec<W>) {
        table.release(ticket, out, |_| ());
    }

    #[test]
    fn shared_kinds_meet_and_exclusive_ones_do_not() {
        let mut table: Ranges<&str> = Ranges::new();
        let read = granted(table.acquire(range(0, 4096), Kind::Read));
        let write = granted(table.acquire(range(0, 4096), Kind::Write));
        granted(table.acquire(range(4096, 8192), Kind::Exclusive));
        let exclusive = queued(&mut table, range(512, 1024), Kind::Exclusive, "exclusive");
        let mut out = Vec::new();
        release(&mut table, read, &mut out);
        assert!(out.is_empty());
        release(&mut table, write, &mut out);
        assert_eq!(out, ["exclusive"]);
        release(&mut table, exclusive, &mut out);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn a_write_never_passes_an_earlier_one() {
        let mut table: Ranges<u32> = Ranges::new();
        let first = granted(table.acquire(range(0, 4096), Kind::Write));
        let second = queued(&mut table, range(4095, 8192), Kind::Write, 2);
        granted(table.acquire(range(8192, 8193), Kind::Write));
        granted(table.acquire(range(0, 8192), Kind::Read));
        let mut out = Vec::new();
        release(&mut table, first, &mut out);
        assert_eq!(out, [2]);
        release(&mut table, second, &mut out);
        assert_eq!(table.len(), 2);
    }

    #[test]
    fn who_is_withdrawn_holds_up_nobody_longer_than_those_before_it() {
        let mut table: Ranges<u32> = Ranges::new();
        let held = granted(table.acquire(range(0, 512), Kind::Write));
        let Acquired::Queued(ticket) = table.acquire(range(0, 1024), Kind::Exclusive) else { panic!("granted") };
        let place = table.park(ticket, 1);
        // Waits for the exclusive one alone, which stands in for the first.
        let last = queued(&mut table, range(0, 512), Kind::Write, 2);
        assert_eq!(table.withdraw(place), Some(1));
        assert_eq!(table.withdraw(place), None);
        let mut out = Vec::new();
        let mut ended = Vec::new();
        table.release(held, &mut out, |kind| ended.push(kind));
        assert_eq!(out, [2]);
        assert_eq!(ended, [Kind::Write, Kind::Exclusive]);
        release(&mut table, last, &mut out);
        assert!(table.is_empty());
    }

    #[test]
    fn whose_turn_has_come_cannot_be_withdrawn() {
        let mut table: Ranges<u32> = Ranges::new();
        let held = granted(table.acquire(range(0, 512), Kind::Write));
        let Acquired::Queued(ticket) = table.acquire(range(0, 512), Kind::Write) else { panic!("granted") };
        let place = table.park(ticket, 1);
        let mut out = Vec::new();
        release(&mut table, held, &mut out);
        assert_eq!((out, table.withdraw(place)), (vec![1], None));
        release(&mut table, ticket, &mut Vec::new());
        let again = granted(table.acquire(range(0, 512), Kind::Write));
        assert_eq!(again.slot, ticket.slot);
        assert_eq!(table.withdraw(place), None, "another's slot by now");
    }

    #[test]
    fn a_stream_of_readers_does_not_starve_a_writer_of_parts() {
        let mut table: Ranges<u32> = Ranges::new();
        let mut held = granted(table.acquire(range(0, 512), Kind::Read));
        let exclusive = queued(&mut table, range(0, 512), Kind::Exclusive, 0);
        for reader in 1..100 {
            queued(&mut table, range(0, 512), Kind::Read, reader);
        }
        let mut out = Vec::new();
        release(&mut table, std::mem::replace(&mut held, exclusive), &mut out);
        assert_eq!(out, [0]);
        out.clear();
        release(&mut table, held, &mut out);
        assert_eq!(out, (1..100).collect::<Vec<_>>(), "then all the readers, in their order");
    }

    #[test]
    fn thousands_on_one_block_cost_one_edge_each() {
        let mut table: Ranges<usize> = Ranges::new();
        let mut tickets = vec![granted(table.acquire(range(4096, 8192), Kind::Exclusive))];
        for n in 1..10_000 {
            tickets.push(queued(&mut table, range(4096, 8192), Kind::Exclusive, n));
        }
        let edges: usize = table.slots.iter().flatten().map(|entry| entry.dependents.len()).sum();
        assert_eq!(edges, 9_999);
        let mut out = Vec::new();
        for ticket in tickets {
            release(&mut table, ticket, &mut out);
        }
        assert_eq!(out, (1..10_000).collect::<Vec<_>>());
        assert!(table.is_empty());
    }

    /// What the table must equal: an entry may go when nothing earlier, not yet released,
    /// overlaps and excludes it. Quadratic, and obviously right.
    #[derive(Default)]
    struct Model {
        live: Vec<(u64, Range, Kind)>,
        withdrawn: Vec<u64>,
    }

    impl Model {
        fn may_go(&self, id: u64) -> bool {
            let Some(&(_, r, k)) = self.live.iter().find(|entry| entry.0 == id) else { return false };
            !self.live.iter().any(|&(other, or, ok)| other < id && or.overlaps(r) && k.excludes(ok))
        }

        fn end(&mut self, id: u64) {
            self.live.retain(|entry| entry.0 != id);
            while let Some(id) = self.withdrawn.iter().copied().find(|id| self.may_go(*id)) {
                self.withdrawn.retain(|other| *other != id);
                self.live.retain(|entry| entry.0 != id);
            }
        }
    }

    /// A few blocks, many of them; now and then one longer than a bucket or across a bucket's edge.
    fn random_range(rng: &mut Rng) -> Range {
        let base = [0, BUCKET - 4 * 512, 3 * BUCKET][rng.below(3) as usize];
        let start = base + rng.below(8) * 512;
        let len = match rng.below(20) {
            0 => BUCKET + rng.below(3 * BUCKET),
            1 => BUCKET - 512 * rng.below(3),
            _ => (1 + rng.below(4)) * 512,
        };
        range(start, start + len)
    }

    #[test]
    fn equals_the_model_in_random_interleavings() {
        let seed = seed();
        for round in 0..300 {
            let mut rng = Rng::new(seed.wrapping_add(round));
            interleave(&mut rng);
        }
    }

    fn interleave(rng: &mut Rng) {
        let mut table: Ranges<u64> = Ranges::new();
        let mut model = Model::default();
        let mut active: Vec<(u64, Ticket)> = Vec::new();
        let mut waiting: Vec<(u64, Ticket, Place)> = Vec::new();
        let mut withdrawals = 0;
        let depth = 1 + rng.below(60) as usize;
        let exclusive_share = 1 + rng.below(10);
        let mut next = 0;
        while next < 600 || !model.live.is_empty() {
            let room = active.len() + waiting.len() < depth;
            if next < 600 && room && (active.is_empty() || rng.below(2) == 0) {
                let kind = match rng.below(10) {
                    n if n < exclusive_share => Kind::Exclusive,
                    n if n % 2 == 0 => Kind::Read,
                    _ => Kind::Write,
                };
                let r = random_range(rng);
                model.live.push((next, r, kind));
                match table.acquire(r, kind) {
                    Acquired::Granted(ticket) => active.push((next, ticket)),
                    Acquired::Queued(ticket) => {
                        let place = table.park(ticket, next);
                        waiting.push((next, ticket, place));
                    }
                }
                next += 1;
            } else if !waiting.is_empty() && rng.below(10) == 0 {
                let (id, _, place) = waiting.swap_remove(rng.below(waiting.len() as u64) as usize);
                assert_eq!(table.withdraw(place), Some(id));
                // It stays in the model, as it does in the table: gone once it may go.
                model.withdrawn.push(id);
                withdrawals += 1;
            } else {
                let (id, ticket) = active.swap_remove(rng.below(active.len() as u64) as usize);
                let mut out = Vec::new();
                release(&mut table, ticket, &mut out);
                model.end(id);
                assert!(withdrawals > 0 || out.is_sorted(), "handed back in the order in which they came");
                for id in out {
                    let at = waiting.iter().position(|entry| entry.0 == id).expect("only those that wait");
                    let (id, ticket, _) = waiting.swap_remove(at);
                    active.push((id, ticket));
                }
            }
            assert!(active.iter().all(|&(id, _)| model.may_go(id)));
            assert!(waiting.iter().all(|&(id, _, _)| !model.may_go(id)));
            assert!(!active.is_empty() || waiting.is_empty(), "somebody can always go");
            assert_eq!(table.len(), model.live.len());
        }
        assert!(table.is_empty() && table.exclusives == 0 && table.writes == 0);
    }
}
