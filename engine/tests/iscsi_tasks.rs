//! iSCSI: who may run when, what Python does with commands, and how they are aborted.

mod support;

use std::sync::Arc;

use _engine::block::gate::{Gate, Situation};
use _engine::shard::engine::{AbortOrder, Engine, LunMapSpec};
use _engine::shard::events::Event;
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;
/// A command that is always Python's: PERSISTENT RESERVE IN, READ KEYS.
const HANDED: [u8; 16] = [0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0];

fn on_all(test: impl Fn(&Target, &Arc<Held>)) {
    for path in paths() {
        let held = Held::new(64 * MIB);
        let target = Target::start(path, &[], 2, |engine| {
            let volume = held.volume(engine);
            engine.swap_gate(volume, scsi_gate(2, 64 * MIB)).unwrap();
            volume
        });
        test(&target, &held);
        held.finish(Err(libc::EIO));
    }
}

fn itt(bhs: [u8; 48]) -> u32 {
    u32::from_be_bytes(bhs[16..20].try_into().unwrap())
}

fn expect(it: &mut Initiator, tag: u32, opcode: u8) -> Pdu {
    let pdu = it.recv();
    assert_eq!((pdu.itt(), pdu.opcode()), (tag, opcode), "{pdu:?}");
    pdu
}

#[test]
fn what_python_has_is_answered_by_it_once() {
    on_all(|target, _| {
        let mut it = target.login(&Agreed::session(1));
        let tag = it.ask(64, HANDED);
        let (task, cdb, data) = target.wait_command();
        assert_eq!((&cdb[..], data.len()), (&HANDED[..], 0));
        assert_eq!(target.engine.tasks()[0].phase, "handed-up");
        target.engine.complete(task, 0, b"keys".to_vec(), vec![]);
        let (data, last) = it.answer(tag);
        assert_eq!((&data[..], last.bhs[1] & 6, last.word(44)), (&b"keys"[..], 2, 60));
        let late = |engine: &_engine::shard::engine::Engine| {
            engine.counters().0.iter().map(|it| it.late_completions).sum::<u64>()
        };
        assert_eq!(late(&target.engine), 0);
        target.engine.complete(task, 0, b"again".to_vec(), vec![]);
        target.eventually("the late one is counted", |engine| late(engine) == 1);
        it.ping();
        // With sense, and data that comes with a command.
        let mut out = [0; 16];
        (out[0], out[8]) = (0x5f, 24);
        let bhs = it.command(0xa1, 24, out);
        it.send(bhs, &[3; 24]);
        let (task, _, data) = target.wait_command();
        assert_eq!(data, [3; 24]);
        target.engine.complete(task, 2, vec![], vec![0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x26, 0]);
        let pdu = expect(&mut it, itt(bhs), 0x21);
        assert_eq!((pdu.status(), pdu.data[..2].to_vec(), pdu.sense()), (2, vec![0, 14], (5, 0x26, 0)));
    });
}

#[test]
fn a_resumed_command_passes_the_gate_again() {
    on_all(|target, _| {
        let mut it = target.login(&Agreed::session(1));
        let tag = it.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        target.engine.resume(task);
        let (again, ..) = target.wait_command();
        assert_ne!(again, task);
        target.engine.attend(1, None, 1 << 12);
        target.engine.resume(again);
        let pdu = expect(&mut it, tag, 0x21);
        assert_eq!(pdu.sense(), (6, 0x2a, 0x09), "CAPACITY DATA HAS CHANGED");
    });
}

/// WRITE(10) and WRITE SAME(10) of eight blocks of the same data, and how much data each has.
const WRITES: [(u8, usize); 2] = [(0x2a, 4096), (0x41, 512)];
/// THIN PROVISIONING SOFT THRESHOLD REACHED.
const THRESHOLD: u64 = 1 << 17;

/// Begins a write, and lets it find no room; its tag.
fn write_without_room(target: &Target, held: &Held, it: &mut Initiator, (opcode, len): (u8, usize)) -> u32 {
    let mut cdb = write10(0, 8);
    cdb[0] = opcode;
    let bhs = it.command(0xa1, len as u32, cdb);
    it.send(bhs, &vec![1; len]);
    target.eventually("it is being written", |_| held.count() == 1);
    held.finish(Err(libc::ENOSPC));
    itt(bhs)
}

