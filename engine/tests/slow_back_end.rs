//! A back end that takes its time, forgets, or hangs: who waits, who does not, and what is left.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use _engine::block::gate::Gate;
use _engine::block::jobs::Work;
use _engine::shard::events::Event;
use support::*;

const MIB: u64 = 1 << 20;

/// With so much memory that a READ of 8 MiB may be gathered, and one of 32 MiB must be streamed.
fn on_all(test: impl Fn(&Server, &Arc<Held>)) {
    for path in paths() {
        let held = Held::new(64 * MIB);
        let limits = [("connection_bytes", 2 << 20), ("shard_soft_bytes", 24 << 20)];
        let server = Server::start_with(path, &limits, |engine| held.volume(engine));
        test(&server, &held);
        held.finish(Err(libc::EIO));
    }
}

#[test]
fn replies_come_in_the_order_in_which_requests_end() {
    on_all(|server, held| {
        let mut client = server.connect(STRUCTURED);
        for cookie in 0..3u64 {
            client.send(&client.request(0, 0, cookie, cookie * 4096, 4096));
        }
        server.eventually("all are held", |_| held.count() == 3);
        assert_eq!(server.engine.sessions()[0].in_flight, 3);
        let tasks = server.engine.tasks();
        assert_eq!(tasks.len(), 3);
        assert!(tasks.iter().all(|task| task.op == "read" && task.phase == "submitted" && task.length == 4096));
        held.finish(Ok(()));
        for cookie in (0..3u64).rev() {
            let chunk = client.reply(0);
            assert_eq!(chunk.cookie, cookie);
            assert_eq!(chunk.payload[8..], pattern(cookie * 4096, 4096));
        }
    });
}

#[test]
fn requests_beyond_a_connections_share_follow_when_its_replies_have_left() {
    const LEN: u64 = 256 << 10;
    on_all(|server, held| {
        let mut client = server.connect(STRUCTURED);
        let fit = 2 * MIB / LEN;
        let burst: Vec<u8> = (0..3 * fit).flat_map(|k| client.request(0, 0, k, k * LEN, LEN)).collect();
        client.send(&burst);
        for round in 0..3 {
            // All of a round end at once, and leave at once: only that makes room for the next.
            server.eventually("a share is held", |_| held.count() as u64 == fit);
            held.finish(Ok(()));
            for _ in 0..fit {
                let chunk = client.reply(0);
                assert_eq!(chunk.cookie / fit, round);
                assert_eq!(chunk.payload[8..], pattern(chunk.cookie * LEN, LEN as usize));
            }
        }
    });
}

#[test]
fn disc_waits_for_what_is_in_flight() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        client.send(&[client.write_request(0, 1, 0, b"data"), client.request(2, 0, 0, 0, 0)].concat());
        server.eventually("it is held", |_| held.count() == 1);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(server.engine.sessions().len(), 1);
        held.finish(Ok(()));
        assert_eq!(client.answer(), 0);
        assert!(client.is_closed());
        assert_eq!(server.wait_lost(), "disconnected by the client");
    });
}

#[test]
fn a_lost_connection_leaves_its_requests_to_end() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        client.send(&[client.write_request(0, 1, 0, &[1; 300_000]), client.request(0, 0, 2, 0, 4096)].concat());
        server.eventually("all are held", |_| held.count() == 3);
        let conn = server.engine.sessions()[0].conn;
        assert!(server.engine.disconnect(conn));
        assert!(!server.engine.disconnect(conn));
        assert!(server.wait_lost().contains("operator"));
        assert!(server.engine.sessions().is_empty());
        assert_eq!(server.engine.tasks().len(), 3, "their fate is not known yet");
        held.finish(Ok(()));
        server.eventually("they have ended", |engine| engine.tasks().is_empty());
        server.eventually("nothing is in flight", |engine| engine.volumes()[0].in_flight() == 0);
        let mut client = server.connect(SIMPLE);
        client.send(&client.request(3, 0, 1, 0, 0));
        server.eventually("it is held", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(client.answer(), 0);
    });
}

