//! The transmission phase over real sockets and files, on every I/O path: commands, replies, errors.

mod support;

use support::*;

const MIB: u64 = 1 << 20;

fn on_all(image_bytes: u64, test: impl Fn(&Server, &Image)) {
    for path in paths() {
        let image = Image::new(image_bytes);
        let server = Server::start(path, &[], &image);
        test(&server, &image);
    }
}

#[test]
fn what_is_written_is_read_in_every_mode() {
    on_all(8 * MIB, |server, image| {
        for mode in [SIMPLE, STRUCTURED, EXTENDED] {
            let mut client = server.connect(mode);
            for (offset, len) in [(0, 1), (511, 2), (4096, 4096), (5000, 200_000), (MIB, 3 * MIB as usize + 7)] {
                let data = pattern(offset, len);
                assert_eq!(client.write(0, offset, &data), 0);
                assert_eq!(client.read(0, offset, len as u64).unwrap(), data, "{mode:?} {offset}+{len}");
                assert_eq!(image.bytes()[offset as usize..offset as usize + len], data);
            }
            assert_eq!(client.ask(3, 0, 0, 0), 0, "FLUSH");
            assert_eq!(client.write(1, 77, b"fua"), 0);
            assert_eq!(client.ask(6, 0, 0, MIB), 0, "WRITE_ZEROES");
            assert_eq!(client.read(0, 0, MIB).unwrap(), vec![0; MIB as usize]);
            assert_eq!(client.ask(4, 0, 2 * MIB, MIB), 0, "TRIM");
            assert_eq!(client.ask(5, 0, 0, MIB), 0, "CACHE");
            client.send(&client.request(2, 0, 0, 0, 0));
            assert!(client.is_closed());
        }
    });
}

#[test]
fn many_requests_in_one_packet_are_all_answered() {
    on_all(4 * MIB, |server, _| {
        let mut client = server.connect(STRUCTURED);
        let mut bytes = Vec::new();
        for index in 0..200u64 {
            bytes.extend(client.write_request(0, index, index * 4096, &pattern(index, 4096)));
        }
        client.send(&bytes);
        let mut answered: Vec<u64> = (0..200).map(|_| client.reply(0).cookie).collect();
        answered.sort_unstable();
        assert!(answered.into_iter().eq(0..200));
        let bytes: Vec<u8> = (0..200u64).flat_map(|index| client.request(0, 0, index, index * 4096, 4096)).collect();
        client.send(&bytes);
        for _ in 0..200 {
            let chunk = client.reply(0);
            assert_eq!(chunk.payload[8..], pattern(chunk.cookie, 4096));
        }
    });
}

#[test]
fn bytes_may_come_one_by_one() {
    on_all(MIB, |server, image| {
        for mode in [SIMPLE, EXTENDED] {
            let mut client = server.connect(mode);
            let data = pattern(3, 300);
            let mut bytes = client.write_request(0, 5, 1000, &data);
            bytes.extend(client.request(0, 0, 6, 1000, 300));
            for byte in bytes {
                client.send(&[byte]);
            }
            assert_eq!(client.answer(), 0);
            assert_eq!(client.read_reply(1000, 300).unwrap(), data);
            assert_eq!(image.bytes()[1000..1300], data);
        }
    });
}

/// A client need not wait for the answer to GO; what comes with it is the begin of a request like any other.
#[test]
fn a_request_may_begin_before_the_handshake_is_over() {
    on_all(MIB, |server, _| {
        server.set_mode(SIMPLE);
        let mut client = Client::raw(server.address, SIMPLE);
        client.expect(b"hello");
        let request = client.write_request(0, 98, 0, b"early");
        let (first, rest) = request.split_at(10);
        client.send(&[&3u32.to_be_bytes()[..], &Client::option(1, b""), first].concat());
        client.expect(b"go");
        client.stream.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        assert!(client.stream.peek(&mut [0]).is_err(), "it has time for the rest");
        client.stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        client.send(rest);
        assert_eq!(client.answer(), 0);
    });
}