fn wait_no_room(target: &Target) -> u64 {
    let Event::Command(command) = target.wait_event(|event| matches!(event, Event::Command(_))) else { unreachable!() };
    assert!(command.no_room);
    command.task
}

/// SBC-3 4.7.3: the attention for the threshold comes before DATA PROTECT, at the nexus that wrote, too.
#[test]
fn a_write_without_room_ends_when_its_initiator_has_been_warned() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        for what in WRITES {
            for (attentions, sense) in [(THRESHOLD, (6, 0x38, 0x07)), (0, (7, 0x27, 0x07))] {
                let tag = write_without_room(target, held, &mut it, what);
                let task = wait_no_room(target);
                assert_eq!(target.engine.tasks()[0].phase, "handed-up");
                target.engine.attend(1, None, attentions);
                target.engine.resume(task);
                assert_eq!(expect(&mut it, tag, 0x21).sense(), sense);
            }
        }
        let tag = it.ask(0, [0; 16]);
        assert_eq!(expect(&mut it, tag, 0x21).status(), 0, "it was told once");
    });
}

#[test]
fn python_is_not_asked_where_it_has_nothing_to_say() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        let bhs = it.command(0xa1, 512, write10(0, 1));
        it.send(bhs, &[1; 512]);
        target.eventually("it is being written", |_| held.count() == 1);
        target.engine.attend(1, None, THRESHOLD);
        held.finish(Err(libc::ENOSPC));
        assert_eq!(expect(&mut it, itt(bhs), 0x21).sense(), (6, 0x38, 0x07), "the attention is pending already");
        let mut gate = scsi_gate(3, 64 * MIB);
        Arc::make_mut(gate.scsi.as_mut().unwrap()).needs_met = 0;
        target.engine.swap_gate(target.volume, gate).unwrap();
        let tag = write_without_room(target, held, &mut it, WRITES[0]);
        assert_eq!(expect(&mut it, tag, 0x21).sense(), (7, 0x27, 0x07), "a fully provisioned unit has no threshold");
        assert!(!target.has_event(|event| matches!(event, Event::Command(_))));
    });
}

#[test]
fn a_write_without_room_whose_initiator_is_gone_is_forgotten() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        write_without_room(target, held, &mut it, WRITES[0]);
        let task = wait_no_room(target);
        drop(it);
        target.wait_lost();
        target.engine.resume(task);
        target.eventually("nothing is left", |engine| engine.tasks().is_empty());
    });
}

#[test]
fn unit_attentions_are_told_once_and_to_the_right_commands() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        // One that is admitted already is not affected.
        let before = it.ask(512, read10(0, 1));
        target.eventually("it is held", |_| held.count() == 1);
        target.engine.attend(1, Some(LUN_1), 1 << 3 | 1 << 12);
        held.finish(Ok(()));
        assert_eq!(it.answer(before).1.status(), 0);
        let mut inquiry = [0; 16];
        (inquiry[0], inquiry[4]) = (0x12, 36);
        let tag = it.ask(36, inquiry);
        assert_eq!(it.answer(tag).1.status(), 0, "INQUIRY does not care");
        let tag = it.ask(512, read10(0, 1));
        assert_eq!(it.answer(tag).1.sense(), (6, 0x29, 0x07), "the lowest bit first");
        // REQUEST SENSE has the other as its data.
        let mut sense = [0; 16];
        (sense[0], sense[4]) = (0x03, 252);
        let tag = it.ask(252, sense);
        let (data, _) = it.answer(tag);
        assert_eq!((data[2] & 0xf, data[12], data[13]), (6, 0x2a, 0x09));
        let tag = it.ask(0, [0; 16]);
        assert_eq!(it.answer(tag).1.status(), 0);
    });
}