#[test]
fn a_write_that_waited_for_its_range_passes_the_gate_again() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        let both = [client.write_request(0, 1, 0, &[1; 4096]), client.write_request(0, 2, 4095, &[2; 2])].concat();
        client.send(&both);
        server.eventually("one waits for the other", |engine| {
            let phases: Vec<_> = engine.tasks().iter().map(|task| task.phase).collect();
            phases.contains(&"submitted") && phases.contains(&"waiting-range")
        });
        assert_eq!(held.count(), 1);
        let closed = Gate { read_only: true, ..gate(2, 64 * MIB) };
        server.engine.swap_gate(server.volume, closed).unwrap();
        held.finish(Ok(()));
        assert_eq!((client.answer(), client.answer()), (0, 1), "the first is done, the second is not begun");
        assert_eq!(held.count(), 0);
        server.eventually("nothing is in flight", |engine| engine.volumes()[0].in_flight() == 0);
    });
}

#[test]
fn a_write_that_waited_for_its_range_goes_on() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        let both = [client.write_request(0, 1, 0, &[1; 4096]), client.write_request(0, 2, 4095, &[2; 2])].concat();
        client.send(&both);
        server.eventually("one waits", |engine| engine.tasks().len() == 2 && held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(client.answer(), 0);
        server.eventually("the other has its turn", |_| held.count() == 1);
        assert_eq!(server.engine.tasks()[0].phase, "submitted");
        held.finish(Ok(()));
        assert_eq!(client.answer(), 0);
    });
}

#[test]
fn a_write_that_waits_never_begins_once_its_connection_is_lost() {
    on_all(|server, held| {
        let mut first = server.connect(SIMPLE);
        first.send(&first.write_request(0, 1, 0, &[1; 4096]));
        server.eventually("it is held", |_| held.count() == 1);
        let mut second = server.connect(SIMPLE);
        second.send(&second.write_request(0, 1, 0, &[2; 4096]));
        server.eventually("it waits", |engine| engine.tasks().iter().any(|task| task.phase == "waiting-range"));
        let tasks = server.engine.tasks();
        let waiting = tasks.iter().find(|task| task.phase == "waiting-range").expect("looked at above");
        assert!(server.engine.disconnect(waiting.conn));
        server.wait_lost();
        held.finish(Ok(()));
        assert_eq!(first.answer(), 0);
        server.eventually("nothing is in flight", |engine| engine.volumes()[0].in_flight() == 0);
        assert_eq!(held.count(), 0);
    });
}

#[test]
fn a_request_that_its_back_end_forgets_ends_with_eio() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        client.send(&client.request(0, 0, 1, 0, 4096));
        server.eventually("it is held", |_| held.count() == 1);
        held.forget_one();
        assert_eq!(client.answer(), 5);
    });
}

