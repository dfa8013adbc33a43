//! iSCSI: what breaks the rules gets what RFC 7143 names, in bounded time, and harms nobody else.

mod support;

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;

fn on_all(limits: &[(&str, u64)], test: impl Fn(&Target)) {
    for path in paths() {
        let image = Image::new(16 * MIB);
        let target = Target::start(path, limits, 1, |engine| {
            let volume = engine.open_volume(image.spec()).unwrap();
            engine.swap_gate(volume, scsi_gate(1, 16 * MIB)).unwrap();
            volume
        });
        // Somebody who keeps to the rules, before and after.
        let mut other = target.login(&Agreed::session(99));
        assert_eq!(other.read(0, 8).1.status(), 0);
        test(&target);
        assert_eq!(other.read(0, 8).1.status(), 0);
    }
}

fn itt(bhs: [u8; 48]) -> u32 {
    u32::from_be_bytes(bhs[16..20].try_into().unwrap())
}

fn rejected(it: &mut Initiator, reason: u8, bhs: &[u8; 48]) {
    let pdu = it.recv();
    assert_eq!((pdu.opcode(), pdu.bhs[2], pdu.itt()), (0x3f, reason, 0xffff_ffff), "{pdu:?}");
    assert_eq!(pdu.data[..4], bhs[..4], "the header that was rejected");
    assert_eq!(pdu.data[8..], bhs[8..]);
}

#[test]
fn rejects_of_single_pdus() {
    on_all(&[], |target| {
        let mut it = target.login(&Agreed::session(1));
        // Unknown opcode; SNACK; an AHS of a type that nobody knows; one that is cut short.
        let bhs = head(0x5e, 0x80, 77);
        it.send(bhs, &[]);
        rejected(&mut it, 5, &bhs);
        let bhs = head(0x10, 0x81, 0xffff_ffff);
        it.send(bhs, &[]);
        rejected(&mut it, 3, &bhs);
        for ahs in [[0, 5, 9, 0, 0, 0, 0, 0], [0, 9, 1, 0, 0, 0, 0, 0]] {
            let mut bhs = it.command(0xc1, 512, read10(0, 1));
            bhs[4] = 2;
            it.send(bhs, &ahs);
            rejected(&mut it, 9, &bhs);
        }
        // A legal AHS: a longer CDB. Its opcode is unknown, which is SCSI's to say.
        let mut cdb = [0; 16];
        cdb[0] = 0x7f;
        let mut bhs = it.command(0x81, 0, cdb);
        bhs[4] = 2;
        it.send(bhs, &[0, 5, 1, 0, 1, 2, 3, 4]);
        let pdu = it.recv();
        assert_eq!((pdu.opcode(), pdu.sense()), (0x21, (5, 0x20, 0)));
        // Requests whose tag is the one that names nothing (11.2.1.8).
        let mut bhs = it.command(0xc1, 512, read10(0, 1));
        put(&mut bhs, 16, 0xffff_ffff);
        it.send(bhs, &[]);
        rejected(&mut it, 9, &bhs);
        for (opcode, flags) in [(0x42, 0x81), (0x44, 0x80), (0x46, 0x80)] {
            let mut bhs = head(opcode, flags, 0xffff_ffff);
            put(&mut bhs, 20, 0xffff_ffff);
            it.send(bhs, &[]);
            rejected(&mut it, 9, &bhs);
        }
        // A text of which Python has one already.
        let mut bhs = head(0x44, 0x80, 5);
        put(&mut bhs, 20, 0xffff_ffff);
        it.send(bhs, b"SendTargets=All\0");
        it.send(bhs, b"SendTargets=All\0");
        rejected(&mut it, 4, &bhs);
        assert_eq!(it.read(0, 1).1.status(), 0);
    });
}