#[test]
fn errors_are_the_protocols() {
    const EPERM: u32 = 1;
    const EINVAL: u32 = 22;
    const ENOSPC: u32 = 28;
    on_all(MIB, |server, _| {
        for mode in [SIMPLE, STRUCTURED, EXTENDED] {
            let mut client = server.connect(mode);
            let mut ask = |kind, flags, offset, len| client.ask(kind, flags, offset, len);
            assert_eq!(ask(0, 0, MIB - 1, 2), EINVAL, "READ beyond the end");
            assert_eq!(ask(0, 0, u64::MAX, 2), EINVAL, "READ whose end overflows");
            assert_eq!(ask(0, 0, 0, (32 << 20) + 1), EINVAL, "READ above the maximum");
            assert_eq!(ask(4, 0, MIB, 1), EINVAL, "TRIM beyond the end");
            assert_eq!(ask(5, 0, MIB, 1), EINVAL, "CACHE beyond the end");
            assert_eq!(ask(6, 0, MIB, 1), ENOSPC, "WRITE_ZEROES beyond the end");
            assert_eq!(ask(6, 0, u64::MAX - 5, 100), ENOSPC, "WRITE_ZEROES whose end overflows");
            assert_eq!(ask(8, 0, 0, 0), EINVAL, "RESIZE, which we do not have");
            assert_eq!(ask(0, 2, 0, 1), EINVAL, "READ with NO_HOLE");
            assert_eq!(ask(3, 0, 1, 0), EINVAL, "FLUSH with an offset");
            assert_eq!(client.write(0, MIB - 1, b"xx"), ENOSPC, "WRITE beyond the end");
            // The longest that is skipped: the stream stays in step.
            assert_eq!(client.write(0, 0, &vec![1; (32 << 20) + 1]), EINVAL, "WRITE above the maximum");
            assert_eq!(client.read(0, 0, 10).unwrap(), [0; 10]);
        }
        let mut client = server.connect(Mode { read_only: true, ..STRUCTURED });
        assert_eq!(client.write(0, 0, b"x"), EPERM);
        assert_eq!(client.ask(4, 0, 0, 1), EPERM);
        assert_eq!(client.ask(6, 0, 0, 1), EPERM);
        let mut client = server.connect(Mode { minimum_block: 512, ..SIMPLE });
        assert_eq!(client.ask(0, 0, 1, 512), EINVAL);
        assert_eq!(client.write(0, 512, &[1; 100]), EINVAL);
    });
}

#[test]
fn df_gives_one_chunk_or_eoverflow() {
    on_all(4 * MIB, |server, _| {
        let mut client = server.connect(STRUCTURED);
        let data = pattern(0, MIB as usize);
        assert_eq!(client.write(0, 0, &data), 0);
        client.send(&client.request(0, 4, 1, 0, MIB));
        let chunk = client.reply(0);
        assert_eq!(chunk.kind, Some((1, 1)));
        assert_eq!(chunk.payload[8..], data);
        assert_eq!(client.ask(0, 4, 0, MIB + 1), 75);
    });
}

#[test]
fn block_status_tells_data_from_holes() {
    on_all(4 * MIB, |server, _| {
        let mut client = server.connect(STRUCTURED);
        assert_eq!(client.write(0, MIB, &pattern(0, 65536)), 0);
        client.send(&client.request(7, 0, 1, 0, 4 * MIB));
        let chunk = client.reply(0);
        assert_eq!((chunk.kind, &chunk.payload[..4]), (Some((5, 1)), &[0, 0, 0, 7][..]));
        let extents: Vec<(u32, u32)> = chunk.payload[4..]
            .chunks(8)
            .map(|e| (u32::from_be_bytes(e[..4].try_into().unwrap()), u32::from_be_bytes(e[4..].try_into().unwrap())))
            .collect();
        assert_eq!(extents[0], (MIB as u32, 3));
        assert_eq!(extents[1].1, 0);
        assert!(extents[1].0 >= 65536);
        client.send(&client.request(7, 8, 1, 0, 4096));
        assert_eq!(client.reply(0).payload, [0, 0, 0, 7, 0, 0, 16, 0, 0, 0, 0, 3], "REQ_ONE");
        assert_eq!(client.ask(7, 0, 0, 0), 22, "an empty range");
        assert_eq!(client.ask(7, 0, 4 * MIB, 1), 22, "beyond the end");
        // Without a negotiated context there is no such command.
        let mut client = server.connect(SIMPLE);
        assert_eq!(client.ask(7, 0, 0, 4096), 22);
    });
}