/// The LUN map is asked again, like the gate, when a command is given to the volume.
#[test]
fn a_write_that_waits_for_data_meets_a_mapping_that_became_read_only() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        let bhs = it.command(0xa1, 512, write10(0, 1));
        it.send(bhs, &[]);
        let r2t = expect(&mut it, itt(bhs), 0x31);
        target.engine.attend(1, None, 1 << 12);
        let read_only = LunMapSpec { luns: vec![(LUN_1, target.volume, true)], ..LunMapSpec::default() };
        target.engine.set_luns(1, read_only).unwrap();
        it.data_out(itt(bhs), r2t.word(20), 0, 0, true, &[1; 512]);
        assert_eq!(expect(&mut it, itt(bhs), 0x21).sense(), (7, 0x27, 0), "WRITE PROTECTED");
        assert_eq!(held.count(), 0);
        let tag = it.ask(512, read10(0, 1));
        assert_eq!(it.answer(tag).1.sense(), (6, 0x2a, 0x09), "what was to be told still is");
    });
}

/// SPC-4 6.33: who has been told the LUNs need not be told that they have changed; of the rest he is.
#[test]
fn report_luns_takes_its_own_attention_away() {
    on_all(|target, _| {
        let mut it = target.login(&Agreed::session(1));
        let mut report = [0; 16];
        (report[0], report[9]) = (0xa0, 64);
        for status in [2, 0] {
            target.engine.attend(1, None, 1 << 12 | 1 << 16);
            let tag = it.ask(64, report);
            let (task, ..) = target.wait_command();
            target.engine.complete(task, status, vec![], vec![]);
            assert_eq!(it.answer(tag).1.status(), status);
            let mut told = Vec::new();
            for _ in 0..3 {
                let tag = it.ask(0, [0; 16]);
                let (_, pdu) = it.answer(tag);
                if pdu.status() == 2 {
                    told.push(pdu.sense());
                }
            }
            let refused = (status != 0).then_some((6, 0x3f, 0x0e));
            assert_eq!(told, [Some((6, 0x2a, 0x09)), refused].into_iter().flatten().collect::<Vec<_>>());
        }
    });
}

/// SAM-5 5.3.3: a reset is told first, then the conflict, then whatever else is to be told.
#[test]
fn a_conflict_goes_before_all_attentions_but_those_of_resets() {
    on_all(|target, _| {
        let mut it = target.login(&Agreed::session(1));
        let other = Gate { default_access: Situation::ExclusiveAccessOther, ..scsi_gate(3, 64 * MIB) };
        target.engine.swap_gate(target.volume, other).unwrap();
        target.engine.attend(1, None, 1 << 2 | 1 << 3 | 1 << 12);
        let mut status = |cdb| {
            let tag = it.ask(512, cdb);
            let (_, pdu) = it.answer(tag);
            (pdu.status(), if pdu.status() == 2 { pdu.sense() } else { (0, 0, 0) })
        };
        assert_eq!(status(read10(0, 1)), (2, (6, 0x29, 0x03)), "LOGICAL UNIT RESET");
        assert_eq!(status(read10(0, 1)), (2, (6, 0x29, 0x07)), "I_T NEXUS LOSS");
        assert_eq!(status(read10(0, 1)), (0x18, (0, 0, 0)));
        assert_eq!(status(read10(0, 1)), (0x18, (0, 0, 0)));
        // No conflict for TEST UNIT READY; and a command that nobody knows is none either.
        target.engine.attend(1, None, 1 << 5);
        assert_eq!(status([0; 16]), (2, (6, 0x2a, 0x01)), "MODE PARAMETERS CHANGED");
        assert_eq!(status([0xff; 16]), (2, (6, 0x2a, 0x09)), "CAPACITY DATA HAS CHANGED");
        assert_eq!(status([0xff; 16]), (2, (5, 0x20, 0x00)));
    });
}