#[test]
fn data_that_breaks_the_rules_fails_its_command() {
    on_all(&[], |target| {
        let mut it = target.login(&Agreed::session(1));
        let start = |it: &mut Initiator| {
            let bhs = it.command(0xa1, 2048, write10(0, 4));
            it.send(bhs, &[]);
            let r2t = it.recv();
            assert_eq!(r2t.opcode(), 0x31);
            (itt(bhs), r2t.word(20))
        };
        // (DataSN, offset, bytes, reject, sense): a gap, a wrong place, too much.
        for (sn, offset, len, reason, ascq) in
            [(1, 0, 2048, 4, (0x47, 0x05)), (0, 512, 512, 4, (0x47, 0x05)), (0, 0, 4096, 9, (0x0c, 0x0d))]
        {
            let (tag, ttt) = start(&mut it);
            it.data_out(tag, ttt, sn, offset, true, &vec![1; len]);
            let reject = it.recv();
            assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, reason));
            let status = it.recv();
            assert_eq!((status.itt(), status.status(), status.sense()), (tag, 2, (0xb, ascq.0, ascq.1)));
        }
        // What is not of this command is rejected, and harms nothing: an AHS, another Initiator Task Tag, a Target
        // Transfer Tag of an earlier use of the same slot.
        let (tag, ttt) = start(&mut it);
        let mut bhs = head(0x05, 0x80, tag);
        (bhs[4], bhs[9]) = (1, 1);
        put(&mut bhs, 20, ttt);
        it.send(bhs, &[&[0, 1, 0x3f, 0][..], &[1; 2048]].concat());
        rejected(&mut it, 9, &{
            let mut sent = bhs;
            sent[5..8].copy_from_slice(&[0, 8, 0]);
            sent
        });
        for (tag, ttt) in [(tag + 500, ttt), (tag, ttt ^ 1 << 20)] {
            it.data_out(tag, ttt, 0, 0, true, &[1; 2048]);
            let reject = it.recv();
            assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 9));
        }
        assert!(it.is_silent());
        it.data_out(tag, ttt, 0, 0, true, &[1; 2048]);
        assert_eq!(it.recv().status(), 0);
        // Nor does a tag that was never given out.
        let (tag, ttt) = start(&mut it);
        it.data_out(tag, 0x7fff_0000, 0, 0, true, &[1; 2048]);
        let reject = it.recv();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 9));
        it.data_out(tag, 0xffff_ffff, 0, 0, true, &[1; 2048]);
        let reject = it.recv();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 9), "unsolicited data was not agreed");
        assert!(it.is_silent(), "first the data that was asked for");
        it.data_out(tag, ttt, 0, 0, true, &[1; 2048]);
        assert_eq!(it.recv().sense(), (0xb, 0x0c, 0x0c));
        // Data without a command.
        it.data_out(0x1234_5678, 0xffff_ffff, 0, 0, true, &[1; 512]);
        let reject = it.recv();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 9));
        // A tag that is in use.
        let (tag, ttt) = start(&mut it);
        let mut bhs = it.command(0xc1, 512, read10(0, 1));
        bhs[16..20].copy_from_slice(&tag.to_be_bytes());
        it.send(bhs, &[]);
        rejected(&mut it, 7, &bhs);
        it.data_out(tag, ttt, 0, 0, true, &[1; 2048]);
        assert_eq!(it.recv().status(), 0);
        // Outside the window: ignored.
        let mut bhs = it.command(0xc1, 512, read10(0, 1));
        it.cmd_sn -= 1;
        put(&mut bhs, 24, it.cmd_sn + 5000);
        it.send(bhs, &[]);
        it.ping();
        assert_eq!(it.read(0, 1).1.status(), 0);
    });
}

#[test]
fn digest_errors() {
    on_all(&[], |target| {
        let agreed = Agreed { digests: (true, true), ..Agreed::session(1) };
        let mut it = target.login(&agreed);
        // A data digest: reject, and the command fails when all its data has come.
        let bhs = it.command(0xa1, 512, write10(0, 1));
        let mut bytes = it.bytes(bhs, &[7; 512]);
        *bytes.last_mut().unwrap() ^= 1;
        it.stream.write_all(&bytes).unwrap();
        let reject = it.recv();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 2));
        let status = it.recv();
        assert_eq!((status.itt(), status.status(), status.sense()), (itt(bhs), 2, (0xb, 0x47, 0x05)));
        it.ping();
        // A header digest: the stream cannot be followed any more.
        let bhs = it.command(0xc1, 512, read10(0, 1));
        let mut bytes = it.bytes(bhs, &[]);
        bytes[33] ^= 1;
        it.stream.write_all(&bytes).unwrap();
        assert!(it.is_closed());
        assert_eq!(target.wait_lost(), "header digest error");
    });
}

