//! iSCSI: data both ways, in every mode that can be negotiated.

mod support;

use std::sync::Arc;

use _engine::scsi::table::THIN;
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;

fn on_all(test: impl Fn(&Target, &Image)) {
    for path in paths() {
        let image = Image::new(16 * MIB);
        let target = Target::start(path, &[], 2, |engine| {
            let volume = engine.open_volume(image.spec()).unwrap();
            engine.swap_gate(volume, scsi_gate(1, 16 * MIB)).unwrap();
            volume
        });
        test(&target, &image);
    }
}

#[test]
fn a_read_comes_with_its_status() {
    on_all(|target, image| {
        std::fs::write(&image.0, pattern(0, 16 << 20)).unwrap();
        let mut it = target.login(&Agreed::session(1));
        let (data, last) = it.read(8, 8);
        assert!(data == pattern(4096, 4096));
        assert_eq!((last.opcode(), last.bhs[1], last.status()), (0x25, 0x81, 0));
        assert_eq!((last.word(24), last.word(28)), (1, 2), "StatSN, ExpCmdSN");
        assert_eq!(last.word(32), 33, "MaxCmdSN: a window of 32 commands behind the one that has ended");
    });
}

#[test]
fn long_reads_are_cut_as_agreed() {
    on_all(|target, image| {
        std::fs::write(&image.0, pattern(0, 16 << 20)).unwrap();
        for max_send_data in [512, 8192, 65_536, 262_144] {
            let agreed = Agreed { max_send_data, ..Agreed::session(u64::from(max_send_data)) };
            let mut it = target.login(&agreed);
            let itt = it.ask(3 << 20, read10(3, 6144));
            let (mut data, mut sn) = (Vec::<u8>::new(), 0);
            loop {
                let pdu = it.recv();
                assert_eq!((pdu.opcode(), pdu.itt(), pdu.word(36)), (0x25, itt, sn), "DataSN");
                assert!(pdu.data.len() <= max_send_data as usize);
                data.extend(&pdu.data);
                sn += 1;
                if pdu.bhs[1] & 1 != 0 {
                    assert_eq!(pdu.bhs[1] & 0x80, 0x80);
                    break;
                }
            }
            assert!(data == pattern(1536, 3 << 20));
        }
    });
}

#[test]
fn residuals_are_counted_both_ways() {
    on_all(|target, _| {
        let mut it = target.login(&Agreed::session(1));
        let itt = it.ask(1024, read10(0, 1));
        let (data, last) = it.answer(itt);
        assert_eq!((data.len(), last.bhs[1] & 6, last.word(44)), (512, 2, 512), "underflow");
        let itt = it.ask(256, read10(0, 1));
        let (data, last) = it.answer(itt);
        assert_eq!((data.len(), last.bhs[1] & 6, last.word(44)), (256, 4, 256), "overflow");
        let itt = it.ask(0, read10(0, 1));
        let (data, last) = it.answer(itt);
        assert_eq!((data.len(), last.bhs[1] & 6, last.word(44)), (0, 4, 512));

        // WRITE of one block, 1024 bytes expected: the block is written, the rest is not asked for.
        let bhs = it.command(0xa1, 1024, write10(0, 1));
        it.send(bhs, &[]);
        let r2t = it.recv();
        assert_eq!((r2t.opcode(), r2t.word(44)), (0x31, 512));
        it.data_out(r2t.itt(), r2t.word(20), 0, 0, true, &[7; 512]);
        let status = it.recv();
        assert_eq!((status.status(), status.bhs[1] & 6, status.word(44)), (0, 2, 512));
    });
}

/// RFC 7143 11.4.5.2: the residual is what was not transferred; what was stays where it is.
#[test]
fn a_read_that_fails_half_way_counts_what_it_has_sent() {
    on_all(|target, image| {
        let mut it = target.login(&Agreed::session(1));
        std::fs::File::options().write(true).open(&image.0).unwrap().set_len(600 << 10).unwrap();
        let itt = it.ask(1 << 20, read10(0, 2048));
        let (data, status) = it.answer(itt);
        assert_eq!((status.opcode(), status.status(), status.sense().0), (0x21, 2, 3), "MEDIUM ERROR");
        assert!(data.len() >= 256 << 10, "pieces went before the one that failed");
        assert_eq!((status.bhs[1] & 6, status.word(44) as usize), (2, (1 << 20) - data.len()));
    });
}

