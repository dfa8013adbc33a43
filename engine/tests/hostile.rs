//! Slow, silent, greedy and broken peers: bounded in time and memory, and nobody else notices.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use support::*;

const MIB: u64 = 1 << 20;

fn on_all(limits: &[(&str, u64)], test: impl Fn(&Server)) {
    for path in paths() {
        let image = Image::new(8 * MIB);
        let server = Server::start(path, limits, &image);
        test(&server);
    }
}

/// Sends READs until the socket takes no more.
fn flood(client: &mut Client, len: u64) {
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let bytes: Vec<u8> = (0..64).flat_map(|cookie| client.request(0, 0, cookie, 0, len)).collect();
    let deadline = Instant::now() + Duration::from_millis(500);
    while Instant::now() < deadline && client.stream.write_all(&bytes).is_ok() {}
}

#[test]
fn one_that_never_reads_its_replies_is_bounded_and_closed() {
    on_all(&[("send_stall_ms", 1500), ("shard_kept_bytes", 1 << 20)], |server| {
        let mut other = server.connect(SIMPLE);
        let mut greedy: Vec<_> = (0..6).map(|index| server.connect([SIMPLE, STRUCTURED][index % 2])).collect();
        for (index, client) in greedy.iter_mut().enumerate() {
            flood(client, [4096, 256 << 10, 1 << 20, 8 << 20][index % 4]);
        }
        // Each may hold its share, 2 MiB, and a shard keeps 1 MiB.
        let used = server.buffer_bytes_in_use();
        assert!(used <= 6 * (2 << 20) + 2 * (1 << 20) + (1 << 20), "{used} bytes of buffers");
        assert_eq!(other.read(0, 0, 10).unwrap().len(), 10);
        for _ in 0..6 {
            assert!(server.wait_lost().contains("does not read"));
        }
        server.eventually("buffers are back", |_| server.buffer_bytes_in_use() <= 2 << 20);
        assert_eq!(other.read(0, 0, 10).unwrap().len(), 10);
    });
}

#[test]
fn a_shard_short_of_memory_serves_everybody_in_turn() {
    // A soft bound of 4 MiB for 12 connections that each want 2 MiB.
    on_all(&[("shard_soft_bytes", 4 << 20), ("shard_hard_bytes", 8 << 20)], |server| {
        let mut clients: Vec<_> = (0..12).map(|_| server.connect(STRUCTURED)).collect();
        for client in &mut clients {
            let bytes: Vec<u8> = (0..16).flat_map(|cookie| client.request(0, 0, cookie, 0, 1 << 20)).collect();
            client.send(&bytes);
        }
        for client in &mut clients {
            // Chunks of several replies may come between each other.
            let (mut data, mut done) = (0, 0);
            while done < 16 {
                let chunk = client.reply(0);
                data += chunk.payload.len().saturating_sub(8);
                done += usize::from(chunk.is_done());
            }
            assert_eq!(data, 16 << 20);
        }
    });
}

#[test]
fn half_a_request_and_silence_ends_in_time() {
    on_all(&[("receive_stall_ms", 300)], |server| {
        let mut idle = server.connect(SIMPLE);
        let mut client = server.connect(SIMPLE);
        let header = client.request(1, 0, 1, 0, 100);
        client.send(&header[..9]);
        assert!(client.is_closed());
        for sent in [header.len(), header.len() + 50] {
            let mut client = server.connect(SIMPLE);
            let bytes = client.write_request(0, 1, 0, &[1; 100]);
            client.send(&bytes[..sent]);
            assert!(client.is_closed());
        }
        let mut client = server.connect(SIMPLE);
        let bytes = client.write_request(0, 1, 0, &vec![1; 4 << 20]);
        // Closed before all of it was sent: the sender was slow.
        let _ = client.stream.write_all(&bytes[..3 << 20]);
        assert!(client.is_closed());
        for _ in 0..4 {
            assert!(server.wait_lost().contains("begun and not finished"));
        }
        // Nothing asked, nothing owed: it may idle. (Of a broken off large WRITE whole pieces were written.)
        assert_eq!(idle.read(0, 0, 4).unwrap(), [1; 4]);
        server.eventually("buffers are back", |engine| {
            engine.tasks().is_empty() && engine.sessions().iter().all(|session| session.in_flight == 0)
        });
    });
}

#[test]
fn a_request_in_drops_ends_in_time() {
    on_all(&[("receive_stall_ms", 300)], |server| {
        for mode in [SIMPLE, EXTENDED] {
            for sent_before in [1, 40] {
                let mut client = server.connect(mode);
                let bytes = client.write_request(0, 1, 0, &[1; 8192]);
                client.send(&bytes[..sent_before]);
                // Never silent for long, and never done: it is as long in coming as its length allows, which is
                // not the minutes that this would take.
                let dropped = bytes[sent_before..].iter().find(|byte| {
                    std::thread::sleep(Duration::from_millis(20));
                    client.stream.write_all(&[**byte]).is_err()
                });
                assert!(dropped.is_some());
                assert!(server.wait_lost().contains("begun and not finished"));
            }
        }
    });
}

