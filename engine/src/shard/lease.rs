//! The lease of this gateway: until when anything may be given to a back end.
//!
//! Where several gateways serve a volume, each may only while its lease is known to be valid. Who renews it is
//! Python, on its event loop; who keeps it are the shards, which look at the deadline whenever they give a request
//! to a volume. So a loop that stands still for a whole lease fences its gateway, whatever the reason. A gateway
//! that serves alone has none, and leaves it off.
//!
//! A deadline stops what has not been submitted, no more: what the back end has already must be fenced there.

use std::sync::atomic::{AtomicU64, Ordering};

/// No lease: it never lapses.
const OFF: u64 = u64::MAX;
/// It has lapsed, and that has been told.
const FENCED: u64 = 0;

/// See the module's text. Times are nanoseconds of CLOCK_BOOTTIME, which goes on while the machine sleeps.
#[derive(Debug)]
pub struct Lease {
    deadline_ns: AtomicU64,
}

impl Default for Lease {
    fn default() -> Self {
        Self { deadline_ns: AtomicU64::new(OFF) }
    }
}

/// What a renewal found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// It had not lapsed.
    pub was_valid: bool,
    /// It ends sooner than a shard that sleeps has reckoned with, which must look again.
    pub is_sooner: bool,
}

impl Lease {
    /// Valid for `ttl_ms` from `now_ns` on, a time before whatever grants it was asked; 0 turns it off.
    pub fn renew(&self, now_ns: u64, ttl_ms: u64) -> Renewed {
        let deadline = match ttl_ms {
            0 => OFF,
            // At least 1: 0 has a meaning of its own.
            ttl_ms => now_ns.saturating_add(ttl_ms.saturating_mul(1_000_000)).clamp(1, OFF - 1),
        };
        let before = self.deadline_ns.swap(deadline, Ordering::SeqCst);
        Renewed { was_valid: now_ns < before, is_sooner: deadline < before || before == FENCED && deadline != OFF }
    }

    /// Must nothing be given to a back end any more?
    pub fn has_lapsed(&self, now_ns: u64) -> bool {
        now_ns >= self.deadline_ns.load(Ordering::Acquire)
    }

    /// The same; the first of all shards that finds it so gets true, and tells it.
    pub fn note_lapse(&self, now_ns: u64) -> bool {
        let deadline = self.deadline_ns.load(Ordering::Acquire);
        // A renewal that came in between wins: the lease has not lapsed then.
        deadline != FENCED
            && now_ns >= deadline
            && self.deadline_ns.compare_exchange(deadline, FENCED, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// How long until it lapses, if it may.
    pub fn left_ms(&self, now_ns: u64) -> Option<u64> {
        match self.deadline_ns.load(Ordering::Acquire) {
            OFF | FENCED => None,
            deadline => Some(deadline.saturating_sub(now_ns).div_ceil(1_000_000)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn none_never_lapses() {
        let lease = Lease::default();
        assert!(!lease.has_lapsed(u64::MAX - 1) && !lease.note_lapse(u64::MAX - 1));
        assert_eq!(lease.left_ms(5), None);
    }

    #[test]
    fn a_lapse_is_told_once_and_lifted_by_a_renewal_alone() {
        let lease = Lease::default();
        assert_eq!(lease.renew(10 * MS, 5), Renewed { was_valid: true, is_sooner: true });
        assert_eq!((lease.has_lapsed(15 * MS - 1), lease.left_ms(12 * MS)), (false, Some(3)));
        assert!(lease.has_lapsed(15 * MS));
        assert!(lease.note_lapse(15 * MS) && !lease.note_lapse(15 * MS));
        assert!(lease.has_lapsed(0), "whatever a shard's clock says");
        assert_eq!(lease.left_ms(16 * MS), None);
        assert_eq!(lease.renew(20 * MS, 5), Renewed { was_valid: false, is_sooner: true });
        assert!(!lease.has_lapsed(24 * MS));
        assert_eq!(lease.renew(21 * MS, 5), Renewed { was_valid: true, is_sooner: false });
        assert_eq!(lease.renew(22 * MS, 0), Renewed { was_valid: true, is_sooner: false });
        assert!(!lease.has_lapsed(1 << 62));
    }

    #[test]
    fn a_renewal_in_time_is_not_undone_by_one_who_saw_the_lapse() {
        let lease = Lease::default();
        lease.renew(0, 5);
        lease.renew(4 * MS, 5);
        assert!(!lease.note_lapse(5 * MS) && !lease.has_lapsed(5 * MS));
    }
}
