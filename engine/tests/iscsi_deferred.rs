//! SYNCHRONIZE CACHE with IMMED: answered before it is done, and what becomes of its error.

mod support;

use _engine::shard::engine::AbortOrder;
use _engine::shard::events::Event;
use support::iscsi::*;
use support::*;

const TEST_UNIT_READY: [u8; 16] = [0; 16];
/// CAPACITY DATA HAS CHANGED.
const CAPACITY: u64 = 1 << 12;

/// SYNCHRONIZE CACHE(10) or (16) of the whole unit, with IMMED (SBC-3 5.26, 5.27).
fn sync(opcode: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (opcode, 0x02);
    cdb
}

/// Asks for what brings no data; its answer.
fn ask(it: &mut Initiator, cdb: [u8; 16]) -> Pdu {
    let tag = it.ask(0, cdb);
    it.answer(tag).1
}

/// An immediate flush, that is answered at once, and fails.
fn fail_one(target: &Target, held: &Held, it: &mut Initiator, opcode: u8) {
    assert_eq!(ask(it, sync(opcode)).status(), 0);
    target.eventually("it is under way", |_| held.count() == 1);
    held.finish(Err(libc::EIO));
    target.eventually("it has ended", |engine| engine.tasks().is_empty());
}

#[test]
fn the_next_command_tells_that_an_immediate_flush_has_failed() {
    with_limits(&[], |target, held| {
        let mut it = target.login(&Agreed::session(1));
        let mut other = target.login(&Agreed::session(2));
        for opcode in [0x35, 0x91] {
            fail_one(target, held, &mut it, opcode);
            assert_eq!(ask(&mut other, TEST_UNIT_READY).status(), 0, "it is none of this nexus's");
            let told = ask(&mut it, TEST_UNIT_READY);
            assert_eq!(told.status(), 2);
            // Deferred, fixed format; MEDIUM ERROR, WRITE ERROR (SPC-4 4.5.5).
            assert_eq!((told.data[2], told.data[4], &told.data[14..16]), (0x71, 3, &[0x0c, 0][..]));
            assert_eq!(ask(&mut it, TEST_UNIT_READY).status(), 0, "once");
        }
    });
}

/// SPC-4 6.39: unit attentions first.
#[test]
fn request_sense_returns_the_error_of_an_immediate_flush() {
    with_limits(&[], |target, held| {
        let mut it = target.login(&Agreed::session(1));
        fail_one(target, held, &mut it, 0x35);
        target.engine.attend(1, None, CAPACITY);
        // Descriptor format is asked for.
        let request_sense = [3, 1, 0, 0, 252, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for expected in [[0x72, 6, 0x2a, 0x09], [0x73, 3, 0x0c, 0]] {
            let tag = it.ask(252, request_sense);
            assert_eq!(it.answer(tag).0[..4], expected);
        }
        assert_eq!(ask(&mut it, TEST_UNIT_READY).status(), 0);
    });
}

/// However many are asked for, the shard has one of them for a nexus, and its room is the others'.
#[test]
fn who_asks_again_before_an_immediate_flush_is_done_is_answered_when_that_one_is() {
    with_limits(&[], |target, held| {
        let mut it = target.login(&Agreed::session(1));
        assert_eq!(ask(&mut it, sync(0x35)).status(), 0);
        let second = it.ask(0, sync(0x35));
        target.eventually("both are under way", |_| held.count() == 2);
        assert_eq!(ask(&mut it, TEST_UNIT_READY).status(), 0, "it is answered first");
        held.finish_first(Ok(()));
        held.finish_first(Err(libc::EIO));
        assert_eq!(it.answer(second).1.sense(), (3, 0x0c, 0), "a current error");
        assert_eq!(ask(&mut it, sync(0x35)).status(), 0);
        target.eventually("another one goes on by itself", |_| held.count() == 1);
    });
}

/// Like what the disk has of any command that is to be aborted.
#[test]
fn a_reset_waits_for_an_immediate_flush() {
    with_limits(&[], |target, held| {
        let mut it = target.login(&Agreed::session(1));
        assert_eq!(ask(&mut it, sync(0x35)).status(), 0);
        target.eventually("it is under way", |_| held.count() == 1);
        target.engine.abort(AbortOrder { request: 7, volume: target.volume, ..AbortOrder::default() });
        target.engine.sessions();
        assert!(!target.has_event(|event| *event == Event::Aborted { request: 7 }), "its fate is not known");
        held.finish(Ok(()));
        target.wait_aborted(7);
    });
}
