//! Ranges in flight: which request has to wait for which.
//!
//! The table is asynchronous: it never blocks, it says who may go. A request that
//! overlaps an earlier one that it must not meet waits until that one is released,
//! and whoever comes later and overlaps it waits in turn: first come, first served,
//! so nobody starves. Requests that do not overlap never wait for one another.
//!
//! | | Read | Write | Exclusive |
//! |---|---|---|---|
//! | Read, Write | together | together | wait |
//! | Exclusive | wait | wait | wait |
//!
//! `Write` beside `Write` is what the protocols leave undefined; `Exclusive` is for
//! what reads and then writes back (a part of a block, later COMPARE AND WRITE).
//!
//! Every request knows how many earlier ones it waits for, and every request the later
//! ones that wait for it, so that a release costs what it lets go. An exclusive request
//! stands in for everything before it in the part that it covers: those that come
//! later wait for it alone, which keeps the number of such edges proportional to the
//! requests even when thousands want one block.

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
    fn excludes(self, other: Kind) -> bool {
        self == Kind::Exclusive || other == Kind::Exclusive
    }
}

/// Names a range in the table from `acquire` to `release`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    slot: u32,
}

/// Answer of [`Ranges::acquire`].
#[derive(Debug, PartialEq, Eq)]
pub enum Acquired {
    /// Go on, and `release` the ticket afterwards.
    Granted(Ticket),
    /// `park` what is to be handed back when it is its turn.
    Queued(Ticket),
}

/// Entries up to this length (bytes) are found by the bucket of their start.
const BUCKET: u64 = 1 << 20;
/// The bucket of all longer ones, which every look-up passes through.
const LONG: u64 = u64::MAX;

/// Newest first within a bucket: a new entry meets the exclusive one that stands in
/// for the older ones before it meets those.
type Place = (u64, Reverse<u64>);

struct Entry<W> {
    range: Range,
    kind: Kind,
    place: Place,
    /// Earlier entries that must be released first.
    blockers: usize,
    /// Slots of later entries that count this one among their blockers.
    dependents: Vec<u32>,
    waiter: Option<W>,
}

/// The table of one volume. `W` is handed back when its turn has come.
pub struct Ranges<W> {
    slots: Vec<Option<Entry<W>>>,
    free: Vec<u32>,
    index: BTreeMap<Place, u32>,
    next_seq: u64,
    /// Exclusive entries in the table: while there is none, nobody else needs to look.
    exclusives: usize,
}

impl<W> Default for Ranges<W> {
    fn default() -> Self {
        Self::new()
    }
}

impl<W> Ranges<W> {
    /// An empty table.
    pub const fn new() -> Self {
        Ranges { slots: Vec::new(), free: Vec::new(), index: BTreeMap::new(), next_seq: 0, exclusives: 0 }
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
        if kind == Kind::Exclusive || self.exclusives > 0 {
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
    pub fn park(&mut self, ticket: Ticket, waiter: W) {
        let entry = self.entry(ticket.slot);
        debug_assert!(entry.blockers > 0 && entry.waiter.is_none());
        entry.waiter = Some(waiter);
    }

    /// End a granted range. Those that may go now are appended to `runnable`, in the
    /// order in which they came; their tickets count as granted.
    pub fn release(&mut self, ticket: Ticket, runnable: &mut Vec<W>) {
        let Some(entry) = self.slots[ticket.slot as usize].take() else {
            unreachable!("a ticket is released once");
        };
        debug_assert_eq!(entry.blockers, 0, "released before it was granted");
        self.free.push(ticket.slot);
        self.index.remove(&entry.place);
        self.exclusives -= usize::from(entry.kind == Kind::Exclusive);
        for slot in entry.dependents {
            let dependent = self.entry(slot);
            dependent.blockers -= 1;
            if dependent.blockers == 0 {
                runnable.extend(dependent.waiter.take());
            }
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
        let mut from: Place = (first, Reverse(u64::MAX));
        'buckets: loop {
            for (&place, &slot) in self.index.range(from..=(last, Reverse(0))) {
                if place.0 != bucket {
                    // The order by age holds within a bucket only, so each starts afresh.
                    bucket = place.0;
                    open.reset();
                }
                let Some(earlier) = &self.slots[slot as usize] else { unreachable!("indexed slots are in use") };
                if !kind.excludes(earlier.kind) || !open.overlaps(earlier.range) {
                    continue;
                }
                blocking.push(slot);
                if earlier.kind == Kind::Exclusive && open.cover(earlier.range) {
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
        let place = (bucket, Reverse(self.next_seq));
        self.next_seq += 1;
        self.exclusives += usize::from(kind == Kind::Exclusive);
        let entry = Entry { range, kind, place, blockers, dependents: Vec::new(), waiter: None };
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
        self.index.insert(place, slot);
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

    #[test]
    fn shared_kinds_meet_and_exclusive_ones_do_not() {
        let mut table: Ranges<&str> = Ranges::new();
        let read = granted(table.acquire(range(0, 4096), Kind::Read));
        let write = granted(table.acquire(range(0, 4096), Kind::Write));
        granted(table.acquire(range(4096, 8192), Kind::Exclusive));
        let exclusive = queued(&mut table, range(512, 1024), Kind::Exclusive, "exclusive");
        let mut out = Vec::new();
        table.release(read, &mut out);
        assert!(out.is_empty());
        table.release(write, &mut out);
        assert_eq!(out, ["exclusive"]);
        table.release(exclusive, &mut out);
        assert_eq!(table.len(), 1);
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
        table.release(std::mem::replace(&mut held, exclusive), &mut out);
        assert_eq!(out, [0]);
        out.clear();
        table.release(held, &mut out);
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
            table.release(ticket, &mut out);
        }
        assert_eq!(out, (1..10_000).collect::<Vec<_>>());
        assert!(table.is_empty());
    }

    /// What the table must equal: an entry may go when nothing earlier, not yet released,
    /// overlaps and excludes it. Quadratic, and obviously right.
    struct Model {
        live: Vec<(u64, Range, Kind)>,
    }

    impl Model {
        fn may_go(&self, id: u64) -> bool {
            let Some(&(_, r, k)) = self.live.iter().find(|entry| entry.0 == id) else { return false };
            !self.live.iter().any(|&(other, or, ok)| other < id && or.overlaps(r) && ok.excludes(k))
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
        let mut model = Model { live: Vec::new() };
        let mut active: Vec<(u64, Ticket)> = Vec::new();
        let mut waiting: Vec<(u64, Ticket)> = Vec::new();
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
                        table.park(ticket, next);
                        waiting.push((next, ticket));
                    }
                }
                next += 1;
            } else {
                let (id, ticket) = active.swap_remove(rng.below(active.len() as u64) as usize);
                let mut out = Vec::new();
                table.release(ticket, &mut out);
                model.live.retain(|entry| entry.0 != id);
                assert!(out.is_sorted(), "handed back in the order in which they came");
                for id in out {
                    let at = waiting.iter().position(|entry| entry.0 == id).expect("only those that wait");
                    active.push(waiting.swap_remove(at));
                }
            }
            assert!(active.iter().all(|&(id, _)| model.may_go(id)));
            assert!(waiting.iter().all(|&(id, _)| !model.may_go(id)));
            assert!(!active.is_empty() || waiting.is_empty(), "somebody can always go");
            assert_eq!(table.len(), model.live.len());
        }
        assert!(table.is_empty() && table.exclusives == 0);
    }
}
