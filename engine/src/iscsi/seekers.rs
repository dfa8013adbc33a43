//! In which order a shard's sessions get room for data that is to come.
//!
//! Who finds none waits, and nobody that comes later takes what is given back meanwhile: otherwise those that are
//! looked at first would always have it. Those to which the least is promised come first, and of those who have as
//! much as each other whoever has waited the longest.
//!
//! The first of all is the one that looks for room (see `room.rs`), and is woken when some is given back; the others
//! sleep until it is their turn. For whom there is none although it has the least there is none for those behind it.
//! So the first must never be one that does not want room any more: it looks again by a timer, and says so then at the
//! latest.

use std::collections::BTreeMap;

/// A place among those that wait: what its session has, in pieces, and when it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub pieces: usize,
    turn: u64,
}

/// Sessions, by their numbers.
#[derive(Default)]
pub struct Seekers {
    waiting: BTreeMap<Place, u64>,
    turns: u64,
}

impl Seekers {
    /// May `session` take room that is there? When nobody waits, everybody may.
    pub fn is_turn_of(&self, session: u64) -> bool {
        self.first().is_none_or(|first| first == session)
    }

    /// Who is to have the next room.
    pub fn first(&self) -> Option<u64> {
        self.waiting.values().next().copied()
    }

    /// `session`, which has so many pieces, waits from now on.
    pub fn join(&mut self, session: u64, pieces: usize) -> Place {
        self.turns += 1;
        let place = Place { pieces, turn: self.turns };
        self.waiting.insert(place, session);
        place
    }

    /// Who has that place does not wait any more.
    pub fn leave(&mut self, place: Place) {
        self.waiting.remove(&place);
    }

    /// The first is not there any more.
    pub fn drop_first(&mut self) {
        self.waiting.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_least_comes_first_and_then_who_came_first() {
        let mut seekers = Seekers::default();
        assert!(seekers.is_turn_of(9), "nobody waits");
        let comers = [(1, 2), (2, 1), (3, 0), (4, 1), (5, 0)];
        let mut places: Vec<(u64, Place)> =
            comers.into_iter().map(|(session, pieces)| (session, seekers.join(session, pieces))).collect();
        assert!(!seekers.is_turn_of(9), "who comes later");
        let mut order = Vec::new();
        while let Some(first) = seekers.first() {
            order.push(first);
            let at = places.iter().position(|(session, _)| *session == first).unwrap();
            seekers.leave(places.remove(at).1);
        }
        assert_eq!(order, [3, 5, 2, 4, 1]);
        assert!(seekers.is_turn_of(9));
    }

    #[test]
    fn who_leaves_in_the_middle_is_not_waited_for() {
        let mut seekers = Seekers::default();
        let places = [1, 2, 3].map(|session| seekers.join(session, 0));
        seekers.leave(places[1]);
        seekers.drop_first();
        assert_eq!(seekers.first(), Some(3));
        assert!(seekers.is_turn_of(3) && !seekers.is_turn_of(2));
    }
}
