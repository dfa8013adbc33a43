//! Sessions of several connections: whose turn it is, what a logout and a reinstatement leave behind; and what
//! none of that may cost anybody else.

mod support;

use std::sync::Arc;

use _engine::shard::events::Event;
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;

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

fn itt(bhs: [u8; 48]) -> u32 {
    u32::from_be_bytes(bhs[16..20].try_into().unwrap())
}

fn buffer_bytes(target: &Target) -> u64 {
    target.engine.counters().0.iter().map(|shard| shard.buffer_bytes).sum()
}

/// A Logout Request, immediate; gives its tag.
fn log_out(it: &mut Initiator, reason: u8, cid: u16) -> u32 {
    let tag = it.itt();
    let mut bhs = head(0x46, 0x80 | reason, tag);
    put(&mut bhs, 20, u32::from(cid) << 16);
    put(&mut bhs, 24, it.cmd_sn);
    it.send(bhs, &[]);
    tag
}

#[test]
fn a_duplicate_that_comes_before_its_turn_costs_nothing() {
    with_limits(&[("shard_kept_bytes", 0)], |target, held| {
        let before = buffer_bytes(target);
        let mut it = target.login(&Agreed::session(1));
        it.ping();
        let first = it.command(0x81, 0, [0; 16]);
        let waits = it.command(0xa1, 512, write10(0, 1));
        it.send(waits, &[1; 512]);
        for _ in 0..3 {
            let mut again = waits;
            let tag = it.itt();
            put(&mut again, 16, tag);
            it.send(again, &[2; 512]);
        }
        it.ping();
        assert_eq!(held.count(), 0);
        it.send(first, &[]);
        assert_eq!(it.answer(itt(first)).1.status(), 0);
        target.eventually("the one that was there first runs", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(it.answer(itt(waits)).1.status(), 0);
        let pdu = it.ping();
        assert_eq!(pdu.word(28), it.cmd_sn, "ExpCmdSN");
        drop(it);
        target.wait_lost();
        target.eventually("all memory is given back", |_| buffer_bytes(target) <= before);
    });
}

#[test]
fn logouts_that_close_nothing_are_not_told_to_python() {
    with_limits(&[], |target, _| {
        let mut it = target.login(&Agreed::session(1));
        let is_logout = |event: &Event| matches!(event, Event::Logout { .. });
        for _ in 0..100 {
            for (reason, cid, response) in [(1, 77, 1), (2, 0, 2)] {
                let tag = log_out(&mut it, reason, cid);
                let pdu = it.recv();
                assert_eq!((pdu.opcode(), pdu.itt(), pdu.bhs[2]), (0x26, tag, response));
            }
        }
        // What closes the session is, and once.
        let tag = log_out(&mut it, 0, 0);
        log_out(&mut it, 0, 0);
        let reject = it.recv();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 4));
        let Event::Logout { conn, session } = target.wait_event(is_logout) else { unreachable!() };
        assert_eq!(session, 1);
        target.engine.logout_done(conn);
        let pdu = it.recv();
        assert_eq!((pdu.opcode(), pdu.itt(), pdu.bhs[2]), (0x26, tag, 0));
        assert!(it.is_closed());
        drop(it);
        target.wait_lost();
        assert!(!target.has_event(is_logout));
    });
}