#[test]
fn large_requests_end_as_they_should_when_a_piece_fails() {
    on_all(|server, held| {
        // Simple, gathered: the error can still be said.
        let mut client = server.connect(SIMPLE);
        client.send(&client.request(0, 0, 1, 0, MIB));
        server.eventually("four pieces", |_| held.count() == 4);
        held.finish(Err(libc::ENODEV));
        assert_eq!(client.answer(), 5);
        // The same where it is more than a connection may hold, whichever piece it is.
        client.send(&client.request(0, 0, 1, 0, 8 * MIB));
        server.eventually("a window of pieces", |_| held.count() == 4);
        held.finish(Ok(()));
        server.eventually("the next pieces", |_| held.count() == 4);
        held.finish(Err(libc::ENODEV));
        assert_eq!(client.answer(), 5);
        // Chunks: ERROR_OFFSET tells where.
        let mut client = server.connect(STRUCTURED);
        client.send(&client.request(0, 0, 1, 0, 3 * MIB));
        server.eventually("a window of pieces", |_| held.count() == 4);
        held.finish(Err(libc::EIO));
        let chunk = client.reply(0);
        assert_eq!((chunk.kind, chunk.error()), (Some((0x8002, 1)), 5));
        // Streamed: once the head is out, only closing is left.
        let mut client = server.connect(SIMPLE);
        client.send(&client.request(0, 0, 1, 0, 32 * MIB));
        server.eventually("a window of pieces", |_| held.count() == 4);
        held.finish(Ok(()));
        server.eventually("the next pieces", |_| held.count() > 0);
        held.finish(Err(libc::EIO));
        assert!(client.is_closed());
        assert!(server.wait_lost().contains("after the head"));
        // Pieces that were started in between go on without a connection.
        held.finish(Err(libc::EIO));
        // A WRITE: one answer, when all of its payload has come.
        let mut client = server.connect(SIMPLE);
        let bytes = client.write_request(0, 1, 0, &vec![3; MIB as usize]);
        client.send(&bytes[..MIB as usize]);
        server.eventually("three pieces", |_| held.count() == 3);
        held.finish(Err(libc::ENOSPC));
        // A piece that is whole before its shard has heard of that would be written, too.
        server.eventually("the errors are known", |engine| engine.counters().0.iter().all(|shard| shard.tasks == 0));
        client.send(&bytes[MIB as usize..]);
        assert_eq!(client.answer(), 28);
        assert_eq!(held.count(), 0, "nothing more is written after an error");
    });
}

#[test]
fn streamed_and_gathered_reads_come_whole_and_in_order() {
    on_all(|server, held| {
        for (mode, len) in
            [(SIMPLE, MIB), (SIMPLE, 5 * MIB + 3), (SIMPLE, 32 * MIB), (STRUCTURED, 5 * MIB + 3), (EXTENDED, 32 * MIB)]
        {
            let mut client = server.connect(mode);
            client.send(&client.request(0, 0, 1, 100, len));
            // Another's reply must not get into the middle of it.
            client.send(&client.request(3, 0, 2, 0, 0));
            let reader = std::thread::spawn(move || {
                let mut data = vec![0; len as usize];
                let mut flushed = false;
                let mut done = false;
                while !(flushed && done) {
                    let chunk = client.reply_to(|cookie| if cookie == 1 { len as usize } else { 0 });
                    if chunk.cookie == 2 {
                        flushed = true;
                        continue;
                    }
                    done = chunk.is_done();
                    match chunk.kind {
                        None => data = chunk.payload,
                        Some(_) if chunk.payload.is_empty() => {}
                        Some(_) => {
                            let at = u64::from_be_bytes(chunk.payload[..8].try_into().unwrap()) as usize - 100;
                            data[at..at + chunk.payload.len() - 8].copy_from_slice(&chunk.payload[8..]);
                        }
                    }
                }
                data
            });
            let deadline = Instant::now() + Duration::from_secs(20);
            while !reader.is_finished() {
                assert!(Instant::now() < deadline, "{mode:?} {len} does not come");
                held.finish(Ok(()));
                std::thread::sleep(Duration::from_micros(200));
            }
            assert!(reader.join().unwrap() == pattern(100, len as usize), "{mode:?} {len}");
        }
    });
}

#[test]
fn a_long_read_that_hangs_delays_no_other_of_its_connection() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        client.send(&client.request(0, 0, 1, 0, 8 * MIB));
        server.eventually("a window of pieces", |_| held.count() == 4);
        // Its beginning is there already.
        held.finish(Ok(()));
        server.eventually("the next pieces", |_| held.count() == 4);
        client.send(&client.request(0, 0, 2, 64 * MIB, 512));
        let beyond = client.reply(0);
        assert_eq!(beyond.cookie, 2, "answered while the other hangs");
        assert_ne!(beyond.error(), 0, "it is behind the end");
        let reading = std::thread::spawn(move || client.reply(8 * MIB as usize));
        // Between two windows of pieces there may be none for a moment.
        while !reading.is_finished() {
            held.finish(Ok(()));
            std::thread::sleep(Duration::from_millis(1));
        }
        let read = reading.join().unwrap();
        assert_eq!((read.cookie, read.error()), (1, 0));
        assert!(read.payload == pattern(0, 8 * MIB as usize));
    });
}