/// PARAMETER LIST LENGTH says how much of it there is (SPC-4 4.2.5.5), whatever the initiator would send.
#[test]
fn residuals_of_parameter_lists() {
    const MODE_SELECT_16: [u8; 6] = [0x15, 0x10, 0, 0, 16, 0];
    const MODE_SELECT_NONE: [u8; 6] = [0x15, 0x10, 0, 0, 0, 0];
    const PERSISTENT_RESERVE_OUT: [u8; 10] = [0x5f, 0, 0, 0, 0, 0, 0, 0, 24, 0];
    const RESERVE_6: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
    const TEST_UNIT_READY: [u8; 6] = [0; 6];
    let of = |short: &[u8]| {
        let mut cdb = [0; 16];
        cdb[..short.len()].copy_from_slice(short);
        cdb
    };
    let (under, over) = (2, 4);
    // CDB, expected, what Python gets of it, flags, residual count.
    for (cdb, expected, taken, flag, residual) in [
        (of(&MODE_SELECT_16), 16, Some(16), 0, 0),
        (of(&MODE_SELECT_16), 512, Some(16), under, 496),
        (of(&MODE_SELECT_NONE), 512, Some(0), under, 512),
        (of(&PERSISTENT_RESERVE_OUT), 512, Some(24), under, 488),
        (of(&PERSISTENT_RESERVE_OUT), 8, Some(8), over, 16),
        (of(&RESERVE_6), 512, Some(0), under, 512),
        (of(&TEST_UNIT_READY), 512, None, under, 512),
    ] {
        on_all(|target, _| {
            for immediate in [true, false] {
                let mut agreed = Agreed::session(1 + u64::from(immediate));
                agreed.terms.immediate_data = immediate;
                let mut it = target.login(&agreed);
                let bhs = it.command(0xa1, expected, cdb);
                let data = vec![7; expected as usize];
                it.send(bhs, if immediate { &data } else { &[] });
                if let (false, Some(taken @ 1..)) = (immediate, taken) {
                    let r2t = it.recv();
                    assert_eq!((r2t.opcode(), r2t.word(44)), (0x31, taken), "nothing beyond it is asked for");
                    it.data_out(r2t.itt(), r2t.word(20), 0, 0, true, &data[..taken as usize]);
                }
                if immediate || taken.is_some() {
                    let (task, _, data) = target.wait_command();
                    assert_eq!(data, vec![7; taken.unwrap_or(0) as usize]);
                    target.engine.complete(task, 0, vec![], vec![]);
                }
                let status = it.recv();
                assert_eq!((status.opcode(), status.status()), (0x21, 0));
                assert_eq!((status.bhs[1] & 6, status.word(44)), (flag, residual), "{cdb:?} {expected}");
            }
        });
    }
}

/// SBC-3 5.42: GOOD says that every block compared equal.
#[test]
fn a_verify_compares_all_or_is_refused() {
    on_all(|target, _| {
        let mut it = target.login(&Agreed::session(1));
        let mut cdb = rw10(0x2f, 0, 8);
        cdb[1] = 0x02;
        for expected in [0, 512] {
            let bhs = it.command(if expected == 0 { 0x81 } else { 0xa1 }, expected, cdb);
            it.send(bhs, &vec![0; expected as usize]);
            let status = it.recv();
            assert_eq!((status.opcode(), status.status(), status.sense()), (0x21, 2, (5, 0x0e, 3)), "{expected}");
        }
        let bhs = it.command(0xa1, 4096, cdb);
        it.send(bhs, &[0; 4096]);
        assert_eq!(it.recv().status(), 0);
    });
}