#[test]
fn a_login_that_is_none_is_refused() {
    on_all(&[("handshake_ms", 300), ("login_total_ms", 300)], |target| {
        let mut it = Initiator::connect(target.address);
        it.send(head(0x01, 0xc1, 3), &[]);
        let answer = it.recv();
        assert_eq!((answer.opcode(), answer.itt(), &answer.bhs[36..38]), (0x23, 3, &[2, 0x0b][..]));
        assert!(it.is_closed());
        let mut it = Initiator::connect(target.address);
        let mut bhs = head(0x43, 0x87, 3);
        bhs[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
        it.stream.write_all(&bhs).unwrap();
        assert_eq!(it.recv().bhs[36..38], [2, 0x0b]);
        // Half a login, and silence.
        let mut it = Initiator::connect(target.address);
        it.stream.write_all(&head(0x43, 0x87, 3)[..20]).unwrap();
        assert!(it.is_closed());
        target.wait_event(|event| format!("{event:?}").contains("the login took too long"));
    });
}

#[test]
fn segments_longer_than_agreed_end_the_connection() {
    on_all(&[], |target| {
        let mut it = target.login(&Agreed { max_recv_data: 8192, ..Agreed::session(1) });
        let mut bhs = it.command(0xa1, 1 << 20, write10(0, 2048));
        bhs[5..8].copy_from_slice(&[0, 0x20, 4]);
        it.stream.write_all(&bhs).unwrap();
        let reject = it.recv();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 4));
        assert!(it.is_closed());
        drop(it);
        assert_eq!(target.wait_lost(), "data segment longer than MaxRecvDataSegmentLength");
    });
}

#[test]
fn each_connection_has_the_length_of_segments_that_its_own_login_declared() {
    on_all(&[], |target| {
        let few = Agreed { max_recv_data: 8192, ..Agreed::session(1) };
        let mut one = target.login(&few);
        one.ping();
        let mut two = target.login(&Agreed { max_recv_data: 65_536, joins: true, cid: 1, ..few });
        two.cmd_sn = one.cmd_sn;
        assert_eq!(two.write(0, &[7; 16 << 10], 16 << 10).status(), 0);
        let mut bhs = one.command(0xa1, 16 << 10, write10(0, 32));
        bhs[5..8].copy_from_slice(&[0, 0x40, 0]);
        one.stream.write_all(&bhs).unwrap();
        let reject = one.recv();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 4), "the other's is not its own");
    });
}

#[test]
fn half_a_pdu_and_data_that_never_comes_have_a_time() {
    on_all(&[("receive_stall_ms", 200), ("solicited_ms", 200)], |target| {
        let mut it = target.login(&Agreed::session(1));
        let bhs = it.command(0xa1, 1024, write10(0, 2));
        it.send(bhs, &[]);
        assert_eq!(it.recv().opcode(), 0x31);
        assert!(it.is_closed());
        assert_eq!(target.wait_lost(), "data that was asked for, or promised, did not come in time");
        // Neither does what an initiator sends unasked: F says that more follows.
        let mut agreed = Agreed::session(3);
        agreed.terms.initial_r2t = false;
        let mut it = target.login(&agreed);
        let bhs = it.command(0x21, 1024, write10(0, 2));
        it.send(bhs, &[1; 512]);
        assert!(it.is_closed());
        assert_eq!(target.wait_lost(), "data that was asked for, or promised, did not come in time");
        let mut it = target.login(&Agreed::session(2));
        it.stream.write_all(&head(0x40, 0x80, 1)[..40]).unwrap();
        assert!(it.is_closed());
        assert_eq!(target.wait_lost(), "a PDU was begun and not finished in time");
    });
}

#[test]
fn a_header_in_parts_after_a_long_silence_is_no_late_one() {
    on_all(&[("receive_stall_ms", 1000)], |target| {
        let mut it = target.login(&Agreed::session(1));
        it.ping();
        std::thread::sleep(Duration::from_millis(1200));
        let bhs = it.command(0xc1, 512, read10(0, 1));
        it.stream.write_all(&bhs[..40]).unwrap();
        // In time, and long after the header before it.
        std::thread::sleep(Duration::from_millis(100));
        it.stream.write_all(&bhs[40..]).unwrap();
        assert_eq!(it.answer(itt(bhs)).1.status(), 0);
    });
}