#[test]
fn a_hung_volume_delays_no_other() {
    on_all(|server, held| {
        let image = Image::new(MIB);
        let sound = server.engine.open_volume(image.spec()).unwrap();
        server.engine.swap_gate(sound, gate(1, MIB)).unwrap();
        let stuck: Vec<_> = (0..8)
            .map(|_| {
                let mut client = server.connect(SIMPLE);
                let bytes: Vec<u8> = (0..300).flat_map(|cookie| client.request(0, 0, cookie, 0, 512)).collect();
                client.send(&bytes);
                client
            })
            .collect();
        server.eventually("each has its quota in flight", |_| held.count() == 8 * 256);
        let mut client = server.connect_to(sound, SIMPLE);
        assert_eq!(client.write(0, 5, b"hello"), 0);
        assert_eq!(client.read(0, 5, 5).unwrap(), b"hello");
        assert!(server.engine.tasks().len() >= 8 * 256);
        drop(stuck);
    });
}

#[test]
fn stopping_answers_what_is_in_flight() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        client.send(&client.request(0, 0, 1, 0, 4096));
        server.eventually("it is held", |_| held.count() == 1);
        let engine = server.engine.clone();
        let stopping = std::thread::spawn(move || engine.stop(60_000));
        // What lies behind the end is refused for that, until the shard stops.
        loop {
            client.send(&client.request(0, 0, 2, 64 * MIB, 4096));
            match client.reply(4096).error {
                22 => std::thread::yield_now(),
                error => break assert_eq!(error, 108, "ESHUTDOWN"),
            }
        }
        client.send(&client.request(0, 0, 2, 0, 4096));
        assert_eq!(client.reply(4096).error, 108, "ESHUTDOWN");
        held.finish(Ok(()));
        assert_eq!(client.reply(4096).payload, pattern(0, 4096));
        assert!(client.is_closed());
        stopping.join().unwrap();
    });
}

#[test]
fn stopping_does_not_wait_for_the_hung() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        client.send(&client.request(0, 0, 1, 0, 4096));
        server.eventually("it is held", |_| held.count() == 1);
        let start = Instant::now();
        server.engine.stop(200);
        assert!(start.elapsed() < Duration::from_secs(60));
        assert!(client.is_closed());
        // It ends after its shard: nobody is there to hear of it, and nothing breaks.
        held.finish(Ok(()));
    });
}

#[test]
fn closing_a_volume_ends_its_sessions_and_drains() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        client.send(&client.request(0, 0, 1, 0, 4096));
        server.eventually("it is held", |_| held.count() == 1);
        let refused = server.engine.close_volume(server.volume, 50).unwrap_err();
        assert_eq!(refused.errno, libc::EBUSY);
        held.finish(Ok(()));
        assert_eq!(client.reply(4096).payload, pattern(0, 4096));
        assert!(client.is_closed());
        server.engine.close_volume(server.volume, 60_000).unwrap();
        assert!(server.engine.volumes().is_empty());
    });
}

#[test]
fn a_shard_that_is_stuck_is_left_out_of_what_is_shown() {
    on_all(|server, held| {
        // One client for each of the two shards, so that one of them is stuck and one is not.
        let mut clients = [server.connect(SIMPLE), server.connect(SIMPLE)];
        clients[0].send(&clients[0].request(0, 0, 1, 0, 4096));
        server.eventually("it is held", |_| held.count() == 1);
        server.eventually("both answer", |engine| engine.tasks().len() == 1 && engine.silent_shards() == 0);
        let stuck = held.stuck.lock().unwrap();
        clients[1].send(&clients[1].request(0, 0, 1, 0, 4096));
        let start = Instant::now();
        server.eventually("a shard is stuck", |engine| {
            engine.tasks();
            engine.silent_shards() == 1
        });
        assert_eq!(server.engine.tasks().len(), 1);
        assert_eq!(server.engine.counters().0.len(), 1);
        assert!(start.elapsed() < Duration::from_secs(60));
        let refused = server.engine.close_volume(server.volume, 100).unwrap_err();
        assert_eq!((refused.errno, refused.text.as_str()), (libc::EBUSY, "a shard does not answer"));
        drop(stuck);
        server.eventually("it answers again", |engine| engine.tasks().len() == 2 || engine.silent_shards() == 0);
    });
}