#[test]
fn a_conflict_is_a_status_on_arrival_and_later() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        let bhs = it.command(0xa1, 1024, write10(0, 2));
        it.send(bhs, &[]);
        let r2t = expect(&mut it, itt(bhs), 0x31);
        let other = Gate { default_access: Situation::WriteExclusiveOther, ..scsi_gate(3, 64 * MIB) };
        target.engine.swap_gate(target.volume, other).unwrap();
        // The data of one that was admitted before comes after: it is not written.
        it.data_out(itt(bhs), r2t.word(20), 0, 0, true, &[1; 1024]);
        let pdu = expect(&mut it, itt(bhs), 0x21);
        assert_eq!((pdu.status(), held.count()), (0x18, 0));
        let tag = it.ask(512, read10(0, 1));
        target.eventually("reads are let in", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(it.answer(tag).1.status(), 0);
        assert_eq!(it.write(0, &[1; 512], 512).status(), 0x18);
    });
}

#[test]
fn an_ordered_task_is_a_barrier_and_head_of_queue_goes_first() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        let handed = it.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        let ordered = it.command(0xc2, 512, read10(8, 1));
        it.send(ordered, &[]);
        let simple = it.ask(512, read10(16, 1));
        let head = it.command(0xc3, 512, read10(24, 1));
        it.send(head, &[]);
        target.eventually("the head runs", |_| held.count() == 1);
        target
            .eventually("two wait", |engine| engine.tasks().iter().filter(|task| task.phase == "ordered").count() == 2);
        held.finish(Ok(()));
        assert_eq!(it.answer(itt(head)).1.status(), 0);
        assert!(it.is_silent());
        target.engine.complete(task, 0, vec![], vec![]);
        assert_eq!(it.answer(handed).1.status(), 0);
        target.eventually("then the ordered one", |_| held.count() == 1);
        assert!(it.is_silent());
        held.finish(Ok(()));
        assert_eq!(it.answer(itt(ordered)).1.status(), 0);
        target.eventually("then the simple one", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(it.answer(simple).1.status(), 0);
    });
}

#[test]
fn a_reset_reaches_a_victim_that_stalls_in_r2t() {
    on_all(|target, held| {
        let mut victim = target.login(&Agreed::session(1));
        let mut it = target.login(&Agreed::session(2));
        let stalled = victim.command(0xa1, 1024, write10(0, 2));
        victim.send(stalled, &[]);
        let r2t = expect(&mut victim, itt(stalled), 0x31);
        let submitted = victim.ask(512, read10(0, 1));
        target.eventually("one is in the back end", |_| held.count() == 1);

        let reset = it.manage(5, 0xffff_ffff, 0);
        let (function, ..) = target.wait_management();
        // Newcomers are held, on every session of the unit: its shard has told the others by its next answer,
        // and they have heard of it by theirs.
        target.engine.tasks();
        target.engine.tasks();
        let late = it.ask(512, read10(8, 1));
        let late_victim = victim.ask(512, read10(9, 1));
        target.eventually("newcomers are held", |engine| {
            engine.tasks().iter().filter(|task| task.phase == "held").count() >= 2
        });
        target.engine.abort(AbortOrder { request: 7, volume: target.volume, cut: function, ..AbortOrder::default() });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!target.has_event(|event| *event == Event::Aborted { request: 7 }), "the back end's fate is not known");
        assert_eq!(held.count(), 1);
        held.finish(Ok(()));
        target.wait_aborted(7);
        target.engine.management_done(function, 0);
        assert_eq!(expect(&mut it, reset, 0x22).bhs[2], 0);
        target.eventually("newcomers run", |_| held.count() == 2);
        held.finish(Ok(()));
        assert_eq!(it.answer(late).1.status(), 0);
        // The aborted ones are silent; the victim's late data is no error.
        victim.data_out(itt(stalled), r2t.word(20), 0, 0, true, &[1; 1024]);
        assert_eq!(victim.answer(late_victim).1.status(), 0);
        victim.ping();
        let _ = submitted;
        assert!(victim.is_silent());
    });
}