/// SBC-3 4.7.2: blocks of a fully provisioned unit are mapped, all of them; a sparse file's need not be.
#[test]
fn only_a_thin_unit_has_blocks_that_are_deallocated() {
    on_all(|target, _| {
        let mut it = target.login(&Agreed::session(1));
        //            LBA                        allocation length
        let cdb = [0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0];
        for (generation, met, provisioning) in [(2, THIN, 1), (3, 0, 0)] {
            let mut gate = scsi_gate(generation, 16 * MIB);
            Arc::make_mut(gate.scsi.as_mut().unwrap()).needs_met = met;
            target.engine.swap_gate(target.volume, gate).unwrap();
            let itt = it.ask(24, cdb);
            let (data, _) = it.answer(itt);
            assert_eq!(data[16..], [0, 0, 0x80, 0, provisioning, 0, 0, 0], "blocks, PROVISIONING STATUS");
        }
    });
}

#[test]
fn writes_in_every_mode() {
    on_all(|target, image| {
        let mut session = 0;
        for (initial_r2t, immediate_data) in [(true, true), (true, false), (false, true), (false, false)] {
            for (len, digests) in [(512, (false, false)), (65_536, (true, true)), (1 << 20, (false, true))] {
                session += 1;
                let mut agreed = Agreed { digests, ..Agreed::session(session) };
                agreed.terms.initial_r2t = initial_r2t;
                agreed.terms.immediate_data = immediate_data;
                agreed.terms.max_outstanding_r2t = session as usize % 3 + 1;
                let mut it = target.login(&agreed);
                let data = pattern(session * 17, len);
                let first = len.min(65_536);
                let immediate = if immediate_data { first / 2 } else { 0 };
                let unsolicited = !initial_r2t;
                let flags = if unsolicited { 0x21 } else { 0xa1 };
                let bhs = it.command(flags, len as u32, write10(1024, (len / 512) as u16));
                let itt = u32::from_be_bytes(bhs[16..20].try_into().unwrap());
                it.send(bhs, &data[..immediate]);
                if unsolicited {
                    let (a, b) = (immediate + (first - immediate) / 2, first);
                    it.data_out(itt, 0xffff_ffff, 0, immediate as u32, false, &data[immediate..a]);
                    it.data_out(itt, 0xffff_ffff, 1, a as u32, true, &data[a..b]);
                }
                let status = it.write_out(itt, &data);
                assert_eq!(status.status(), 0, "{status:?}");
                assert!(image.bytes()[1024 * 512..][..len] == data, "{agreed:?}");
                let (back, _) = it.read(1024, (len / 512) as u16);
                assert!(back == data);
            }
        }
    });
}

#[test]
fn all_that_is_sent_at_once_is_answered() {
    on_all(|target, image| {
        std::fs::write(&image.0, pattern(0, 16 << 20)).unwrap();
        let mut it = target.login(&Agreed { digests: (true, true), ..Agreed::session(1) });
        it.ping();
        let mut burst = Vec::new();
        let mut tags = Vec::new();
        for k in 0..32u32 {
            let bhs = it.command(0xc1, 4096, read10(k * 8, 8));
            tags.push(u32::from_be_bytes(bhs[16..20].try_into().unwrap()));
            burst.extend(it.bytes(bhs, &[]));
        }
        std::io::Write::write_all(&mut it.stream, &burst).unwrap();
        for (k, itt) in tags.into_iter().enumerate() {
            let (data, _) = it.answer(itt);
            assert!(data == pattern(k as u64 * 4096, 4096));
        }
    });
}

