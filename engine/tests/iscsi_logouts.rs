//! Connections that log out or take the place of a former one: what they leave behind.

mod support;

use _engine::shard::engine::{AbortOrder, Engine};
use _engine::shard::events::Event;
use support::iscsi::*;

const MIB: u64 = 1 << 20;

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
        let (conn, closes) = target.wait_logout();
        assert_eq!(closes, 0);
        target.engine.logout_done(conn, closes);
        let pdu = it.recv();
        assert_eq!((pdu.opcode(), pdu.itt(), pdu.bhs[2]), (0x26, tag, 0));
        assert!(it.is_closed());
        drop(it);
        target.wait_lost();
        assert!(!target.has_event(is_logout));
    });
}

#[test]
fn what_a_logged_out_connection_has_not_been_acknowledged_comes_again_on_another() {
    with_limits(&[], |target, _| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        one.ping();
        let first = one.command(0x81, 0, [0; 16]);
        let second = one.command(0x81, 0, [0; 16]);
        two.cmd_sn = one.cmd_sn;
        two.send(second, &[]);
        two.ping();
        log_out(&mut one, 1, 1);
        let (conn, closes) = target.wait_logout();
        target.engine.logout_done(conn, closes);
        assert_eq!((one.recv().bhs[2], two.is_closed()), (0, true));
        // The connection is still there, as its other end is not closed.
        let mut again = second;
        put(&mut again, 16, itt(second) + 7);
        one.send(again, &[]);
        one.send(first, &[]);
        assert_eq!(one.answer(itt(first)).1.status(), 0);
        assert_eq!(one.answer(itt(again)).1.status(), 0);
        let pdu = one.ping();
        assert_eq!(pdu.word(28), one.cmd_sn, "ExpCmdSN");
    });
}

/// RFC 7143 11.14.1: the commands of a connection that is closed are terminated. What the disk has of them is over
/// when that is answered, or it would overwrite what comes then by another connection.
#[test]
fn a_logout_of_a_connection_waits_for_what_it_has_at_the_disk() {
    with_limits(&[], |target, held| {
        for (session, by_itself) in [(1, true), (2, false)] {
            let mut one = target.login(&Agreed::session(session));
            let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(session) });
            let write = two.command(0xa1, 512, write10(0, 1));
            two.send(write, &[1; 512]);
            let asked = two.command(0xa1, 512, write10(16, 1));
            two.send(asked, &[]);
            let r2t = two.recv();
            target.eventually("a WRITE is at the disk", |_| held.count() == 1);
            one.cmd_sn = two.cmd_sn;
            let read = one.ask(512, read10(8, 1));
            target.eventually("and a READ of the other connection", |_| held.count() == 2);
            two.cmd_sn = one.cmd_sn;
            let (conn, closes) = {
                let by = if by_itself { &mut two } else { &mut one };
                let tag = log_out(by, 1, 1);
                let (conn, closes) = target.wait_logout();
                // It is asked once, and nobody hears that there is no such connection before it is over.
                log_out(by, 1, 1);
                let reject = by.recv();
                assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 4));
                if by_itself {
                    by.data_out(itt(asked), r2t.word(20), 0, 0, true, &[2; 512]);
                }
                let connection = AbortOrder { request: tag.into(), nexus: NEXUS + session, conn: closes, ..ALL };
                target.engine.abort(connection);
                by.ping();
                assert!(!target.has_event(|event| matches!(event, Event::Aborted { .. })));
                held.finish_first(Ok(()));
                target.wait_aborted(tag.into());
                target.engine.logout_done(conn, closes);
                let pdu = by.recv();
                assert_eq!((pdu.opcode(), pdu.itt(), pdu.bhs[2]), (0x26, tag, 0));
                (conn, closes)
            };
            assert_eq!(conn == closes, by_itself);
            assert!(two.is_closed());
            assert_eq!(held.count(), 1, "what was to be written is not any more");
            held.finish(Ok(()));
            assert_eq!(one.answer(read).1.status(), 0);
            one.ping();
        }
    });
}

#[test]
fn who_does_not_wait_for_the_answer_to_its_logout_leaves_the_others_unless_something_is_left() {
    with_limits(&[], |target, held| {
        let mut one = target.login(&Agreed::session(1));
        for is_left in [false, true] {
            let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
            two.cmd_sn = one.cmd_sn;
            if is_left {
                two.ask(512, read10(0, 1));
                target.eventually("it is at the disk", |_| held.count() == 1);
            }
            log_out(&mut two, 1, 1);
            target.wait_logout();
            drop(two);
            target.wait_lost();
            match is_left {
                false => drop(one.ping()),
                true => assert!(one.is_closed(), "level 0 recovers sessions, not connections"),
            }
        }
    });
}