#[test]
fn extended_block_status_takes_a_payload() {
    on_all(4 * MIB, |server, _| {
        let mut client = server.connect(EXTENDED);
        let ask = |client: &mut Client, payload: &[u8]| {
            let mut bytes = client.request(7, 32, 1, 4096, payload.len() as u64);
            bytes.extend(payload);
            client.send(&bytes);
            client.reply(0)
        };
        let good = ask(&mut client, &[0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 7]);
        assert_eq!(good.kind, Some((6, 1)));
        assert_eq!(good.payload, [0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        let unknown = ask(&mut client, &[0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 8]);
        let twice = ask(&mut client, &[0, 0, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 7, 0, 0, 0, 7]);
        let short = ask(&mut client, &[0, 0, 0, 0, 0, 0, 0x20, 0]);
        let empty = ask(&mut client, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        let beyond = ask(&mut client, &[0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 7]);
        assert_eq!([unknown, twice, short, empty, beyond].map(|chunk| chunk.error()), [22; 5]);
        // 64 bits of length, where no payload goes with it.
        assert_eq!(client.ask(6, 0, 0, 1 << 40), 28);
        assert_eq!(client.ask(1, 0, 0, 10), 22, "WRITE without PAYLOAD_LEN has no payload");
        assert_eq!(client.read(0, 0, 4).unwrap(), [0; 4]);
    });
}

#[test]
fn a_bad_magic_number_ends_the_connection_and_no_other() {
    on_all(MIB, |server, _| {
        let mut other = server.connect(SIMPLE);
        let mut client = server.connect(SIMPLE);
        client.send(&[7; 28]);
        assert!(client.is_closed());
        assert!(server.wait_lost().contains("magic"));
        let mut client = server.connect(EXTENDED);
        client.send(&client.request(4, 32, 1, 0, u64::MAX));
        assert!(client.is_closed());
        assert_eq!(other.read(0, 0, 5).unwrap(), [0; 5]);
    });
}

#[test]
fn a_gate_holds_for_all_shards_at_once() {
    on_all(MIB, |server, _| {
        let mut clients: Vec<_> = (0..4).map(|_| server.connect(SIMPLE)).collect();
        let mut closed = gate(2, MIB / 2);
        closed.read_only = true;
        server.engine.swap_gate(server.volume, closed).unwrap();
        for client in &mut clients {
            assert_eq!(client.write(0, 0, b"x"), 1);
            assert_eq!(client.ask(0, 0, MIB / 2, 1), 22);
            assert_eq!(client.read(0, 0, 3).unwrap(), [0; 3]);
        }
        assert!(server.engine.swap_gate(server.volume, gate(1, MIB)).is_err(), "an older gate");
        let who = server.engine.sessions()[0].conn;
        let mut named = gate(3, MIB);
        named.access.insert(who, _engine::block::gate::Situation::WriteExclusiveOther);
        server.engine.swap_gate(server.volume, named).unwrap();
        let refused = clients.iter_mut().map(|client| client.write(0, 0, b"x")).filter(|error| *error == 1).count();
        assert_eq!(refused, 1);
    });
}

#[test]
fn counters_and_sessions_tell_what_was_done() {
    on_all(MIB, |server, _| {
        let mut client = server.connect(STRUCTURED);
        assert_eq!(client.write(0, 0, &[1; 1000]), 0);
        client.read(0, 0, 500).unwrap();
        assert_eq!(client.ask(0, 0, MIB, 1), 22);
        let session = &server.engine.sessions()[0];
        let [read, write, ..] = &session.counts.as_ref().expect("requests have ended").0;
        assert_eq!((read.ops, read.bytes, read.errors), (2, 500, 1));
        assert_eq!((write.ops, write.bytes, write.errors), (1, 1000, 0));
        assert_eq!(read.latency.iter().sum::<u64>(), 2);
        assert_eq!((session.phase, session.export.as_str()), ("transmission", "export"));
        assert!(session.peer.starts_with("127.0.0.1:"));
        let (_, exports) = server.engine.counters();
        let counts = &exports[0].counts.0;
        assert_eq!((counts[0].ops, counts[0].bytes, counts[0].errors), (2, 500, 1));
        assert_eq!((counts[1].ops, counts[1].bytes, counts[1].errors), (1, 1000, 0));
        assert_eq!(counts[0].latency.iter().sum::<u64>(), 2);
    });
}

#[test]
fn direct_volumes_keep_unaligned_neighbours() {
    for path in paths() {
        let image = Image::new(MIB);
        let mut spec = image.spec();
        spec.direct = true;
        let server = Server::start_with(path, &[], |engine| match engine.open_volume(spec) {
            Ok(volume) => {
                engine.swap_gate(volume, gate(1, MIB)).unwrap();
                volume
            }
            // tmpfs of old has no O_DIRECT.
            Err(_) => 0,
        });
        if server.volume == 0 {
            return;
        }
        let mut client = server.connect(SIMPLE);
        let bytes: Vec<u8> = (0..256u64)
            .flat_map(|index| client.write_request(0, index, index * 100, &[(index as u8).wrapping_add(1); 100]))
            .collect();
        client.send(&bytes);
        for _ in 0..256 {
            assert_eq!(client.answer(), 0);
        }
        let data = client.read(0, 0, 25_600).unwrap();
        for (at, byte) in data.iter().enumerate() {
            assert_eq!(*byte, ((at / 100) as u8).wrapping_add(1), "byte {at}");
        }
        let large = pattern(9, 700_000);
        assert_eq!(client.write(0, 4096, &large), 0);
        assert_eq!(client.read(0, 4096, 700_000).unwrap(), large);
    }
}