#[test]
fn a_reset_of_the_target_lets_go_unit_by_unit() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        let mut other = target.login(&Agreed::session(2));
        let reset = it.manage(6, 0xffff_ffff, 0);
        let (function, ..) = target.wait_management();
        // Every shard has heard of it by its next answer but one.
        target.engine.tasks();
        target.engine.tasks();
        let read = other.ask(512, read10(8, 1));
        let mut unmapped = other.command(0xc1, 64, HANDED);
        unmapped[8..16].copy_from_slice(&9_u64.to_be_bytes());
        other.send(unmapped, &[]);
        let are_held =
            |count| move |engine: &Engine| engine.tasks().iter().filter(|task| task.phase == "held").count() == count;
        target.eventually("both are held", are_held(2));
        target.engine.unit_done(function, target.volume);
        target.eventually("that of the unit runs", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(other.answer(read).1.status(), 0);
        target.eventually("the other is held", are_held(1));
        target.engine.unit_done(function, 0);
        assert_eq!(other.answer(itt(unmapped)).1.sense(), (5, 0x25, 0));
        assert!(it.is_silent(), "the function is not over");
        target.engine.management_done(function, 0);
        assert_eq!(expect(&mut it, reset, 0x22).bhs[2], 0);
    });
}

#[test]
fn an_abort_with_a_status_says_task_aborted() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        let submitted = it.ask(512, read10(0, 1));
        let handed = it.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        target.eventually("one is in the back end", |_| held.count() == 1);
        let order = AbortOrder { request: 1, nexus: NEXUS + 1, status: Some(0x40), ..AbortOrder::default() };
        target.engine.abort(order.clone());
        assert_eq!(expect(&mut it, handed, 0x21).status(), 0x40);
        target.engine.sessions();
        held.finish(Ok(()));
        assert_eq!(expect(&mut it, submitted, 0x21).status(), 0x40);
        target.wait_aborted(1);
        target.engine.complete(task, 0, vec![], vec![]);
        it.ping();
        // The one that asks is left alone.
        let asks = it.ask(64, HANDED);
        let (asking, ..) = target.wait_command();
        let other = it.ask(64, HANDED);
        target.wait_command();
        target.engine.abort(AbortOrder { request: 2, except_task: asking, ..order });
        target.wait_aborted(2);
        assert_eq!(expect(&mut it, other, 0x21).status(), 0x40);
        target.engine.complete(asking, 0, vec![], vec![]);
        assert_eq!(expect(&mut it, asks, 0x21).status(), 0);
    });
}

/// Python may refuse it. What its task had waited for has come meanwhile, and does not come again.
#[test]
fn a_task_that_abort_task_has_stopped_goes_on_when_it_is_not_aborted() {
    on_all(|target, held| {
        let (mut it, mut other) = (target.login(&Agreed::session(1)), target.login(&Agreed::session(2)));
        let before = other.command(0xa1, 512, write10(0, 1));
        other.send(before, &[1; 512]);
        target.eventually("it has the blocks", |_| held.count() == 1);
        let named = it.command(0xa1, 512, write10(0, 1));
        it.send(named, &[2; 512]);
        target.eventually("the other one waits for them", |engine| {
            engine.tasks().iter().any(|task| task.phase == "waiting-range")
        });
        let abort = it.manage(1, itt(named), it.cmd_sn - 1);
        let (function, ..) = target.wait_management();
        held.finish(Ok(()));
        assert_eq!(expect(&mut other, itt(before), 0x21).status(), 0);
        target.eventually("it has them, and is stopped", |engine| {
            engine.tasks().iter().all(|task| task.phase != "waiting-range")
        });
        assert_eq!(held.count(), 0);
        target.engine.management_done(function, 255);
        assert_eq!(expect(&mut it, abort, 0x22).bhs[2], 255);
        target.eventually("it goes on", |_| held.finish(Ok(())) == 1);
        assert_eq!(expect(&mut it, itt(named), 0x21).status(), 0);
    });
}