#[test]
fn half_sent_writes_do_not_lock_longer_ones_out() {
    on_all(&[("shard_soft_bytes", 4 << 20), ("shard_hard_bytes", 8 << 20)], |server| {
        let mut half: Vec<_> = (0..40).map(|_| server.connect(SIMPLE)).collect();
        for (client, len) in half.iter_mut().zip([256 << 10, 1 << 20].into_iter().cycle()) {
            client.send(&client.write_request(0, 1, 7 * MIB, &vec![1; len])[..29]);
        }
        server.eventually("all have begun", |engine| engine.tasks().len() == 40);
        // Longer than what is received at once. Twice as many as there are shards: each has its own.
        for (at, len) in [(0, 256 << 10), (1, 3 << 20), (511, MIB as usize), (MIB, 200_001)] {
            let mut other = server.connect(STRUCTURED);
            assert_eq!(other.write(0, at, &pattern(at, len)), 0);
            assert_eq!(other.read(0, at, len as u64).unwrap(), pattern(at, len));
        }
        // And they are not lost, if they go on.
        for (client, len) in half.iter_mut().zip([256 << 10, 1 << 20].into_iter().cycle()) {
            client.send(&vec![1; len - 1]);
            assert_eq!(client.answer(), 0);
        }
    });
}

#[test]
fn half_sent_writes_do_not_lock_others_out() {
    // A quarter of 8 MiB, on each of two shards: sixteen half sent writes at most.
    on_all(&[("shard_soft_bytes", 4 << 20), ("shard_hard_bytes", 8 << 20)], |server| {
        let mut half: Vec<_> = (0..100).map(|_| server.connect(SIMPLE)).collect();
        for client in &mut half {
            let bytes = client.write_request(0, 1, 0, &[1; 256 << 10]);
            client.send(&bytes[..29]);
        }
        server.eventually("all have begun", |engine| engine.tasks().len() == 100);
        let phases: Vec<_> = server.engine.tasks().iter().map(|task| task.phase).collect();
        assert_eq!(phases.iter().filter(|phase| **phase == "collecting").count(), 16);
        std::thread::sleep(Duration::from_millis(300));
        assert!(server.engine.tasks().iter().all(|task| task.age_us >= 300_000), "it counts from the beginning");
        for _ in 0..4 {
            // Whoever sends what he promised is served, and so is who reads.
            let mut other = server.connect(SIMPLE);
            assert_eq!(other.write(0, 0, &[2; 4096]), 0);
            assert_eq!(other.read(0, 0, 1 << 20).unwrap().len(), 1 << 20);
        }
        // As they go on, the others get their turn.
        for client in &mut half {
            client.send(&[1; (256 << 10) - 1]);
        }
        for client in &mut half {
            assert_eq!(client.answer(), 0);
        }
    });
}

#[test]
fn a_handshake_must_get_on() {
    on_all(&[("handshake_ms", 1500), ("option_bytes", 4096)], |server| {
        let mut silent = Client::raw(server.address, SIMPLE);
        let mut slow = Client::raw(server.address, SIMPLE);
        slow.expect(b"hello");
        slow.send(&[0, 0, 0, 3, b'I', b'H']);
        let mut garbage = Client::raw(server.address, SIMPLE);
        garbage.expect(b"hello");
        garbage.send(b"GET / HTTP/1.1\r\n\r\n");
        let mut giant = Client::raw(server.address, SIMPLE);
        giant.expect(b"hello");
        giant.send(&3u32.to_be_bytes());
        giant.send(&[&b"IHAVEOPT"[..], &[0, 0, 0, 3], &[0xff; 4]].concat());
        for client in [&mut silent, &mut slow, &mut garbage, &mut giant] {
            assert!(client.is_closed());
        }
        // One that takes its time, but gets on, is let be; a long option is skipped and answered.
        let mut patient = Client::raw(server.address, SIMPLE);
        patient.expect(b"hello");
        patient.send(&3u32.to_be_bytes());
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(400));
            patient.send(&Client::option(77, b""));
            patient.expect(b"unknown");
        }
        patient.send(&Client::option(78, &[0; 100_000]));
        patient.expect(b"unknown");
        let event =
            server.wait_event(|event| matches!(event, _engine::shard::events::Event::NbdOption { option: 78, .. }));
        assert!(
            matches!(event, _engine::shard::events::Event::NbdOption { oversize: true, data, .. } if data.is_empty())
        );
        patient.send(&Client::option(1, b""));
        patient.expect(b"go");
    });
}

#[test]
fn bytes_in_the_clear_behind_starttls_are_refused() {
    on_all(&[], |server| {
        let mut client = Client::raw(server.address, SIMPLE);
        client.expect(b"hello");
        client.send(&3u32.to_be_bytes());
        client.send(&[Client::option(5, b""), Client::option(1, b"")].concat());
        assert!(client.is_closed());
        assert!(server.wait_lost().contains("in the clear"));
    });
}

#[test]
fn an_aborted_handshake_gets_its_answer() {
    on_all(&[], |server| {
        let mut client = Client::raw(server.address, SIMPLE);
        client.expect(b"hello");
        client.send(&3u32.to_be_bytes());
        client.send(&Client::option(2, b""));
        client.expect(b"bye");
        assert!(client.is_closed());
    });
}