const ALL: AbortOrder =
    AbortOrder { request: 0, volume: 0, nexus: 0, task: None, except_task: 0, status: None, cut: 0, conn: 0 };

#[test]
fn a_connection_is_reinstated_and_its_session_goes_on() {
    with_limits(&[], |target, held| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        // Something is under way on the one that is replaced, and something waits for its turn there.
        one.ask(512, read10(0, 1));
        target.eventually("it is in the back end", |_| held.count() == 1);
        one.cmd_sn += 1;
        let waits = one.command(0x81, 0, [0; 16]);
        one.send(waits, &[]);
        one.ping();
        let mut new = target.login(&Agreed { joins: true, cid: 0, ..Agreed::session(1) });
        new.cmd_sn = 2;
        assert!(one.is_closed(), "without a word");
        held.finish(Ok(()));
        for it in [&mut new, &mut two] {
            it.cmd_sn = 2;
            it.ping();
        }
        drop(one);
        assert_eq!(target.wait_lost(), "another connection has taken its place");
        // The number of the one that ran is used up, that of the one that waited is not.
        for _ in 0..2 {
            let tag = new.ask(0, [0; 16]);
            assert_eq!(new.answer(tag).1.status(), 0);
        }
        assert!(!target.has_event(|event| *event == Event::SessionEnded { session: 1 }));
        target.eventually("nothing is left", |engine| engine.tasks().is_empty());
    });
}

#[test]
fn what_comes_for_a_reinstated_connection_waits_for_the_writes_of_the_former() {
    with_limits(&[], |target, held| {
        let mut old = target.login(&Agreed::session(1));
        let write = old.command(0xa1, 512, write10(0, 1));
        old.send(write, &[1; 512]);
        target.eventually("it is in the back end", |_| held.count() == 1);
        let mut new = target.login(&Agreed { joins: true, ..Agreed::session(1) });
        assert!(old.is_closed());
        drop(old);
        target.wait_lost();
        new.cmd_sn = 2;
        let tag = new.ask(512, read10(0, 1));
        new.ping();
        let phases = target.engine.tasks().into_iter().map(|task| task.phase).collect::<Vec<_>>();
        assert_eq!((held.count(), phases), (1, vec!["submitted", "held"]));
        held.finish(Ok(()));
        target.eventually("the READ is in the back end", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(new.answer(tag).1.status(), 0);
    });
}

/// That of another connection may have arrived before, and have waited for them as its task attribute says.
#[test]
fn what_is_ordered_behind_the_writes_of_a_connection_waits_for_them_when_it_is_reinstated() {
    with_limits(&[], |target, held| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        let write = two.command(0xa1, 512, write10(0, 1));
        two.send(write, &[1; 512]);
        target.eventually("it is in the back end", |_| held.count() == 1);
        one.cmd_sn = two.cmd_sn;
        let ordered = one.command(0xc2, 512, read10(0, 1));
        one.send(ordered, &[]);
        one.ping();
        let _new = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        assert!(two.is_closed());
        drop(two);
        target.wait_lost();
        one.ping();
        assert_eq!(held.count(), 1, "the READ has not begun");
        held.finish(Ok(()));
        target.eventually("the READ is in the back end", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(one.answer(itt(ordered)).1.status(), 0);
    });
}

/// RFC 7143 6.3.4: the login "performs the logout function" where that has not been done, whether or not it was asked
/// for, and by whichever connection.
#[test]
fn what_comes_for_a_connection_whose_logout_is_not_over_waits_for_the_writes_of_the_former() {
    with_limits(&[], |target, held| {
        for (session, stays, by_itself) in [(1, true, true), (2, true, false), (3, false, false)] {
            let mut one = target.login(&Agreed::session(session));
            let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(session) });
            let write = two.command(0xa1, 512, write10(0, 1));
            two.send(write, &[1; 512]);
            target.eventually("it is in the back end", |_| held.count() == 1);
            one.cmd_sn = two.cmd_sn;
            log_out(if by_itself { &mut two } else { &mut one }, 1, 1);
            target.wait_logout();
            let kept = if stays {
                Some(two)
            } else {
                drop(two);
                target.wait_lost();
                None
            };
            let mut new = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(session) });
            new.cmd_sn = one.cmd_sn;
            let tag = new.ask(512, read10(0, 1));
            new.ping();
            let is_held = |engine: &Engine| engine.tasks().iter().any(|task| task.phase == "held");
            assert!(is_held(&target.engine), "{session}");
            held.finish(Ok(()));
            target.eventually("the READ is in the back end", |_| held.count() == 1);
            held.finish(Ok(()));
            assert_eq!(new.answer(tag).1.status(), 0);
            drop(kept);
        }
    });
}