#[test]
fn abort_task_has_three_verdicts() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        let done = |target: &Target, it: &mut Initiator, tag, response| {
            let (task, referenced, verdict) = target.wait_management();
            if referenced.is_some() {
                target.engine.abort(AbortOrder { request: 5, task: referenced, ..AbortOrder::default() });
                // Its shard must have heard of that before.
                target.engine.sessions();
                held.finish(Ok(()));
                target.wait_aborted(5);
            }
            target.engine.management_done(task, response);
            assert_eq!(expect(it, tag, 0x22).bhs[2], response);
            verdict
        };
        let victim = it.ask(512, read10(0, 1));
        target.eventually("it is in the back end", |_| held.count() == 1);
        let sn = it.cmd_sn - 1;
        let tag = it.manage(1, victim, sn);
        assert_eq!(done(target, &mut it, tag, 0), "found");
        assert!(it.is_silent(), "the aborted command has no answer");
        let tag = it.manage(1, victim, sn);
        assert_eq!(done(target, &mut it, tag, 1), "gone");
        // A command that is still on its way: its number is used up, and it never runs.
        let lost = it.command(0xc1, 512, read10(0, 1));
        let tag = it.manage(1, itt(lost), it.cmd_sn - 1);
        assert_eq!(done(target, &mut it, tag, 0), "not_received");
        it.send(lost, &[]);
        let pdu = it.ping();
        assert_eq!(pdu.word(28), it.cmd_sn, "ExpCmdSN");
        assert_eq!(held.count(), 0);
        // The engine's own answers: CLEAR ACA, TASK REASSIGN, no such function, no such LUN.
        for (function, response) in [(3, 5), (8, 4), (9, 5)] {
            let tag = it.manage(function, 0xffff_ffff, 0);
            assert_eq!(expect(&mut it, tag, 0x22).bhs[2], response);
        }
        let tag = it.itt();
        let mut bhs = head(0x42, 0x85, tag);
        put(&mut bhs, 8, 0x0009_0000);
        put(&mut bhs, 24, it.cmd_sn);
        it.send(bhs, &[]);
        assert_eq!(expect(&mut it, tag, 0x22).bhs[2], 2);
    });
}

#[test]
fn a_lost_session_leaves_the_back_end_what_it_has_and_nothing_else() {
    on_all(|target, held| {
        let mut it = target.login(&Agreed::session(1));
        let stalled = it.command(0xa1, 1024, write10(0, 2));
        it.send(stalled, &[]);
        expect(&mut it, itt(stalled), 0x31);
        it.ask(512, read10(0, 1));
        it.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        target.eventually("it is in the back end", |_| held.count() == 1);
        drop(it);
        target.wait_lost();
        target.wait_event(|event| *event == Event::SessionEnded { session: 1 });
        target.engine.complete(task, 0, vec![], vec![]);
        target.engine.abort(AbortOrder { request: 3, nexus: NEXUS + 1, ..AbortOrder::default() });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!target.has_event(|event| *event == Event::Aborted { request: 3 }));
        held.finish(Ok(()));
        target.wait_aborted(3);
        target.eventually("nothing is left", |engine| engine.tasks().is_empty());
    });
}

#[test]
fn two_connections_of_a_session_share_its_numbers() {
    on_all(|target, held| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        let sessions = target.engine.sessions();
        assert_eq!(sessions.iter().map(|it| it.session).collect::<Vec<_>>(), [1, 1]);
        // The second command comes first, on the other connection: it waits for the first.
        let first = one.command(0xc1, 512, read10(0, 1));
        two.cmd_sn = one.cmd_sn;
        let second = two.command(0xc1, 512, read10(8, 1));
        two.send(second, &[]);
        two.ping();
        assert_eq!(held.count(), 0);
        one.send(first, &[]);
        target.eventually("both run", |_| held.count() == 2);
        held.finish(Ok(()));
        assert_eq!(one.answer(itt(first)).1.status(), 0);
        assert_eq!(two.answer(itt(second)).1.status(), 0);
        // A logout of one leaves the other; a loss takes both.
        let tag = two.itt();
        let mut bhs = head(0x46, 0x81, tag);
        put(&mut bhs, 20, 1 << 16);
        put(&mut bhs, 24, two.cmd_sn);
        two.send(bhs, &[]);
        let (conn, closes) = target.wait_logout();
        target.engine.logout_done(conn, closes);
        assert_eq!(expect(&mut two, tag, 0x26).bhs[2], 0);
        assert!(two.is_closed());
        drop(two);
        target.wait_lost();
        one.ping();
        let mut two = target.login(&Agreed { joins: true, cid: 2, ..Agreed::session(1) });
        two.ping();
        drop(one);
        assert!(two.is_closed());
        drop(two);
        target.wait_event(|event| *event == Event::SessionEnded { session: 1 });
    });
}