#[test]
fn stopping_does_not_wait_for_a_shard_that_is_stuck() {
    on_all(|server, held| {
        let mut client = server.connect(SIMPLE);
        let stuck = held.stuck.lock().unwrap();
        client.send(&client.request(0, 0, 1, 0, 4096));
        server.eventually("a shard is stuck", |engine| {
            engine.tasks();
            engine.silent_shards() == 1
        });
        let start = Instant::now();
        let left = server.engine.stop(100);
        assert!(start.elapsed() < Duration::from_secs(60));
        assert!(left.iter().any(|text| text.contains("does not answer")), "{left:?}");
        drop(stuck);
    });
}

#[test]
fn storage_that_hangs_while_it_is_made_stable_is_not_waited_for() {
    on_all(|server, held| {
        let hung = held.unstable.lock().unwrap();
        let image = Image::new(MIB);
        let sound = server.engine.open_volume(image.spec()).unwrap();
        for _ in 0..2 {
            let start = Instant::now();
            let refused = server.engine.close_volume(server.volume, 50).unwrap_err();
            assert_eq!((refused.errno, refused.text.as_str()), (libc::EBUSY, "its data is still being made stable"));
            assert!(start.elapsed() < Duration::from_secs(60));
        }
        server.engine.close_volume(sound, 60_000).unwrap();
        let start = Instant::now();
        let left = server.engine.stop(100);
        assert!(start.elapsed() < Duration::from_secs(60));
        assert!(left.len() == 1 && left[0].contains("still being made stable"), "{left:?}");
        drop(hung);
    });
}

#[test]
fn the_newest_gate_stays_in_force_however_many_are_put_in_at_once() {
    on_all(|server, held| {
        let engine = &server.engine;
        let mut client = server.connect(SIMPLE);
        for round in 0..200u64 {
            let newest = 2 + round * 4 + 3;
            std::thread::scope(|scope| {
                for generation in newest - 3..=newest {
                    scope.spawn(move || {
                        let refuses = generation != newest;
                        let gate = Gate { read_only: refuses, ..gate(generation, 64 * MIB) };
                        // One that comes too late is refused.
                        let _ = engine.swap_gate(server.volume, gate);
                    });
                }
            });
            client.send(&client.request(6, 0, round, 0, 4096));
            server.eventually("the write is let through", |_| held.count() == 1);
            held.finish(Ok(()));
            assert_eq!(client.answer(), 0, "round {round}");
        }
    });
}