/// More than a connection may bring before others have their turn: which byte that is must not matter.
#[test]
fn a_burst_longer_than_a_turn_is_taken_whole() {
    on_all(|target, _| {
        let mut agreed = Agreed { queue_depth: 128, ..Agreed::session(1) };
        agreed.terms.initial_r2t = false;
        let mut it = target.login(&agreed);
        it.ping();
        for round in 0..4u64 {
            let data = pattern(round, 8 << 20);
            let (mut burst, mut tags) = (Vec::new(), Vec::new());
            for (k, part) in data.chunks(65_536).enumerate() {
                let bhs = it.command(0x21, 65_536, write10(k as u32 * 128, 128));
                let itt = u32::from_be_bytes(bhs[16..20].try_into().unwrap());
                tags.push(itt);
                burst.extend(it.bytes(bhs, &part[..4096]));
                for (sn, bytes) in part[4096..].chunks(4096).enumerate() {
                    let mut bhs = head(0x05, if sn == 14 { 0x80 } else { 0 }, itt);
                    bhs[8..16].copy_from_slice(&LUN_1.to_be_bytes());
                    put(&mut bhs, 20, 0xffff_ffff);
                    put(&mut bhs, 36, sn as u32);
                    put(&mut bhs, 40, 4096 * (sn as u32 + 1));
                    burst.extend(it.bytes(bhs, bytes));
                }
            }
            let mut stream = it.stream.try_clone().unwrap();
            let sender = std::thread::spawn(move || std::io::Write::write_all(&mut stream, &burst).unwrap());
            for itt in tags {
                assert_eq!(it.answer(itt).1.status(), 0);
            }
            sender.join().unwrap();
            assert!(it.read(0, 16_384).0 == data);
        }
    });
}

/// The last byte that comes is the one that uses the turn up: nothing else will come that could end the PDU.
#[test]
fn what_ends_with_its_turn_is_not_forgotten() {
    on_all(|target, _| {
        let mut it = target.login(&Agreed::session(1));
        it.ping();
        let data = pattern(7, 128 * 512);
        // A turn is 2 MiB, and a WRITE takes twice its data of it, as it comes and as it is written, and a little:
        // of some sizes it is the former that is too much.
        for blocks in [117u16, 117, 117, 101, 93, 85, 79, 75] {
            for count in 15..=26u32 {
                let mut burst = Vec::new();
                let mut tags = Vec::new();
                for k in 0..count {
                    let len = usize::from(blocks) * 512;
                    let bhs = it.command(0xa1, len as u32, write10(k * 128, blocks));
                    tags.push(u32::from_be_bytes(bhs[16..20].try_into().unwrap()));
                    burst.extend(it.bytes(bhs, &data[..len]));
                }
                std::io::Write::write_all(&mut it.stream, &burst).unwrap();
                for itt in tags {
                    assert_eq!(it.answer(itt).1.status(), 0);
                }
            }
        }
    });
}

#[test]
fn other_commands_do_what_they_say() {
    on_all(|target, image| {
        std::fs::write(&image.0, pattern(0, 16 << 20)).unwrap();
        let mut it = target.login(&Agreed::session(1));
        // SYNCHRONIZE CACHE, PRE-FETCH, VERIFY without data.
        for opcode in [0x35, 0x34, 0x2f] {
            let itt = it.ask(0, rw10(opcode, 0, 8));
            let (_, status) = it.answer(itt);
            assert!(matches!(status.status(), 0 | 4), "{opcode:#x}: {status:?}");
        }
        // WRITE SAME(10) of one block over eight.
        let bhs = it.command(0xa1, 512, rw10(0x41, 16, 8));
        it.send(bhs, &[5; 512]);
        let status = it.recv();
        assert_eq!(status.status(), 0, "{status:?}");
        assert!(image.bytes()[8192..8192 + 4096] == [5; 4096]);
        // UNMAP of the same.
        let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 8, 0, 0, 0, 0];
        list.resize(24, 0);
        let mut cdb = [0; 16];
        cdb[0] = 0x42;
        cdb[8] = 24;
        let bhs = it.command(0xa1, 24, cdb);
        it.send(bhs, &list);
        let status = it.recv();
        assert_eq!(status.status(), 0, "{status:?}");
        let (data, _) = it.read(16, 8);
        assert!(data == [0; 4096]);
        // COMPARE AND WRITE: once as expected, once not.
        let mut cdb = [0; 16];
        (cdb[0], cdb[9], cdb[13]) = (0x89, 16, 1);
        let both = [[0u8; 512], [9; 512]].concat();
        let bhs = it.command(0xa1, 1024, cdb);
        it.send(bhs, &both);
        assert_eq!(it.recv().status(), 0);
        assert!(image.bytes()[8192..8704] == [9; 512]);
        let bhs = it.command(0xa1, 1024, cdb);
        it.send(bhs, &both);
        let status = it.recv();
        assert_eq!((status.status(), status.sense()), (2, (0xe, 0x1d, 0)));
        // Beyond the end.
        let itt = it.ask(512, read10(32_768, 1));
        let (_, status) = it.answer(itt);
        assert_eq!((status.status(), status.sense()), (2, (5, 0x21, 0)));
        // A ready answer, cut to the allocation length.
        let mut inquiry = [0; 16];
        (inquiry[0], inquiry[4]) = (0x12, 12);
        let itt = it.ask(96, inquiry);
        let (data, status) = it.answer(itt);
        assert_eq!((&data[..], status.bhs[1] & 6, status.word(44)), (&b"INQUIRY data"[..], 2, 84));
    });
}

