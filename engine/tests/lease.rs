//! The lease: once it has lapsed nothing reaches a back end, and only a renewal changes that.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use _engine::block::jobs::Work;
use _engine::shard::events::Event;
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;
const ESHUTDOWN: u32 = 108;
/// PERSISTENT RESERVE IN, READ KEYS: always Python's.
const HANDED: [u8; 16] = [0x5e, 0, 0, 0, 0, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0];

fn nbd(test: impl Fn(&Server, &Arc<Held>)) {
    for path in paths() {
        let held = Held::new(64 * MIB);
        let server = Server::start_with(path, &[], |engine| held.volume(engine));
        test(&server, &held);
        held.finish(Err(libc::EIO));
    }
}

fn iscsi(test: impl Fn(&Target, &Arc<Held>)) {
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

#[test]
fn a_lapse_is_told_once_though_nobody_asks_for_anything() {
    nbd(|server, _| {
        let start = Instant::now();
        assert!(server.engine.renew_lease(60_000));
        assert!(server.engine.renew_lease(100), "sooner than before: shards that sleep are told");
        server.wait_event(|event| *event == Event::Fenced);
        assert!(start.elapsed() >= Duration::from_millis(100));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!server.seen.0.lock().unwrap().contains(&Event::Fenced));
        assert!(!server.engine.renew_lease(100), "it says that it had lapsed");
        server.wait_event(|event| *event == Event::Fenced);
    });
}

#[test]
fn nbd_requests_are_refused_until_it_is_renewed() {
    nbd(|server, held| {
        let mut clients = [server.connect(SIMPLE), server.connect(SIMPLE)];
        server.engine.renew_lease(1);
        server.wait_event(|event| *event == Event::Fenced);
        for client in &mut clients {
            assert_eq!(client.write(0, 0, &[1; 4096]), ESHUTDOWN);
            assert_eq!(client.read(0, 0, 4096), Err(ESHUTDOWN));
            assert_eq!(client.ask(3, 0, 0, 0), ESHUTDOWN);
        }
        assert_eq!(held.count(), 0);
        for ttl_ms in [60_000, 0] {
            server.engine.renew_lease(ttl_ms);
            let mut client = server.connect(SIMPLE);
            client.send(&client.request(0, 0, 1, 0, 4096));
            server.eventually("it is let through", |_| held.count() == 1);
            held.finish(Ok(()));
            assert_eq!(client.reply(4096).error, 0);
        }
    });
}

#[test]
fn what_had_arrived_before_is_checked_when_it_is_given_to_the_back_end() {
    nbd(|server, held| {
        let mut client = server.connect(SIMPLE);
        // The second waits for the first one's range; a third has not all of its data.
        let both = [client.write_request(0, 1, 0, &[1; 4096]), client.write_request(0, 2, 4095, &[2; 2])].concat();
        client.send(&both);
        server.eventually("one waits", |engine| engine.tasks().len() == 2 && held.count() == 1);
        let third = client.write_request(0, 3, 65_536, &[3; 4096]);
        client.send(&third[..1000]);
        server.engine.renew_lease(50);
        server.wait_event(|event| *event == Event::Fenced);
        client.send(&third[1000..]);
        assert_eq!(client.answer(), ESHUTDOWN);
        held.finish(Ok(()));
        assert_eq!((client.answer(), client.answer()), (0, ESHUTDOWN), "what had been given to it goes on");
        assert_eq!(held.count(), 0);
        server.eventually("nothing is in flight", |engine| engine.volumes()[0].in_flight() == 0);
    });
}

#[test]
fn scsi_commands_end_without_a_status_and_their_connections_are_closed() {
    iscsi(|target, held| {
        let mut first = target.login(&Agreed::session(1));
        let mut second = target.login(&Agreed::session(2));
        first.ask(512, read10(0, 1));
        second.ask(64, HANDED);
        let (task, ..) = target.wait_command();
        target.eventually("it is held", |_| held.count() == 1);
        target.engine.renew_lease(50);
        target.wait_event(|event| *event == Event::Fenced);
        for initiator in [&mut first, &mut second] {
            assert!(initiator.try_recv().is_err(), "closed, and nothing was said");
            assert_eq!(target.wait_lost(), "the gateway's lease has lapsed");
        }
        // Late answers, of Python and of the back end, are nobody's.
        target.engine.complete(task, 0, b"keys".to_vec(), vec![]);
        assert_eq!(target.engine.tasks().len(), 1, "the fate of what the back end has is not known");
        held.finish(Ok(()));
        target.eventually("it has ended", |engine| engine.tasks().is_empty());
        // Whoever comes while it is fenced gets no further than the login.
        let mut third = target.login(&Agreed::session(3));
        assert!(third.try_recv().is_err());
        target.engine.renew_lease(0);
        let mut fourth = target.login(&Agreed::session(4));
        let tag = fourth.ask(512, read10(0, 1));
        target.eventually("it is let through", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(fourth.answer(tag).1.status(), 0);
    });
}

#[test]
fn jobs_end_as_well() {
    nbd(|server, held| {
        let volume = server.engine.volume(server.volume).unwrap();
        server.engine.renew_lease(1);
        server.wait_event(|event| *event == Event::Fenced);
        let work = Work::Zero { volume, offset: 0, len: MIB, punch: false };
        server.engine.jobs().start(7, work).unwrap();
        server.wait_event(|event| *event == Event::JobDone { job: 7, errno: libc::ESHUTDOWN, done_bytes: 0 });
        assert_eq!(held.count(), 0);
    });
}
