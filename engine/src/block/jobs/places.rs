//! Which jobs may run: each takes places, at the volumes that it touches, and waits while one of them is taken.
//!
//! A job occupies its thread for as long as its storage lets it wait, and storage may hang. So there is no
//! number of threads that all volumes share: each has places of its own, of every kind, and what hangs takes
//! those of its volume alone. A copy from one volume to another takes places at both; that it may hang with
//! the one must not close the other, so any two volumes have fewer places together than each of them has.

use std::collections::HashMap;

/// A volume's handle.
type Id = u64;

/// What a job must have to run. Its threads are bounded by that: to fewer for each volume than it has workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Long work that touches only this volume.
    Within(Id),
    /// Copies between this volume and any other.
    Between(Id),
    /// Copies between these two, the smaller handle first.
    Pair(Id, Id),
    /// Somebody waits for a flush: it has a place of its own, so that it never waits behind long work.
    Flush(Id),
}

impl Place {
    /// How many may have it at a time.
    pub const fn room(self) -> usize {
        match self {
            Place::Within(_) => 4,
            Place::Between(_) => 8,
            Place::Pair(..) => 2,
            Place::Flush(_) => 1,
        }
    }

    /// What a copy needs.
    pub fn of_copy(source: Id, target: Id) -> Vec<Place> {
        match source == target {
            true => vec![Place::Within(target)],
            false => {
                let pair = Place::Pair(source.min(target), source.max(target));
                vec![Place::Between(source), Place::Between(target), pair]
            }
        }
    }
}

/// The places that are taken.
#[derive(Default)]
pub struct Places(HashMap<Place, usize>);

impl Places {
    /// Takes all of them, or none (`false`).
    pub fn take(&mut self, wanted: &[Place]) -> bool {
        let taken = |place: &Place| self.0.get(place).copied().unwrap_or(0);
        if wanted.iter().any(|place| taken(place) >= place.room()) {
            return false;
        }
        for place in wanted {
            *self.0.entry(*place).or_default() += 1;
        }
        true
    }

    /// Gives up what [`take`](Self::take) has taken.
    pub fn give_up(&mut self, places: &[Place]) {
        for place in places {
            if let Some(taken) = self.0.get_mut(place) {
                *taken -= 1;
                if *taken == 0 {
                    self.0.remove(place);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_that_takes_all_it_can_leaves_the_others_theirs() {
        let mut places = Places::default();
        let (hung, sound, third) = (1, 2, 3);
        while places.take(&Place::of_copy(hung, hung)) {}
        while places.take(&Place::of_copy(hung, sound)) {}
        assert!(!places.take(&Place::of_copy(sound, hung)), "the same two");
        assert!(places.take(&Place::of_copy(sound, third)));
        assert!(places.take(&Place::of_copy(sound, sound)));
        assert!(places.take(&[Place::Flush(hung)]));
        assert!(!places.take(&[Place::Flush(hung)]));
    }

    #[test]
    fn all_or_none_are_taken_and_nothing_is_left_behind() {
        let mut places = Places::default();
        let copy = Place::of_copy(2, 1);
        while places.take(&copy) {}
        let before = places.0.clone();
        assert!(!places.take(&copy));
        assert_eq!(places.0, before);
        for _ in 0..Place::Pair(1, 2).room() {
            places.give_up(&copy);
        }
        assert!(places.0.is_empty());
    }
}