#[test]
fn a_volume_that_hangs_leaves_room_for_others() {
    const READS: u64 = 256;
    for path in paths() {
        let (hung, healthy) = (Held::new(64 * MIB), Held::new(64 * MIB));
        let limits = [("tasks_per_shard", 2048), ("shard_soft_bytes", 8 << 20), ("shard_hard_bytes", 16 << 20)];
        let server = Server::start_with(path, &limits, |engine| hung.volume(engine));
        let other = healthy.volume(&server.engine);
        let mut crowd: Vec<_> = (0..70).map(|_| server.connect(SIMPLE)).collect();
        for client in &mut crowd {
            let bytes: Vec<u8> = (0..READS).flat_map(|k| client.request(0, 0, k, k * 4096, 4096)).collect();
            client.send(&bytes);
        }
        server.eventually("all that fits is held", |_| hung.count() > 500);
        std::thread::sleep(Duration::from_millis(100));
        // On both shards: sixteen at a time, not one after the other.
        let mut served: Vec<_> = (0..4).map(|_| server.connect_to(other, SIMPLE)).collect();
        for _ in 0..2 {
            for client in &mut served {
                let bytes: Vec<u8> = (0..16).flat_map(|k| client.request(0, 0, k, k * 4096, 4096)).collect();
                client.send(&bytes);
            }
            server.eventually("the healthy volume has them", |_| healthy.count() == 4 * 16);
            healthy.finish(Ok(()));
            for client in &mut served {
                (0..16).for_each(|_| assert_eq!(client.reply(4096).error, 0));
            }
        }
        // When it goes on, so do all who waited for it.
        let readers: Vec<_> = crowd
            .into_iter()
            .map(|mut client| {
                std::thread::spawn(move || (0..READS).for_each(|_| assert_eq!(client.reply(4096).error, 0)))
            })
            .collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        while readers.iter().any(|reader| !reader.is_finished()) {
            assert!(Instant::now() < deadline, "some were forgotten");
            hung.finish(Ok(()));
            std::thread::sleep(Duration::from_millis(1));
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    }
}

#[test]
fn answers_about_blocks_count_before_they_are_there() {
    on_all(|server, held| {
        let mut client = server.connect(EXTENDED);
        let bytes: Vec<u8> = (0..200).flat_map(|k| client.request(7, 0, k, 0, MIB)).collect();
        client.send(&bytes);
        // Each may become 64 KiB long, and a connection may hold 2 MiB.
        server.eventually("a share is held", |_| held.count() == 31);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(held.count(), 31);
        assert!(server.buffer_bytes_in_use() > 31 * 65_536);
        let mut done = 0;
        while done < 200 {
            (0..held.finish(Ok(()))).for_each(|_| assert!(client.reply(0).is_done()));
            done = server.engine.sessions()[0].counts.as_ref().map_or(0, |counts| counts.0[6].ops);
        }
        server.eventually("nothing is left", |_| server.buffer_bytes_in_use() < 256 << 10);
        // A lost connection's are given back as well.
        client.send(&bytes[..32 * 20]);
        server.eventually("they are held", |_| held.count() == 20);
        assert!(server.engine.disconnect(server.engine.sessions()[0].conn));
        server.wait_lost();
        held.finish(Ok(()));
        server.eventually("nothing is left", |_| server.buffer_bytes_in_use() < 256 << 10);
    });
}

#[test]
fn a_copy_that_is_stopped_waits_for_its_write_and_not_for_its_read() {
    on_all(|server, held| {
        let volume = || server.engine.volume(server.volume).unwrap();
        let copy = || Work::Copy { source: volume(), source_offset: 0, target: volume(), offset: MIB, len: MIB };
        let stopped =
            |job| server.wait_event(|event| *event == Event::JobDone { job, errno: libc::ECANCELED, done_bytes: 0 });
        server.engine.jobs().start(1, copy()).unwrap();
        server.eventually("its read is held", |_| held.count() == 1);
        server.engine.jobs().cancel(1);
        stopped(1);
        assert_eq!(held.finish(Ok(())), 1);
        server.eventually("it is none of the volume's any more", |_| volume().in_flight() == 0);
        assert_eq!(held.count(), 0, "nothing is written of what was read too late");

        server.engine.jobs().start(2, copy()).unwrap();
        server.eventually("its read is held", |_| held.count() == 1);
        held.finish(Ok(()));
        server.eventually("its write is held", |_| held.count() == 1);
        server.engine.jobs().cancel(2);
        assert_eq!(server.engine.jobs().progress(2), Some(0), "its fate is not known");
        held.finish(Ok(()));
        server.wait_event(|event| matches!(event, Event::JobDone { job: 2, errno: libc::ECANCELED, .. }));
        assert_eq!(held.count(), 0);
    });
}