/// TARGET COLD RESET is answered, and then its session ends: the answer is not lost on the way, when its shard hears of
/// both at once.
#[test]
fn what_was_answered_leaves_before_a_connection_is_ended() {
    with_limits(&[], |target, _| {
        for session in 1..100 {
            let mut it = target.login(&Agreed::session(session));
            let reset = it.manage(7, 0xffff_ffff, 0);
            let (function, ..) = target.wait_management();
            let conn = target.engine.sessions().into_iter().find(|one| one.session == session).unwrap().conn;
            target.engine.management_done(function, 0);
            assert!(target.engine.disconnect(conn));
            assert_eq!(it.recv().itt(), reset);
            assert!(it.is_closed());
        }
    });
}

/// Sessions with a queue depth of four.
fn of_four(session: u64) -> Agreed {
    Agreed { queue_depth: 4, ..Agreed::session(session) }
}

/// Four WRITEs that wait for their data: no more may come.
fn close_window(it: &mut Initiator) {
    it.ping();
    for _ in 0..4 {
        let bhs = it.command(0xa1, 512, write10(0, 1));
        it.send(bhs, &[]);
        assert_eq!(it.recv().opcode(), 0x31);
    }
}

/// Without being asked, the target says that four commands may come.
fn hears_of_window(it: &mut Initiator) {
    let told = it.recv();
    assert_eq!((told.opcode(), told.word(32).wrapping_sub(told.word(28))), (0x20, 3), "NOP-In, four credits");
    it.cmd_sn = told.word(28);
    it.ping();
}

#[test]
fn a_window_that_the_former_connection_had_closed_is_told_to_be_open() {
    with_image(&[], 16 * MIB, |target| {
        let mut old = target.login(&of_four(1));
        close_window(&mut old);
        let mut new = target.login(&Agreed { joins: true, ..of_four(1) });
        hears_of_window(&mut new);
    });
}

#[test]
fn a_window_that_a_connection_had_closed_is_told_to_be_open_when_that_one_logs_out() {
    with_image(&[], 16 * MIB, |target| {
        for (session, by_itself) in [(1, true), (2, false)] {
            let mut one = target.login(&of_four(session));
            let mut two = target.login(&Agreed { joins: true, cid: 1, ..of_four(session) });
            close_window(&mut two);
            let by = if by_itself { &mut two } else { &mut one };
            let tag = log_out(by, 1, 1);
            if by_itself {
                let (conn, closes) = target.wait_logout();
                target.engine.logout_done(conn, closes);
                assert_eq!(by.recv().itt(), tag, "who leaves needs no window");
            }
            hears_of_window(&mut one);
        }
    });
}

/// SAM-5 5.6: without TAS nobody is told of commands that another initiator has ended.
#[test]
fn a_window_is_told_to_be_open_when_what_had_closed_it_was_aborted_by_others() {
    with_image(&[], 16 * MIB, |target| {
        let mut one = target.login(&of_four(1));
        close_window(&mut one);
        target.engine.abort(AbortOrder { request: 7, volume: target.volume, ..ALL });
        hears_of_window(&mut one);
    });
}

/// The peer keeps its ends of them open: the target does not wait for it, nor run out of connections.
#[test]
fn a_connection_is_reinstated_as_often_as_its_initiator_likes() {
    with_limits(&[("linger_ms", 60_000)], |target, _| {
        let mut current = target.login(&Agreed::session(1));
        let mut former = Vec::new();
        for cmd_sn in 1..100 {
            current.cmd_sn = cmd_sn;
            let tag = current.ask(0, [0; 16]);
            assert_eq!(current.answer(tag).1.status(), 0);
            former.push(std::mem::replace(&mut current, target.login(&Agreed { joins: true, ..Agreed::session(1) })));
        }
        for it in &mut former {
            assert_eq!(target.wait_lost(), "another connection has taken its place");
            assert!(it.is_closed());
        }
    });
}

#[test]
fn the_only_connection_of_a_session_is_reinstated() {
    with_limits(&[], |target, _| {
        let mut old = target.login(&Agreed::session(1));
        old.ping();
        let mut new = target.login(&Agreed { joins: true, ..Agreed::session(1) });
        assert!(old.is_closed());
        drop(old);
        target.wait_lost();
        let tag = new.ask(0, [0; 16]);
        assert_eq!(new.answer(tag).1.status(), 0);
        drop(new);
        target.wait_event(|event| *event == Event::SessionEnded { session: 1 });
    });
}
