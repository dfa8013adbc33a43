//! Deadlines of a shard's connections: a heap, and no tick when there is nothing to wait for.
//!
//! Entries are never cancelled. One that comes due asks its owner, who closes, names a later
//! time, or shrugs: so the hot path touches no timer at all.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::Hash;

/// Deadlines in milliseconds of the shard's clock, each with whom to ask.
#[derive(Debug)]
pub struct Timers<T: Ord>(BinaryHeap<Reverse<(u64, T)>>);

impl<T: Ord + Copy + Hash> Default for Timers<T> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

impl<T: Ord + Copy + Hash> Timers<T> {
    /// Asks for `who` to be woken at `at_ms`.
    pub fn add(&mut self, at_ms: u64, who: T) {
        self.0.push(Reverse((at_ms, who)));
    }

    /// Milliseconds until the next is due; `None`: there is none.
    pub fn next_in_ms(&self, now_ms: u64) -> Option<u64> {
        self.0.peek().map(|Reverse((at, _))| at.saturating_sub(now_ms))
    }

    /// One that is due.
    pub fn pop_due(&mut self, now_ms: u64) -> Option<T> {
        let Reverse((at, _)) = self.0.peek()?;
        if *at > now_ms {
            return None;
        }
        self.0.pop().map(|Reverse((_, who))| who)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_come_due_in_order() {
        let mut timers = Timers::default();
        assert_eq!(timers.next_in_ms(0), None);
        timers.add(30, 'b');
        timers.add(10, 'a');
        assert_eq!(timers.next_in_ms(4), Some(6));
        assert_eq!(timers.pop_due(9), None);
        assert_eq!(timers.pop_due(50), Some('a'));
        assert_eq!(timers.pop_due(50), Some('b'));
        assert_eq!(timers.pop_due(50), None);
    }
}
