//! What Python has of one nexus is bounded, in number and in time, and stands in nobody else's way.

mod support;

use std::sync::Arc;

use _engine::block::gate::Gate;
use _engine::scsi::gate::ScsiGate;
use _engine::shard::engine::AbortOrder;
use _engine::shard::events::Event;
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;
/// PERSISTENT RESERVE IN, READ KEYS: always Python's.
const HANDED: [u8; 16] = [0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0];

fn with_limits(limits: &[(&str, u64)], test: impl Fn(&Target, &Arc<Held>)) {
    with_shards(2, limits, test);
}

fn with_shards(shards: usize, limits: &[(&str, u64)], test: impl Fn(&Target, &Arc<Held>)) {
    for path in paths() {
        let held = Held::new(64 * MIB);
        let target = Target::start(path, limits, shards, |engine| {
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

/// An event is taken when there is none any more; those that a test has not waited for are still there.
#[test]
fn a_session_ends_whose_command_python_does_not_take() {
    with_limits(&[("handed_up_ms", 1000)], |target, _| {
        let mut working = target.login(&Agreed::session(1));
        let mut it = target.login(&Agreed::session(2));
        // A command that Python works on comes first, and would be late first.
        let tag = working.ask(64, HANDED);
        let (long, ..) = target.wait_command();
        it.ask(64, HANDED);
        assert!(it.try_recv().is_err(), "closed, and nothing was said");
        assert_eq!(target.wait_lost(), "the gateway did not take up a command in time");
        let (late, ..) = target.wait_command();
        target.engine.complete(late, 0, vec![], vec![]);
        working.ping();
        target.engine.complete(long, 0, b"done".to_vec(), vec![]);
        assert_eq!(working.answer(tag).0, b"done");
    });
}

/// READ beyond the end: the engine refuses it.
fn fail(it: &mut Initiator) {
    let tag = it.ask(512, read10(0x00ff_ffff, 1));
    assert_eq!(it.answer(tag).1.sense(), (5, 0x21, 0));
}

#[test]
fn commands_that_end_without_python_do_not_free_their_quota() {
    with_limits(&[("handed_up_per_nexus", 2)], |target, _| {
        let plain = scsi_gate(3, 64 * MIB);
        let scsi = ScsiGate { qerr: 1, ..plain.scsi.as_deref().unwrap().clone() };
        target.engine.swap_gate(target.volume, Gate { scsi: Some(Arc::new(scsi)), ..plain }).unwrap();
        let mut it = target.login(&Agreed::session(1));
        // QERR: what fails takes the others with it, and the engine does that by itself.
        let tags = [it.ask(64, HANDED), it.ask(64, HANDED)];
        let (first, ..) = target.wait_command();
        let (second, ..) = target.wait_command();
        fail(&mut it);
        let is_command = |event: &Event| matches!(event, Event::Command(_));
        for _ in 0..20 {
            it.ask(64, HANDED);
            it.ask(64, HANDED);
            it.ping();
            assert!(!target.has_event(is_command), "Python has two still");
            fail(&mut it);
        }
        // A tag is free at once; an answer that nobody waits for makes room for another command.
        let mut again = it.command(0xc1, 64, HANDED);
        put(&mut again, 16, tags[0]);
        it.send(again, &[]);
        it.ping();
        assert!(!target.has_event(is_command));
        target.engine.complete(first, 0, b"late".to_vec(), vec![]);
        let (third, ..) = target.wait_command();
        target.engine.complete(third, 0, b"keys".to_vec(), vec![]);
        assert_eq!(it.answer(tags[0]).0, b"keys");
        // So does an abort by Python, which forgets what it has.
        fail(&mut it);
        it.ask(64, HANDED);
        let (fourth, ..) = target.wait_command();
        let order = AbortOrder { request: 1, volume: target.volume, nexus: NEXUS + 1, ..AbortOrder::default() };
        target.engine.abort(order);
        target.wait_aborted(1);
        target.engine.complete(second, 0, vec![], vec![]);
        target.engine.complete(fourth, 0, vec![], vec![]);
        let tags = [it.ask(64, HANDED), it.ask(64, HANDED)];
        for tag in tags {
            let (task, ..) = target.wait_command();
            target.engine.complete(task, 0, vec![], vec![]);
            assert_eq!(it.answer(tag).1.status(), 0);
        }
        assert!(it.is_silent());
    });
}

#[test]
fn what_python_has_not_heard_of_yet_is_bounded_too() {
    with_limits(&[("handed_up_per_nexus", 2)], |target, _| {
        let mut it = target.login(&Agreed::session(1));
        let count = || target.seen.0.lock().unwrap().iter().filter(|event| matches!(event, Event::Command(_))).count();
        it.ask(64, HANDED);
        it.ask(64, HANDED);
        it.ping();
        target.eventually("both are on their way", |_| count() == 2);
        target.engine.abort(AbortOrder { request: 1, nexus: NEXUS + 1, ..AbortOrder::default() });
        target.wait_aborted(1);
        // They are aborted, but their events are there.
        let tag = it.ask(64, HANDED);
        assert_eq!(it.answer(tag).1.status(), 0x28, "TASK SET FULL");
        target.wait_command();
        let tag = it.ask(64, HANDED);
        target.eventually("one more may be told of", |_| count() == 2);
        target.wait_command();
        let (task, ..) = target.wait_command();
        target.engine.complete(task, 0, vec![], vec![]);
        assert_eq!(it.answer(tag).1.status(), 0);
    });
}

/// While Python has not taken their events.
fn in_the_lane(target: &Target, test: impl FnOnce()) {
    let not_taken = target.taking.lock().unwrap();
    test();
    let times = *not_taken;
    drop(not_taken);
    // Whoever may look finds that taking them is over.
    target.eventually("they are taken", |_| *target.taking.lock().unwrap() > times);
}

#[test]
fn what_was_aborted_before_python_took_it_never_comes_up() {
    with_limits(&[("handed_up_per_nexus", 2)], |target, _| {
        let mut it = target.login(&Agreed::session(1));
        in_the_lane(target, || {
            it.ask(64, HANDED);
            it.ask(64, HANDED);
            it.ping();
            target.engine.abort(AbortOrder { request: 1, nexus: NEXUS + 1, ..AbortOrder::default() });
            target.eventually("they are gone", |engine| engine.tasks().is_empty());
            let third = it.ask(64, HANDED);
            assert_eq!(it.answer(third).1.status(), 0x28, "their events are there: TASK SET FULL");
        });
        target.wait_aborted(1);
        // They count no longer, and what comes up is another.
        for _ in 0..2 {
            let tag = it.ask(64, HANDED);
            let (task, ..) = target.wait_command();
            target.engine.complete(task, 0, b"keys".to_vec(), vec![]);
            assert_eq!(it.answer(tag).0, b"keys");
        }
        assert!(!target.has_event(|event| matches!(event, Event::Command(_))));
    });
}

#[test]
fn who_has_a_command_sees_that_it_has_ended() {
    with_limits(&[], |target, _| {
        let mut it = target.login(&Agreed::session(1));
        it.ask(64, HANDED);
        let Event::Command(command) = target.wait_event(|event| matches!(event, Event::Command(_))) else {
            unreachable!()
        };
        assert!(!command.fate.is_over());
        target.engine.abort(AbortOrder { request: 1, nexus: NEXUS + 1, ..AbortOrder::default() });
        target.wait_aborted(1);
        assert!(command.fate.is_over());
    });
}

#[test]
fn what_failed_with_another_before_python_took_it_never_comes_up() {
    with_limits(&[("handed_up_per_nexus", 2)], |target, _| {
        let plain = scsi_gate(3, 64 * MIB);
        let scsi = ScsiGate { qerr: 1, ..plain.scsi.as_deref().unwrap().clone() };
        target.engine.swap_gate(target.volume, Gate { scsi: Some(Arc::new(scsi)), ..plain }).unwrap();
        let mut it = target.login(&Agreed::session(1));
        in_the_lane(target, || {
            it.ask(64, HANDED);
            it.ask(64, HANDED);
            fail(&mut it);
            assert!(target.engine.tasks().is_empty(), "nobody will answer them");
        });
        let tag = it.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        target.engine.complete(task, 0, b"keys".to_vec(), vec![]);
        assert_eq!(it.answer(tag).0, b"keys");
        assert!(!target.has_event(|event| matches!(event, Event::Command(_))));
    });
}

fn handed_up(target: &Target) -> usize {
    target.engine.tasks().iter().filter(|task| task.phase == "handed-up").count()
}

/// One session has all that it may, others one each, and Python answers none: it has 64, as many as there are names.
/// Gives the first with what it asked for, and the others.
fn use_all_names(target: &Target) -> (Initiator, Vec<u32>, Vec<Initiator>) {
    let mut greedy = target.login(&Agreed::session(1));
    let tags = (0..30).map(|_| greedy.ask(64, HANDED)).collect();
    greedy.ping();
    assert_eq!(handed_up(target), 22, "it leaves as many again to others, and more");
    let others = (2..44).map(|session| {
        let mut other = target.login(&Agreed::session(session));
        other.ask(64, HANDED);
        other.ping();
        other
    });
    let others = others.collect();
    assert_eq!(handed_up(target), 64);
    (greedy, tags, others)
}

#[test]
fn a_shard_goes_on_when_python_has_as_many_commands_as_there_are_names() {
    with_shards(1, &[("tasks_per_shard", 64)], |target, _| {
        let (mut greedy, tags, _others) = use_all_names(target);
        let mut it = target.login(&Agreed::session(99));
        let (first, second) = (it.ask(64, HANDED), it.ask(64, HANDED));
        it.ping();
        let tasks: Vec<u64> = (0..64).map(|_| target.wait_command().0).collect();
        // Task management has names of its own, and for what it names.
        let abort = it.manage(1, second, 2);
        let (function, task, verdict) = target.wait_management();
        assert!(task.is_some() && verdict == "found");
        target.engine.abort(AbortOrder { request: 1, nexus: NEXUS + 99, task, cut: function, ..AbortOrder::default() });
        target.wait_aborted(1);
        target.engine.management_done(function, 0);
        assert_eq!(it.recv().itt(), abort);
        // A name that another gives back is for who has none, not for who has many and has waited longer.
        target.engine.complete(tasks[63], 0, vec![], vec![]);
        let (task, ..) = target.wait_command();
        target.engine.complete(task, 0, b"keys".to_vec(), vec![]);
        assert_eq!(it.answer(first).0, b"keys");
        for task in &tasks[..63] {
            target.engine.complete(*task, 0, vec![], vec![]);
        }
        for tag in &tags[..22] {
            assert_eq!(greedy.answer(*tag).1.status(), 0);
        }
        for tag in &tags[22..] {
            let (task, ..) = target.wait_command();
            target.engine.complete(task, 0, vec![], vec![]);
            assert_eq!(greedy.answer(*tag).1.status(), 0);
        }
    });
}

/// Without a number Python could not say which task is meant, and would abort others with it, or none.
#[test]
fn abort_task_is_rejected_where_there_is_no_name_for_its_task() {
    with_shards(1, &[("tasks_per_shard", 64)], |target, held| {
        let mut it = target.login(&Agreed::session(99));
        let read = it.ask(512, read10(0, 1));
        target.eventually("it is held", |_| held.count() == 1);
        // 64 and a quarter more, but for the last.
        let mut functions = Vec::new();
        let mut others: Vec<Initiator> = (1..6).map(|session| target.login(&Agreed::session(session))).collect();
        for at in 0..79 {
            others[at % 5].manage(1, 0x7fff, 0);
            functions.push(target.wait_management());
        }
        assert!(functions.iter().all(|(_, task, verdict)| task.is_none() && *verdict == "gone"));
        let abort = it.manage(1, read, 1);
        let rejected = it.recv();
        assert_eq!((rejected.itt(), rejected.bhs[2]), (abort, 255));
        // When one has been answered there are two.
        target.engine.management_done(functions[0].0, 1);
        assert_eq!(others[0].recv().bhs[2], 1);
        it.manage(1, read, 1);
        let (function, task, verdict) = target.wait_management();
        assert!(task.is_some() && verdict == "found");
        target.engine.management_done(function, 255);
        it.recv();
        held.finish(Ok(()));
        assert_eq!(it.answer(read).1.status(), 0);
    });
}
