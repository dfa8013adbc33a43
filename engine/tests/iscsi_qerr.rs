//! QERR: what else a nexus has when one of its commands fails (SPC-4 7.5.8).

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
const BEYOND: u32 = 0x00ff_ffff;

fn with_qerr(qerr: u8, test: impl Fn(&Target, &Arc<Held>)) {
    for path in paths() {
        let held = Held::new(64 * MIB);
        let target = Target::start(path, &[], 2, |engine| {
            let volume = held.volume(engine);
            let plain = scsi_gate(2, 64 * MIB);
            let scsi = ScsiGate { qerr, ..plain.scsi.as_deref().unwrap().clone() };
            engine.swap_gate(volume, Gate { scsi: Some(Arc::new(scsi)), ..plain }).unwrap();
            volume
        });
        test(&target, &held);
        held.finish(Err(libc::EIO));
    }
}

/// A READ that the back end has, a WRITE that waits for its data, a command that Python has.
struct Others {
    read: u32,
    write: u32,
    ttt: u32,
    task: u64,
    handed: u32,
}

fn start_others(target: &Target, held: &Held, it: &mut Initiator) -> Others {
    let before = held.count();
    let read = it.ask(512, read10(0, 1));
    target.eventually("it is held", |_| held.count() == before + 1);
    let handed = it.ask(64, HANDED);
    let (task, ..) = target.wait_command();
    let bhs = it.command(0xa1, 512, write10(8, 1));
    it.send(bhs, &[]);
    let r2t = it.recv();
    assert_eq!(r2t.opcode(), 0x31);
    Others { read, write: r2t.itt(), ttt: r2t.word(20), task, handed }
}

fn fail(it: &mut Initiator) {
    let tag = it.ask(512, read10(BEYOND, 1));
    let (_, last) = it.answer(tag);
    assert_eq!(last.sense(), (5, 0x21, 0));
}

#[test]
fn zero_leaves_them_alone() {
    with_qerr(0, |target, held| {
        let mut it = target.login(&Agreed::session(1));
        let others = start_others(target, held, &mut it);
        fail(&mut it);
        held.finish(Ok(()));
        assert_eq!(it.answer(others.read).1.status(), 0);
        target.engine.complete(others.task, 0, vec![], vec![]);
        assert_eq!(it.answer(others.handed).1.status(), 0);
        assert!(target.engine.tasks().iter().any(|task| task.phase == "collecting"));
        assert!(others.write > 0);
    });
}

fn aborts_those_of_the_nexus(qerr: u8) {
    with_qerr(qerr, |target, held| {
        let mut it = target.login(&Agreed::session(1));
        let mut other = target.login(&Agreed::session(2));
        let mine = start_others(target, held, &mut it);
        let theirs = other.ask(512, read10(16, 1));
        target.eventually("both are held", |_| held.count() == 2);
        fail(&mut it);
        // Python is, which may have begun what it has.
        target.wait_event(|event| *event == Event::Abandoned { volume: target.volume });
        // The initiator is not told of them: not when the back end is done, not by Python, not when data comes.
        held.finish(Ok(()));
        target.engine.complete(mine.task, 0, b"keys".to_vec(), vec![]);
        it.data_out(mine.write, mine.ttt, 0, 0, true, &[1; 512]);
        it.ping();
        assert!(it.is_silent());
        target.eventually("nothing is left", |engine| engine.tasks().is_empty());
        assert_eq!(held.count(), 0, "the WRITE was not begun");
        assert_eq!(other.answer(theirs).1.status(), 0, "TST=001b: another nexus has another task set");
        // What comes after is not affected.
        let tag = it.ask(0, [0; 16]);
        assert_eq!(it.answer(tag).1.status(), 0);
    });
}

#[test]
fn one_aborts_the_task_set() {
    aborts_those_of_the_nexus(1);
}

#[test]
fn three_aborts_those_of_the_nexus() {
    aborts_those_of_the_nexus(3);
}

#[test]
fn a_check_condition_of_pythons_counts_as_well_and_other_statuses_do_not() {
    with_qerr(1, |target, held| {
        let mut it = target.login(&Agreed::session(1));
        let others = start_others(target, held, &mut it);
        let conflict = it.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        target.engine.complete(task, 0x18, vec![], vec![]);
        assert_eq!(it.answer(conflict).1.status(), 0x18);
        assert_eq!(target.engine.tasks().len(), 3);
        target.engine.complete(others.task, 2, vec![], vec![0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x26, 0]);
        assert_eq!(it.answer(others.handed).1.sense(), (5, 0x26, 0));
        held.finish(Ok(()));
        it.ping();
        assert!(it.is_silent());
    });
}

/// Python has it still when its tag stands for another command.
#[test]
fn an_abort_says_nothing_of_a_command_that_was_over() {
    with_qerr(1, |target, held| {
        let mut it = target.login(&Agreed::session(1));
        let over = it.ask(64, HANDED);
        target.wait_command();
        fail(&mut it);
        let mut write = it.command(0xa1, 512, write10(8, 1));
        put(&mut write, 16, over);
        it.send(write, &[]);
        assert_eq!((it.recv().itt(), held.count()), (over, 0), "R2T");
        let mut requests = 1..;
        let mut abort = |order: AbortOrder| {
            let request = requests.next().unwrap();
            target.engine.abort(AbortOrder { request, status: Some(0x40), ..order });
            target.wait_aborted(request);
        };
        let is_up = || target.engine.tasks().iter().any(|task| task.phase == "handed-up");
        // What Python has of others is not this.
        abort(AbortOrder { volume: target.volume + 1, ..AbortOrder::default() });
        abort(AbortOrder { volume: target.volume, nexus: NEXUS + 2, ..AbortOrder::default() });
        it.ping();
        assert!(it.is_silent() && is_up());
        // And where it is, the one that has the tag is answered, once.
        abort(AbortOrder { volume: target.volume, ..AbortOrder::default() });
        assert_eq!(it.answer(over).1.status(), 0x40, "TASK ABORTED");
        it.ping();
        assert!(it.is_silent() && !is_up());
    });
}