/// A unit whose requests end when the test says so.
fn on_held(limits: &[(&str, u64)], test: impl Fn(&Target, &Arc<Held>)) {
    on_blocks_of(1, limits, test);
}

/// The same, on storage with blocks of so many bytes.
fn on_blocks_of(alignment: u32, limits: &[(&str, u64)], test: impl Fn(&Target, &Arc<Held>)) {
    for path in paths() {
        let held = Held::of_blocks(alignment, 16 * MIB);
        let target = Target::start(path, limits, 2, |engine| {
            let volume = held.volume(engine);
            engine.swap_gate(volume, scsi_gate(2, 16 * MIB)).unwrap();
            volume
        });
        test(&target, &held);
        held.finish(Err(libc::EIO));
    }
}

/// Sends an ORWRITE (16) without data; gives its tag.
fn or_write(it: &mut Initiator, lba: u64, len: usize) -> u32 {
    let bhs = it.command(0xa1, len as u32, or_write_cdb(lba, len));
    it.send(bhs, &[]);
    tag_of(bhs)
}

fn or_write_cdb(lba: u64, len: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = 0x8b;
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&(len as u32 / 512).to_be_bytes());
    cdb
}

fn tag_of(bhs: [u8; 48]) -> u32 {
    u32::from_be_bytes(bhs[16..20].try_into().unwrap())
}

/// An R2T for a command's next piece.
fn r2t(it: &mut Initiator, tag: u32) -> Pdu {
    let pdu = it.recv();
    assert_eq!((pdu.opcode(), pdu.itt()), (0x31, tag), "{pdu:?}");
    pdu
}

fn give(it: &mut Initiator, r2t: &Pdu, data: &[u8]) {
    let (offset, len) = (r2t.word(40), r2t.word(44) as usize);
    it.data_out(r2t.itt(), r2t.word(20), 0, offset, true, &data[offset as usize..][..len]);
}

fn waiting(target: &Target) -> usize {
    target.engine.tasks().iter().filter(|task| task.phase == "waiting-range").count()
}

#[test]
fn a_long_orwrite_ors_all_of_it() {
    on_all(|target, image| {
        let (old, data) = (pattern(0, 16 << 20), pattern(5, 600 << 10));
        std::fs::write(&image.0, &old).unwrap();
        let mut it = target.login(&Agreed::session(1));
        let tag = or_write(&mut it, 8, data.len());
        assert_eq!(it.write_out(tag, &data).status(), 0);
        let both: Vec<u8> = old[4096..].iter().zip(&data).map(|(a, b)| a | b).collect();
        let found = image.bytes();
        assert!(found[4096..][..data.len()] == both);
        assert!(found[..4096] == old[..4096] && found[4096 + data.len()..] == old[4096 + data.len()..]);
    });
}