#[test]
fn a_function_for_many_tasks_waits_for_the_commands_before_it() {
    on_all(|target, held| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        let is_management = |event: &Event| matches!(event, Event::TaskManagement(_));
        for function in [2, 4, 5] {
            // It overtakes a WRITE, which comes on the other connection.
            let before = one.command(0xa1, 512, write10(0, 1));
            let tag = one.manage(function, 0xffff_ffff, 0);
            one.ping();
            assert!(!target.has_event(is_management), "function {function}");
            two.send(before, &[1; 512]);
            let (task, ..) = target.wait_management();
            let order = AbortOrder { request: 1, volume: target.volume, cut: task, ..AbortOrder::default() };
            target.engine.abort(order);
            target.wait_aborted(1);
            target.engine.management_done(task, 0);
            assert_eq!(expect(&mut one, tag, 0x22).bhs[2], 0);
            // The aborted one has no answer, and is not carried out after that.
            two.cmd_sn = one.cmd_sn;
            two.ping();
            assert_eq!(held.count(), 0);
        }
        // Behind a command for which there is no window it would wait for ever.
        one.cmd_sn += 5000;
        let tag = one.manage(5, 0xffff_ffff, 0);
        assert_eq!(expect(&mut one, tag, 0x22).bhs[2], 255, "function rejected");
    });
}

#[test]
fn a_function_for_many_tasks_leaves_those_behind_it_alone() {
    on_all(|target, held| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        // The command behind the function comes first, on the other connection, and another waits for data.
        let before = one.command(0xa1, 1024, write10(0, 2));
        two.cmd_sn = one.cmd_sn;
        let behind = two.command(0xc1, 512, read10(8, 1));
        let stalled = two.command(0xa1, 1024, write10(16, 2));
        two.send(behind, &[]);
        two.send(stalled, &[]);
        one.send(before, &[]);
        expect(&mut one, itt(before), 0x31);
        let r2t = expect(&mut two, itt(stalled), 0x31);
        target.eventually("the READ is in the back end", |_| held.count() == 1);
        let tag = one.manage(2, 0xffff_ffff, 0);
        let (task, ..) = target.wait_management();
        let order = AbortOrder { request: 1, volume: target.volume, cut: task, ..AbortOrder::default() };
        target.engine.abort(order);
        target.wait_aborted(1);
        target.engine.management_done(task, 0);
        assert_eq!(expect(&mut one, tag, 0x22).bhs[2], 0);
        assert_eq!(held.count(), 1);
        held.finish(Ok(()));
        assert_eq!(two.answer(itt(behind)).1.status(), 0);
        two.data_out(itt(stalled), r2t.word(20), 0, 0, true, &[1; 1024]);
        target.eventually("the WRITE is in the back end", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(two.answer(itt(stalled)).1.status(), 0);
        one.cmd_sn = two.cmd_sn;
        one.ping();
    });
}

#[test]
fn late_data_of_all_commands_that_were_aborted_is_no_error() {
    on_all(|target, _| {
        let mut agreed = Agreed { queue_depth: 256, ..Agreed::session(1) };
        agreed.terms.immediate_data = false;
        let mut it = target.login(&agreed);
        let r2ts: Vec<Pdu> = (0..200)
            .map(|lba| {
                let bhs = it.command(0xa1, 512, write10(lba, 1));
                it.send(bhs, &[]);
                it.recv()
            })
            .collect();
        target.engine.abort(AbortOrder { request: 1, nexus: NEXUS + 1, ..AbortOrder::default() });
        target.wait_aborted(1);
        for r2t in r2ts {
            assert_eq!(r2t.opcode(), 0x31);
            it.data_out(r2t.itt(), r2t.word(20), 0, 0, true, &[1; 512]);
        }
        it.ping();
    });
}
