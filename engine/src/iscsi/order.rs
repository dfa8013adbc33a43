//! Task attributes: who may run when (SAM-5 8.6, 8.7). One task set for each nexus and logical unit (TST=001b).
//!
//! SIMPLE tasks run beside each other in any order (QUEUE ALGORITHM MODIFIER 1h); an ORDERED one
//! waits for all before it, and all behind it wait for it; a HEAD OF QUEUE one runs at once, and those that
//! come behind wait for it. Tasks that Python has take part like any other.

use std::collections::VecDeque;

use super::wire::attribute;
use crate::shard::tasks::TaskHandle;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Simple,
    Ordered,
    Head,
}

fn kind(attribute: u8) -> Kind {
    match attribute {
        attribute::ORDERED => Kind::Ordered,
        attribute::HEAD_OF_QUEUE => Kind::Head,
        // Untagged tasks too: there is nothing that such a one could be ordered against.
        _ => Kind::Simple,
    }
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct TaskSet {
    enabled: usize,
    heads: usize,
    ordered: bool,
    dormant: VecDeque<(TaskHandle, Kind)>,
}

impl TaskSet {
    /// A task comes in. True: it may run now; else it is dormant until [`enable_next`](Self::enable_next) names it.
    pub fn enter(&mut self, attribute: u8, task: TaskHandle) -> bool {
        let kind = kind(attribute);
        let enabled = kind == Kind::Head || self.dormant.is_empty() && self.may_run(kind);
        match enabled {
            true => self.enable(kind),
            false => self.dormant.push_back((task, kind)),
        }
        enabled
    }

    fn may_run(&self, kind: Kind) -> bool {
        match kind {
            Kind::Head => true,
            Kind::Simple => !self.ordered && self.heads == 0,
            Kind::Ordered => self.enabled == 0,
        }
    }

    fn enable(&mut self, kind: Kind) {
        self.enabled += 1;
        self.heads += usize::from(kind == Kind::Head);
        self.ordered |= kind == Kind::Ordered;
    }

    /// One that was enabled has ended.
    pub fn leave(&mut self, attribute: u8) {
        debug_assert!(self.enabled > 0, "more have left than came");
        let kind = kind(attribute);
        self.enabled -= 1;
        self.heads -= usize::from(kind == Kind::Head);
        self.ordered &= kind != Kind::Ordered;
    }

    /// A dormant one that may run now; it counts as enabled from here on.
    pub fn enable_next(&mut self) -> Option<TaskHandle> {
        let (task, kind) = *self.dormant.front()?;
        if !self.may_run(kind) {
            return None;
        }
        self.dormant.pop_front();
        self.enable(kind);
        Some(task)
    }

    /// A dormant one has ended.
    pub fn forget(&mut self, task: TaskHandle) {
        self.dormant.retain(|(other, _)| *other != task);
    }

    /// Does nobody wait?
    pub fn has_dormant(&self) -> bool {
        !self.dormant.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMPLE: u8 = 1;
    const ORDERED: u8 = 2;
    const HEAD: u8 = 3;

    fn task(number: u64) -> TaskHandle {
        TaskHandle(number)
    }

    #[test]
    fn an_ordered_task_waits_for_all_before_it_and_all_behind_wait_for_it() {
        let mut set = TaskSet::default();
        assert!(set.enter(SIMPLE, task(1)) && set.enter(0, task(2)));
        assert!(!set.enter(ORDERED, task(3)));
        assert!(!set.enter(SIMPLE, task(4)) && !set.enter(SIMPLE, task(5)));
        set.leave(SIMPLE);
        assert_eq!(set.enable_next(), None);
        set.leave(0);
        assert_eq!((set.enable_next(), set.enable_next()), (Some(task(3)), None));
        set.leave(ORDERED);
        assert_eq!((set.enable_next(), set.enable_next(), set.enable_next()), (Some(task(4)), Some(task(5)), None));
    }

    #[test]
    fn a_head_of_queue_task_goes_before_all_that_wait() {
        let mut set = TaskSet::default();
        assert!(set.enter(ORDERED, task(1)));
        assert!(!set.enter(SIMPLE, task(2)));
        assert!(set.enter(HEAD, task(3)));
        set.leave(ORDERED);
        assert_eq!(set.enable_next(), None, "SIMPLE tasks wait for it");
        set.leave(HEAD);
        assert_eq!(set.enable_next(), Some(task(2)));
        assert!(!set.has_dormant());
    }

    #[test]
    fn a_dormant_task_that_ends_stands_in_nobodys_way() {
        let mut set = TaskSet::default();
        assert!(set.enter(SIMPLE, task(1)));
        assert!(!set.enter(ORDERED, task(2)) && !set.enter(SIMPLE, task(3)));
        set.forget(task(2));
        assert_eq!(set.enable_next(), Some(task(3)));
    }
}