/// SBC-3, ORWRITE (16): "an uninterrupted series of actions".
#[test]
fn nobody_comes_between_the_pieces_of_an_orwrite() {
    on_held(&[], |target, held| {
        let data = vec![0x55; 600 << 10];
        let mut it = target.login(&Agreed::session(1));
        let mut other = target.login(&Agreed::session(2));
        let tag = or_write(&mut it, 8, data.len());
        let asked = r2t(&mut it, tag);
        give(&mut it, &asked, &data);
        target.eventually("its first piece is begun", |_| held.count() == 1);
        // To blocks of the last piece, whose data has not come.
        let bhs = other.command(0xa1, 512, write10(1200, 1));
        other.send(bhs, &[7; 512]);
        target.eventually("the other one waits", |_| waiting(target) == 1);
        for pieces in 2..=3 {
            let asked = r2t(&mut it, tag);
            give(&mut it, &asked, &data);
            target.eventually("the next piece is begun", |_| held.count() == pieces);
        }
        held.finish(Ok(()));
        assert_eq!(it.answer(tag).1.status(), 0);
        target.eventually("the other one is begun", |_| held.finish(Ok(())) == 1);
        assert_eq!(other.answer(tag_of(bhs)).1.status(), 0);
    });
}

/// Where its session has no room for more, its first burst is a piece by itself.
#[test]
fn nobody_comes_between_a_short_orwrites_first_burst_and_the_rest() {
    on_held(&[("session_bytes", 512 << 10)], |target, held| {
        let data = vec![0x55; 256 << 10];
        let mut it = target.login(&Agreed::session(1));
        let mut other = target.login(&Agreed::session(2));
        for lba in [2048, 4096] {
            let bhs = it.command(0xa1, 256 << 10, write10(lba, 512));
            it.send(bhs, &[]);
            let asked = r2t(&mut it, tag_of(bhs));
            give(&mut it, &asked, &data);
        }
        target.eventually("its session's memory is at the disk", |_| held.count() == 2);
        let bhs = it.command(0xa1, 256 << 10, or_write_cdb(0, data.len()));
        it.send(bhs, &data[..65_536]);
        target.eventually("its first burst is, too", |_| held.count() == 3);
        let waits = other.command(0xa1, 512, write10(500, 1));
        other.send(waits, &[7; 512]);
        target.eventually("the other one waits", |_| waiting(target) == 1);
        loop {
            held.finish(Ok(()));
            if it.is_silent() {
                continue;
            }
            let pdu = it.recv();
            match pdu.opcode() {
                0x31 => give(&mut it, &pdu, &data),
                _ => assert_eq!(pdu.status(), 0),
            }
            if (pdu.opcode(), pdu.itt()) == (0x21, tag_of(bhs)) {
                break;
            }
        }
        target.eventually("the other one is begun", |_| held.finish(Ok(())) == 1);
        assert_eq!(other.answer(tag_of(waits)).1.status(), 0);
    });
}

/// What shares a block of the storage is read and written back as a whole: such pieces follow one another.
#[test]
fn pieces_of_an_orwrite_that_share_a_block_are_not_written_at_once() {
    on_blocks_of(4096, &[], |target, held| {
        let data = vec![0x55; 600 << 10];
        let mut it = target.login(&Agreed::session(1));
        let tag = or_write(&mut it, 1, data.len());
        for _ in 0..3 {
            let asked = r2t(&mut it, tag);
            give(&mut it, &asked, &data);
            target.eventually("it is begun", |_| held.count() == 1);
            it.ping(); // there is no R2T before its answer
            held.finish(Ok(()));
        }
        assert_eq!(it.answer(tag).1.status(), 0);
    });
}

