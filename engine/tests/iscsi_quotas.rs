//! What Python has of one nexus is bounded, in number and in time, and stands in nobody else's way.

mod support;

use std::sync::Arc;

use _engine::shard::events::Event;
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;
/// PERSISTENT RESERVE IN, READ KEYS: always Python's.
const HANDED: [u8; 16] = [0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0];

fn with_limits(limits: &[(&str, u64)], test: impl Fn(&Target, &Arc<Held>)) {
    for path in paths() {
        let held = Held::new(64 * MIB);
        let target = Target::start(path, limits, 2, |engine| {
            let volume = held.volume(engine);
            engine.swap_gate(volume, scsi_gate(2, 64 * MIB)).unwrap();
            volume
        });
        test(&target, &held);
        held.finish(Err(libc::EIO));
    }
}

#[test]
fn a_nexus_has_a_quota_of_commands_that_python_has() {
    with_limits(&[("handed_up_per_nexus", 2)], |target, held| {
        let mut it = target.login(&Agreed::session(1));
        let tags: Vec<u32> = (0..3).map(|_| it.ask(64, HANDED)).collect();
        let (first, ..) = target.wait_command();
        target.wait_command();
        it.ping();
        let is_command = |event: &Event| matches!(event, Event::Command(_));
        assert!(!target.has_event(is_command), "the third waits");
        // Its reads do not, nor do another nexus's commands, nor task management.
        let read = it.ask(512, read10(0, 1));
        target.eventually("it is held", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(it.answer(read).1.status(), 0);
        let mut other = target.login(&Agreed::session(2));
        let theirs = other.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        target.engine.complete(task, 0, vec![], vec![]);
        assert_eq!(other.answer(theirs).1.status(), 0);
        let reset = it.manage(1, tags[1], 2);
        let (function, ..) = target.wait_management();
        target.engine.management_done(function, 0);
        assert_eq!(it.recv().itt(), reset);
        target.engine.complete(first, 0, vec![], vec![]);
        assert_eq!(it.answer(tags[0]).1.status(), 0);
        let (third, ..) = target.wait_command();
        target.engine.complete(third, 0, vec![], vec![]);
        assert_eq!(it.answer(tags[2]).1.status(), 0);
    });
}

#[test]
fn a_command_that_python_does_not_answer_ends_its_session() {
    with_limits(&[("handed_up_ms", 200)], |target, _| {
        let mut it = target.login(&Agreed::session(1));
        let mut other = target.login(&Agreed::session(2));
        it.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        assert!(it.try_recv().is_err(), "closed, and nothing was said");
        assert_eq!(target.wait_lost(), "a command was not answered in time");
        target.engine.complete(task, 0, vec![], vec![]);
        other.ping();
    });
}