#[test]
fn one_that_does_not_read_is_bounded_and_closed() {
    on_all(&[("send_stall_ms", 500)], |target| {
        let mut it = target.login(&Agreed { queue_depth: 256, ..Agreed::session(1) });
        it.ping();
        let reads = (0..256).flat_map(|k| {
            let bhs = it.command(0xc1, 1 << 20, read10(k % 8, 2048));
            it.bytes(bhs, &[])
        });
        let reads: Vec<u8> = reads.collect();
        it.stream.write_all(&reads).unwrap();
        let start = Instant::now();
        while target.engine.sessions().len() > 1 {
            let held: u64 = target.engine.counters().0.iter().map(|shard| shard.buffer_bytes).sum();
            assert!(held < 24 << 20, "{held} bytes are held");
            assert!(start.elapsed() < Duration::from_secs(60), "it is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(target.wait_lost(), "the initiator does not read its replies");
    });
}

/// A Nop-Out, immediate, that wants its data back.
fn nop_out(it: &mut Initiator) -> [u8; 48] {
    let tag = it.itt();
    let mut bhs = head(0x40, 0x80, tag);
    put(&mut bhs, 20, 0xffff_ffff);
    put(&mut bhs, 24, it.cmd_sn);
    bhs
}

/// RFC 7143 11.18.3: a ping comes back with its data, cut to the initiator's MaxRecvDataSegmentLength.
#[test]
fn long_pings_come_back_whole() {
    on_all(&[], |target| {
        let data = pattern(3, 262_144);
        for (max_send_data, len) in [(262_144, 262_144), (262_144, 100_001), (100_000, 262_144)] {
            let agreed = Agreed { max_send_data, digests: (true, true), ..Agreed::session(1) };
            let mut it = target.login(&agreed);
            let bhs = nop_out(&mut it);
            it.send(bhs, &data[..len]);
            let pdu = it.recv();
            assert_eq!((pdu.opcode(), pdu.itt()), (0x20, itt(bhs)));
            assert!(pdu.data == data[..len.min(max_send_data as usize)], "{} of {len}", pdu.data.len());
            drop(it);
            target.wait_lost();
        }
    });
}

#[test]
fn long_pings_of_many_take_no_more_than_there_is() {
    let limits = [("shard_hard_bytes", 8 << 20), ("shard_soft_bytes", 4 << 20)];
    on_all(&limits, |target| {
        let bytes = || target.engine.counters().0.iter().map(|shard| shard.buffer_bytes).sum::<u64>();
        let before = bytes();
        // They send pings, more than sockets hold of the answers, and read nothing.
        let mut crowd: Vec<Initiator> = (1..=16)
            .map(|session| target.login(&Agreed { max_send_data: 262_144, ..Agreed::session(session) }))
            .collect();
        let bhs = nop_out(&mut crowd[0]);
        let pings = crowd[0].bytes(bhs, &pattern(3, 262_144)).repeat(24);
        for it in &crowd {
            receive_little(it);
            it.stream.set_nonblocking(true).unwrap();
        }
        let (mut sent, mut most, mut last) = (vec![0; crowd.len()], 0, Instant::now());
        // Until nobody takes any more of them; and however slow the shards are, until there is something to see.
        let enough = before + (2 << 20);
        while last.elapsed() < Duration::from_millis(if most > enough { 100 } else { 20_000 }) {
            for (it, sent) in crowd.iter_mut().zip(&mut sent) {
                if let Ok(1..) = it.stream.write(&pings[*sent..]).inspect(|count| *sent += count) {
                    last = Instant::now();
                }
            }
            most = most.max(bytes());
        }
        assert!(most > enough, "what is not read waits here: {most} bytes, {before} before");
        assert!(most < before + (8 << 20), "{most} bytes, {before} before");
        drop(crowd);
        target.eventually("all of it is given back", |_| bytes() <= before);
    });
}

#[test]
fn pings_find_dead_peers_and_leave_live_ones() {
    on_all(&[], |target| {
        let mut it = target.login(&Agreed { nop: (50, 1500), ..Agreed::session(1) });
        for _ in 0..3 {
            let ping = it.recv();
            assert_eq!((ping.opcode(), ping.itt()), (0x20, 0xffff_ffff));
            let mut bhs = head(0x40, 0x80, 0xffff_ffff);
            put(&mut bhs, 20, ping.word(20));
            put(&mut bhs, 24, it.cmd_sn);
            it.send(bhs, &[]);
        }
        assert!(it.is_closed(), "the fourth ping has no answer");
        assert_eq!(target.wait_lost(), "the initiator does not answer");
    });
}

/// Lets the initiator's kernel take hardly more than it reads.
fn receive_little(it: &Initiator) {
    let bytes: libc::c_int = 16 << 10;
    // SAFETY: the option takes one int.
    let result = unsafe {
        libc::setsockopt(it.stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw const bytes).cast(), 4)
    };
    assert_eq!(result, 0);
}

#[test]
fn who_reads_slowly_answers_a_ping_when_he_comes_to_it() {
    const READS: usize = 2;
    const BYTES: usize = 128 << 10;
    on_all(&[], |target| {
        let mut it = target.login(&Agreed { nop: (50, 1000), max_send_data: 16 << 10, ..Agreed::session(1) });
        receive_little(&it);
        for _ in 0..READS {
            let bhs = it.command(0xc1, BYTES as u32, read10(0, (BYTES / 512) as u16));
            it.send(bhs, &[]);
        }
        // A ping is behind all of it, and its answer is due long before this has been read.
        let (mut ended, mut got) = (0, 0);
        while ended < READS {
            std::thread::sleep(Duration::from_millis(100));
            let pdu = it.recv();
            got += pdu.data.len();
            ended += usize::from(pdu.opcode() == 0x25 && pdu.bhs[1] & 1 == 1);
        }
        assert_eq!(got, READS * BYTES);
        let ping = it.recv();
        let mut bhs = head(0x40, 0x80, 0xffff_ffff);
        put(&mut bhs, 20, ping.word(20));
        put(&mut bhs, 24, it.cmd_sn);
        it.send(bhs, &[]);
        assert_eq!(it.recv().opcode(), 0x20, "the next: the answer to the first was not too late");
        assert!(it.is_closed());
        assert_eq!(
            target.wait_lost(),
            "the initiator does not answer",
            "it takes nothing any more that could be waited for"
        );
    });
}

#[test]
fn garbage_in_full_feature_phase() {
    on_all(&[("receive_stall_ms", 300), ("linger_ms", 300)], |target| {
        for seed in 0..20u64 {
            let mut it = target.login(&Agreed { discovery: seed % 4 == 0, ..Agreed::session(10 + seed) });
            let bytes = pattern(seed * 7919, 20_000);
            let _ = it.stream.write_all(&bytes);
            let _ = it.stream.shutdown(std::net::Shutdown::Write);
            assert!(it.is_closed());
        }
    });
}

#[test]
fn an_idle_session_is_small() {
    on_all(&[], |target| {
        let held = || -> u64 { target.engine.counters().0.iter().map(|shard| shard.buffer_bytes).sum() };
        let before = held();
        let all: Vec<_> = (0..20)
            .map(|k| {
                let mut it = target.login(&Agreed::session(100 + k));
                assert_eq!(it.write(0, &[1; 65_536], 0).status(), 0);
                it
            })
            .collect();
        let kept = 8 << 20;
        assert!(held() <= before + kept + all.len() as u64 * (64 << 10));
    });
}

#[test]
fn what_comes_before_its_turn_is_bounded() {
    on_all(&[("shard_kept_bytes", 0)], |target| {
        let held = || -> u64 { target.engine.counters().0.iter().map(|shard| shard.buffer_bytes).sum() };
        let before = held();
        let mut it = target.login(&Agreed::session(1));
        it.ping();
        let first = it.command(0x81, 0, [0; 16]);
        let send = |it: &mut Initiator, opcode| {
            let mut bhs = head(opcode, 0x80, it.itt());
            put(&mut bhs, 20, 0xffff_ffff);
            put(&mut bhs, 24, it.cmd_sn);
            it.cmd_sn += 1;
            it.send(bhs, &[7; 65_536]);
            itt(bhs)
        };
        let pings: Vec<u32> = (0..20).map(|_| send(&mut it, 0x00)).collect();
        send(&mut it, 0x04);
        let reject = it.recv();
        assert_eq!((reject.opcode(), reject.bhs[2]), (0x3f, 0x0a), "no room for a text");
        assert!(held() >= before + 65_536, "it is in the books");
        it.send(first, &[]);
        assert_eq!(it.answer(itt(first)).1.status(), 0);
        for (k, tag) in pings.into_iter().enumerate() {
            let pong = it.recv();
            assert_eq!((pong.itt(), pong.data.len()), (tag, if k == 0 { 65_536 } else { 0 }));
        }
        let pdu = it.ping();
        assert_eq!(pdu.word(28), it.cmd_sn, "ExpCmdSN");
        // What still waits when its connection ends is given back with it.
        it.cmd_sn += 1;
        send(&mut it, 0x00);
        it.ping();
        drop(it);
        target.wait_lost();
        target.eventually("all memory is given back", |_| held() <= before);
    });
}

/// Sends bytes, and waits a little for the end of the connection. True: there it is.
fn ends_after(it: &mut Initiator, bytes: &[u8]) -> bool {
    it.stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
    it.stream.write_all(bytes).is_err() || it.stream.read(&mut [0; 4096]).map_or_else(|e| !timed_out(&e), |n| n == 0)
}

#[test]
fn neither_empty_data_nor_other_commands_put_off_a_deadline() {
    on_all(&[("solicited_ms", 200)], |target| {
        let late = "data that was asked for, or promised, did not come in time";
        let stalled = |it: &mut Initiator| {
            let bhs = it.command(0xa1, 1024, write10(0, 2));
            it.send(bhs, &[]);
            let r2t = it.recv();
            assert_eq!(r2t.opcode(), 0x31);
            r2t
        };
        // Data-Outs without data.
        let mut it = target.login(&Agreed::session(2));
        let r2t = stalled(&mut it);
        let start = Instant::now();
        for sn in 0.. {
            let mut bhs = head(0x05, 0, r2t.itt());
            bhs[8..16].copy_from_slice(&LUN_1.to_be_bytes());
            put(&mut bhs, 20, r2t.word(20));
            put(&mut bhs, 36, sn);
            if ends_after(&mut it, &bhs) {
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "it is still there");
        }
        drop(it);
        assert_eq!(target.wait_lost(), late);
        // All that other commands ask for.
        let mut it = target.login(&Agreed::session(3));
        stalled(&mut it);
        let start = Instant::now();
        loop {
            let bhs = it.command(0xa1, 512, write10(8, 1));
            let bytes = it.bytes(bhs, &[]);
            let Ok(()) = it.stream.write_all(&bytes) else { break };
            let Ok(r2t) = it.try_recv() else { break };
            let mut bhs = head(0x05, 0x80, r2t.itt());
            put(&mut bhs, 20, r2t.word(20));
            let bytes = it.bytes(bhs, &[1; 512]);
            let Ok(()) = it.stream.write_all(&bytes) else { break };
            let Ok(status) = it.try_recv() else { break };
            assert_eq!((status.opcode(), status.status()), (0x21, 0));
            assert!(start.elapsed() < Duration::from_secs(60), "it is still there");
        }
        drop(it);
        assert_eq!(target.wait_lost(), late);
    });
}

/// Commands whose R2Ts are sent at once, their data being 16 KiB each: a quarter of a second at the slowest rate.
fn asked_at_once(it: &mut Initiator, commands: u32) -> Vec<Pdu> {
    let ask = |n| {
        let bhs = it.command(0xa1, 16 << 10, write10(32 * n, 32));
        it.send(bhs, &[]);
        let r2t = it.recv();
        assert_eq!(r2t.opcode(), 0x31);
        r2t
    };
    (0..commands).map(ask).collect()
}

#[test]
fn data_that_comes_slowly_behind_others_data_has_time_for_these() {
    on_all(&[("solicited_ms", 1000)], |target| {
        let mut it = target.login(&Agreed::session(1));
        for (n, r2t) in asked_at_once(&mut it, 4).into_iter().enumerate() {
            if n > 0 {
                std::thread::sleep(Duration::from_millis(350));
            }
            it.data_out(r2t.itt(), r2t.word(20), 0, 0, true, &[1; 16 << 10]);
            let status = it.recv();
            assert_eq!((status.opcode(), status.itt(), status.status()), (0x21, r2t.itt(), 0));
        }
        // Not for ever: who has sent for the first of them does not send for the second.
        let asked = asked_at_once(&mut it, 2);
        it.data_out(asked[0].itt(), asked[0].word(20), 0, 0, true, &[1; 16 << 10]);
        assert_eq!(it.recv().itt(), asked[0].itt());
        assert!(it.is_closed());
        assert_eq!(target.wait_lost(), "data that was asked for, or promised, did not come in time");
    });
}