#[test]
fn the_range_of_an_orwrite_that_ends_early_is_free() {
    on_held(&[], |target, held| {
        let data = vec![0x55; 600 << 10];
        let mut other = target.login(&Agreed::session(1));
        for is_lost in [true, false] {
            let mut it = target.login(&Agreed::session(2 + u64::from(is_lost)));
            let tag = or_write(&mut it, 0, data.len());
            let asked = r2t(&mut it, tag);
            give(&mut it, &asked, &data);
            let asked = r2t(&mut it, tag);
            let bhs = other.command(0xa1, 512, write10(1000, 1));
            other.send(bhs, &[7; 512]);
            target.eventually("the other one waits", |_| waiting(target) == 1);
            let (it, result) = match is_lost {
                // Its data is still to come when a piece fails: not waited for.
                false => (Some(it), Err(libc::EIO)),
                true => {
                    drop(it);
                    target.wait_lost();
                    (None, Ok(()))
                }
            };
            assert_eq!((held.count(), waiting(target)), (1, 1), "what was begun is not over");
            held.finish_first(result);
            target.eventually("the other one is begun", |_| held.finish(Ok(())) == 1);
            assert_eq!(other.answer(tag_of(bhs)).1.status(), 0);
            if let Some(mut it) = it {
                give(&mut it, &asked, &data);
                assert_eq!(it.answer(tag).1.status(), 2);
            }
        }
        target.eventually("nothing is in flight", |engine| engine.volumes()[0].in_flight() == 0);
    });
}

/// By its CmdSN the ORWRITE comes after it (RFC 7143 4.2.3.3). It may have to wait for NBD writes, which wait for the
/// range.
#[test]
fn an_orwrite_goes_on_during_a_reset_that_it_has_overtaken() {
    on_held(&[], |target, held| {
        let data = vec![0x55; 600 << 10];
        let mut it = target.login(&Agreed::session(1));
        let tag = or_write(&mut it, 0, data.len());
        let asked = r2t(&mut it, tag);
        give(&mut it, &asked, &data);
        target.eventually("its first piece is begun", |_| held.count() == 1);
        it.cmd_sn -= 1;
        it.manage(5, u32::MAX, 0);
        it.cmd_sn += 1;
        let (reset, ..) = target.wait_management();
        for pieces in 2..=3 {
            let asked = r2t(&mut it, tag);
            give(&mut it, &asked, &data);
            target.eventually("the next piece is begun", |_| held.count() == pieces);
        }
        held.finish(Ok(()));
        assert_eq!(it.answer(tag).1.status(), 0);
        target.engine.management_done(reset, 0);
        assert_eq!(it.recv().opcode(), 0x22);
    });
}

/// What an ORWRITE needs to go on may be held by those who wait for its range.
#[test]
fn an_orwrite_goes_on_whatever_those_hold_who_wait_for_it() {
    // Data of eight pieces may be on its way, a quarter of this.
    on_held(&[("shard_hard_bytes", 8 * MIB)], |target, held| {
        let data = vec![0x55; 2 << 20];
        let piece = &data[..256 << 10];
        let mut it = target.login(&Agreed::session(1));
        let tag = or_write(&mut it, 0, data.len());
        for _ in 0..4 {
            let asked = r2t(&mut it, tag);
            give(&mut it, &asked, &data);
        }
        target.eventually("as many are begun as may be", |_| held.count() == 4);
        let ask = |it: &mut Initiator, k: u32| {
            let bhs = it.command(0xa1, piece.len() as u32, write10(k * 512, 512));
            it.send(bhs, &[]);
            r2t(it, tag_of(bhs))
        };
        let writes: Vec<Pdu> = (0..8).map(|k| ask(&mut it, k)).collect();
        held.finish(Ok(()));
        for k in 4..8 {
            let asked = r2t(&mut it, tag);
            if k == 4 {
                writes.iter().for_each(|asked| give(&mut it, asked, piece));
                target.eventually("all wait", |_| waiting(target) == 8);
            }
            give(&mut it, &asked, &data);
            target.eventually("the next piece is begun", |_| held.finish(Ok(())) == 1);
        }
        assert_eq!(it.answer(tag).1.status(), 0);
        target.eventually("the others are begun", |_| held.count() == 8);
        held.finish(Ok(()));
        (0..8).for_each(|_| assert_eq!(it.recv().status(), 0));
    });
}