#[test]
fn no_more_connections_than_allowed() {
    on_all(&[("connections", 3)], |server| {
        let mut clients: Vec<_> = (0..3).map(|_| server.connect(SIMPLE)).collect();
        assert!(Client::raw(server.address, SIMPLE).is_closed());
        assert_eq!(clients[0].read(0, 0, 1).unwrap().len(), 1);
        clients.remove(0);
        server.wait_lost();
        server.connect(SIMPLE).read(0, 0, 1).unwrap();
    });
}

#[test]
fn thousands_come_and_go() {
    on_all(&[], |server| {
        for _ in 0..20 {
            let clients: Vec<_> = (0..100).map(|_| Client::raw(server.address, SIMPLE)).collect();
            drop(clients);
        }
        server.eventually("all are gone", |engine| engine.sessions().is_empty());
        server.connect(SIMPLE).read(0, 0, 1).unwrap();
    });
}

#[test]
fn random_bytes_harm_nobody() {
    on_all(&[("receive_stall_ms", 200)], |server| {
        let mut seed = 0x1234_5678_9abc_def0u64;
        println!("seed {seed:#x}");
        for round in 0..60 {
            let mut client = server.connect([SIMPLE, STRUCTURED, EXTENDED][round % 3]);
            let mut bytes = client.request(0, 0, 1, 0, 100);
            for _ in 0..400 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                let (kind, flags) = ((seed >> 40) as u16 % 10, (seed >> 50) as u16 % 64);
                if kind != 2 {
                    bytes.extend(client.request(kind, flags, seed, seed % (9 * MIB), seed % 5000));
                }
            }
            let _ = client.stream.write_all(&bytes);
            let _ = client.stream.shutdown(std::net::Shutdown::Write);
            client.is_closed();
        }
        server.eventually("all are gone", |engine| engine.sessions().is_empty() && engine.tasks().is_empty());
        server.connect(SIMPLE).read(0, 0, 1).unwrap();
    });
}

#[test]
fn one_that_reads_in_drops_gets_everything() {
    on_all(&[], |server| {
        for mode in [SIMPLE, STRUCTURED] {
            let mut client = server.connect(mode);
            // More requests than replies fit anywhere: the server stops and goes on many times over.
            let lengths: Vec<u64> = (0..1500).map(|index: u64| 1 + (index * 7919) % 60_000).collect();
            let bytes: Vec<u8> =
                (0u64..).zip(&lengths).flat_map(|(cookie, len)| client.request(0, 0, cookie, 0, *len)).collect();
            let mut sender = client.stream.try_clone().unwrap();
            let sending = std::thread::spawn(move || sender.write_all(&bytes).unwrap());
            std::thread::sleep(Duration::from_millis(200));
            for _ in 0..lengths.len() {
                let chunk = client.reply_to(|cookie| lengths[cookie as usize] as usize);
                let head = if chunk.kind.is_some() { 8 } else { 0 };
                assert_eq!(chunk.payload.len() - head, lengths[chunk.cookie as usize] as usize);
            }
            sending.join().unwrap();
        }
    });
}

#[test]
fn resumes_reading_slowly() {
    const READS: u64 = 12_000;
    const LEN: u64 = 4096;
    on_all(&[], |server| {
        for mode in [SIMPLE, STRUCTURED, EXTENDED] {
            let mut client = server.connect(mode);
            let bytes: Vec<u8> =
                (0..READS).flat_map(|cookie| client.request(0, 0, cookie, cookie % 256 * LEN, LEN)).collect();
            let mut sender = client.stream.try_clone().unwrap();
            let sending = std::thread::spawn(move || sender.write_all(&bytes).unwrap());
            std::thread::sleep(Duration::from_millis(300));
            for index in 0..READS {
                let chunk = client.reply(LEN as usize);
                let head = if mode.structured { 8 } else { 0 };
                assert_eq!((chunk.cookie, chunk.payload.len()), (index, head + LEN as usize));
                if index % 37 == 0 {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            sending.join().unwrap();
        }
    });
}

#[test]
fn room_that_a_connection_makes_itself_is_used() {
    // The bound is two pieces; back-end completions fill it, and only its own sending empties it.
    for path in paths() {
        let held = Held::new(64 * MIB);
        let server = Server::start_with(path, &[("connection_bytes", 512 << 10)], |engine| held.volume(engine));
        let mut client = server.connect(STRUCTURED);
        let bytes: Vec<u8> =
            (0..40u64).flat_map(|cookie| client.request(0, 0, cookie, cookie << 18, 256 << 10)).collect();
        client.send(&bytes);
        let reader = std::thread::spawn(move || {
            for _ in 0..40 {
                let chunk = client.reply(0);
                assert_eq!(chunk.payload[8..], pattern(chunk.cookie << 18, 256 << 10));
            }
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while !reader.is_finished() {
            assert!(Instant::now() < deadline, "it stopped");
            held.finish(Ok(()));
            std::thread::sleep(Duration::from_millis(1));
        }
        reader.join().unwrap();
    }
}
