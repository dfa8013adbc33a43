//! Sessions of several connections: whose turn it is, and what none of that may cost anybody else.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use _engine::shard::engine::Engine;
use _engine::shard::status::SessionStatus;
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;

fn buffer_bytes(target: &Target) -> u64 {
    target.engine.counters().0.iter().map(|shard| shard.buffer_bytes).sum()
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

fn small_bursts(session: u64) -> Agreed {
    let mut agreed = Agreed { queue_depth: 64, ..Agreed::session(session) };
    (agreed.terms.first_burst, agreed.terms.initial_r2t) = (65_536, false);
    agreed
}

/// Answers R2Ts until each of `tags` has its status, which is to be GOOD. Each command writes `data`.
fn write_all_out(it: &mut Initiator, mut tags: Vec<u32>, data: &[u8]) {
    while !tags.is_empty() {
        let pdu = it.recv();
        let at = tags.iter().position(|tag| *tag == pdu.itt()).expect("one of them");
        match pdu.opcode() {
            0x31 => {
                let (offset, len) = (pdu.word(40), pdu.word(44) as usize);
                let part = &data[offset as usize..offset as usize + len];
                it.data_out(pdu.itt(), pdu.word(20), 0, offset, true, part);
            }
            _ => {
                assert_eq!((pdu.opcode(), pdu.status()), (0x21, 0), "{pdu:?}");
                tags.remove(at);
            }
        }
    }
}

#[test]
fn what_the_window_promises_has_room() {
    // Room for two whole commands, and for eight first bursts: the window is as large as that.
    with_image(&[("session_bytes", 512 << 10)], 16 * MIB, |target| {
        let mut it = target.login(&small_bursts(1));
        it.ping();
        let window = it.max_cmd_sn + 1 - it.cmd_sn;
        assert_eq!(window, 8);
        let data = pattern(1, 256 << 10);
        let mut tags = Vec::new();
        // All of them with their first bursts, before any of them is asked for the rest.
        for k in 0..window {
            let bhs = it.command(0xa1, 256 << 10, write10(k * 512, 512));
            it.send(bhs, &data[..65_536]);
            tags.push(itt(bhs));
        }
        write_all_out(&mut it, tags, &data);
        for k in 0..window {
            assert!(it.read(k * 512, 512).0 == data);
        }
        // Those whose data cannot be had in parts, COMPARE AND WRITE, are put together too.
        let mut tags = Vec::new();
        for k in 0..window {
            let bhs = compare_and_write(&mut it, k * 512, 128);
            it.send(bhs, &data[..4096]);
            tags.push(itt(bhs));
        }
        write_all_out(&mut it, tags, &data);
        for k in 0..window {
            assert!(it.read(k * 512, 128).0 == data[65_536..131_072], "written where the other half was found");
        }
    });
}

#[test]
fn what_a_session_has_done_is_shown_once() {
    with_limits(&[], |target, held| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        one.ping();
        for _ in 0..2 {
            for turn in 0..2 {
                let (it, other) = if turn == 0 { (&mut one, &mut two) } else { (&mut two, &mut one) };
                let tag = it.ask(512, read10(0, 1));
                target.eventually("it is held", |_| held.count() == 1);
                held.finish(Ok(()));
                assert_eq!(it.answer(tag).1.status(), 0);
                other.cmd_sn = it.cmd_sn;
            }
        }
        let all = target.engine.sessions();
        let reads: u64 = all.iter().filter_map(|it| it.counts.as_ref()).map(|counts| counts.0[0].ops).sum();
        assert_eq!((all.len(), reads), (2, 4));
    });
}

#[test]
fn commands_before_their_turn_leave_room_for_the_one_before_them() {
    with_limits(&[("session_bytes", 512 << 10)], |target, held| {
        let mut one = target.login(&small_bursts(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..small_bursts(1) });
        one.ping();
        let window = one.max_cmd_sn + 1 - one.cmd_sn;
        let data = pattern(1, 256 << 10);
        let first = one.command(0xa1, 256 << 10, write10(0, 512));
        two.cmd_sn = one.cmd_sn;
        let mut tags = Vec::new();
        for k in 1..window {
            let bhs = two.command(0xa1, 256 << 10, write10(k * 512, 512));
            two.send(bhs, &data[..4096]);
            tags.push(itt(bhs));
        }
        two.ping();
        one.send(first, &data[..65_536]);
        let r2t = one.recv();
        assert_eq!((r2t.opcode(), r2t.itt()), (0x31, itt(first)));
        one.data_out(itt(first), r2t.word(20), 0, r2t.word(40), true, &data[r2t.word(40) as usize..]);
        target.eventually("it is whole", |_| held.count() > 0);
        held.finish(Ok(()));
        assert_eq!(one.answer(itt(first)).1.status(), 0);
    });
}

#[test]
fn without_room_in_its_shard_a_command_waits_or_is_refused_but_never_stands_before_data() {
    // A quarter of it is for data that is to come.
    with_image(&[("shard_hard_bytes", 8 << 20), ("silent_data_ms", 60_000)], 16 * MIB, |target| {
        let (mut it, mut other) = (target.login(&small_bursts(1)), target.login(&small_bursts(2)));
        it.ping();
        other.ping();
        let data = pattern(1, 256 << 10);
        let mut r2ts = Vec::new();
        for k in 0..8 {
            let bhs = it.command(0xa1, 256 << 10, write10(k * 512, 512));
            it.send(bhs, &[]);
            let r2t = it.recv();
            assert_eq!((r2t.opcode(), r2t.itt()), (0x31, itt(bhs)));
            r2ts.push(r2t);
        }
        // Some is kept for the first of other sessions. When that is taken too, one whose session waits for nothing
        // waits itself, without being read any further.
        let firsts: Vec<Initiator> = (3..11)
            .map(|session| {
                let mut one = target.login(&small_bursts(session));
                let bhs = one.command(0xa1, 256 << 10, write10(0, 512));
                one.send(bhs, &[]);
                assert_eq!(one.recv().opcode(), 0x31);
                one
            })
            .collect();
        let waits = other.command(0xa1, 512, write10(9 * 512, 1));
        other.send(waits, &data[..512]);
        assert!(other.is_silent());
        // One behind which other data may come does not.
        let refused = it.command(0xa1, 512, write10(8 * 512, 1));
        it.send(refused, &data[..512]);
        let pdu = it.recv();
        assert_eq!((pdu.opcode(), pdu.itt(), pdu.status()), (0x21, itt(refused), 0x28), "TASK SET FULL");
        for r2t in r2ts {
            it.data_out(r2t.itt(), r2t.word(20), 0, 0, true, &data);
            assert_eq!(it.answer(r2t.itt()).1.status(), 0);
        }
        drop(firsts);
        assert_eq!(other.answer(itt(waits)).1.status(), 0);
        assert_eq!(it.write(0, &data[..512], 512).status(), 0);
    });
}

/// Takes all the room that a shard of 8 MiB has for data that is to come: first what anybody may have, then what is kept
/// for those that have none.
fn take_all_room(target: &Target, first_session: u64) -> Vec<Initiator> {
    (0..9)
        .map(|k| {
            let mut one = target.login(&small_bursts(first_session + k));
            for _ in 0..if k == 0 { 8 } else { 1 } {
                let bhs = one.command(0xa1, 256 << 10, write10(0, 512));
                one.send(bhs, &[]);
                assert_eq!(one.recv().opcode(), 0x31);
            }
            one
        })
        .collect()
}

#[test]
fn who_waits_for_the_shards_memory_is_woken_whatever_its_session_has_at_a_disk_that_hangs() {
    for path in paths() {
        let held = Held::new(64 * MIB);
        let limits = [("shard_hard_bytes", 8 << 20), ("shard_soft_bytes", 4 << 20), ("silent_data_ms", 60_000)];
        let target = Target::start(path, &limits, 1, |engine| {
            let volume = held.volume(engine);
            engine.swap_gate(volume, scsi_gate(2, 64 * MIB)).unwrap();
            volume
        });
        // A connection of two that is not read, the only one, and a command that is to be asked for its data.
        let mut one = target.login(&small_bursts(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..small_bursts(1) });
        let (mut alone, mut asked) = (target.login(&small_bursts(2)), target.login(&small_bursts(3)));
        for it in [&mut one, &mut alone, &mut asked] {
            it.ask(512, read10(0, 1));
        }
        target.eventually("their READs are at the disk", |_| held.count() == 3);
        let holders = take_all_room(&target, 10);
        two.cmd_sn = one.cmd_sn;
        for (lba, it) in [(8, &mut two), (16, &mut alone)] {
            let waits = it.command(0xa1, 512, write10(lba, 1));
            it.send(waits, &[1; 512]);
        }
        let waits = asked.command(0xa1, 512, write10(24, 1));
        asked.send(waits, &[]);
        for it in [&mut two, &mut alone, &mut asked] {
            assert!(it.is_silent());
        }
        drop(holders);
        target.eventually("WRITEs of both are there, too", |_| held.count() == 5);
        let r2t = asked.recv();
        assert_eq!((r2t.opcode(), r2t.itt()), (0x31, itt(waits)));
        held.finish(Err(libc::EIO));
    }
}

/// It is tried again when something is given back, not over and over: each try copies what has come behind it.
#[test]
fn a_header_that_waits_for_room_is_tried_once_and_then_when_there_may_be_some() {
    with_image(&[("shard_hard_bytes", 8 << 20)], 16 * MIB, |target| {
        let tries = |engine: &Engine| engine.counters().0.iter().map(|shard| shard.put_off).sum::<u64>();
        let mut waits = target.login(&small_bursts(1));
        waits.ping();
        let holders = take_all_room(target, 10);
        let bhs = waits.command(0xa1, 65_536, write10(9 * 512, 128));
        waits.send(bhs, &[1; 65_536]);
        target.eventually("it is put off", |engine| tries(engine) > 0);
        assert!(waits.is_silent());
        let count = tries(&target.engine);
        assert!(count < 16, "{count} tries");
        drop(holders);
        assert_eq!(waits.answer(itt(bhs)).1.status(), 0);
    });
}

/// Its peer keeps the connection for as long as it may.
#[test]
fn who_is_being_closed_is_not_waited_for_by_those_that_want_room() {
    let limits = [("shard_hard_bytes", 8 << 20), ("silent_data_ms", 60_000), ("linger_ms", 600_000)];
    with_image(&limits, 16 * MIB, |target| {
        let mut holders = take_all_room(target, 10);
        let (mut first, mut second) = (target.login(&small_bursts(1)), target.login(&small_bursts(2)));
        let bhs = first.command(0xa1, 256 << 10, write10(0, 512));
        first.send(bhs, &[]);
        first.ping();
        // A data segment that is longer than the target takes.
        let mut longest = first.bytes(head(0x40, 0x80, 77), &[]);
        longest[5..8].copy_from_slice(&[0xff; 3]);
        first.stream.write_all(&longest).unwrap();
        assert_eq!(first.recv().opcode(), 0x3f);
        let waits = second.command(0xa1, 256 << 10, write10(0, 512));
        second.send(waits, &[]);
        second.ping();
        holders.truncate(1);
        let r2t = second.recv();
        assert_eq!((r2t.opcode(), r2t.itt()), (0x31, itt(waits)));
        drop(first);
    });
}

/// Nobody that holds the room is silent, so that none is to be had, for however long one waits.
#[test]
fn a_header_that_has_waited_for_room_for_long_is_refused_and_its_shard_goes_on() {
    for path in paths() {
        let held = Held::new(64 * MIB);
        let target = Target::start(path, &[("shard_hard_bytes", 8 << 20), ("silent_data_ms", 50)], 1, |engine| {
            let volume = held.volume(engine);
            engine.swap_gate(volume, scsi_gate(2, 64 * MIB)).unwrap();
            volume
        });
        let data = pattern(1, 256 << 10);
        // WRITEs that have all their data, and wait for a READ that hangs.
        let mut holders: Vec<Initiator> = (0..9)
            .map(|k| {
                let mut agreed = Agreed { queue_depth: 64, ..Agreed::session(10 + k) };
                agreed.terms.first_burst = 256 << 10;
                let mut one = target.login(&agreed);
                one.ask(512, read10(0, 1));
                for _ in 0..if k == 0 { 8 } else { 1 } {
                    let bhs = one.command(0xa2, 256 << 10, write10(512, 512));
                    one.send(bhs, &data);
                }
                one.ping();
                one
            })
            .collect();
        let mut others: Vec<Initiator> = (1..4).map(|session| target.login(&small_bursts(session))).collect();
        let wait = |it: &mut Initiator| {
            let bhs = it.command(0xa1, 512, write10(8, 1));
            it.send(bhs, &[1; 512]);
            bhs
        };
        let waiting: Vec<[u8; 48]> = others.iter_mut().map(wait).collect();
        for (it, bhs) in others.iter_mut().zip(waiting) {
            assert_eq!(it.answer(itt(bhs)).1.status(), 0x28, "TASK SET FULL");
            it.ping();
        }
        holders[0].ping();
        drop((holders, others));
        target.eventually("all has ended", |engine| {
            held.finish(Err(libc::EIO));
            engine.tasks().is_empty()
        });
    }
}

/// However many others announce data and send none: each of them has the room once, at most, before it.
#[test]
fn who_waits_for_room_has_its_turn() {
    const ROOM: usize = 16;
    const HOLDERS: usize = 40;
    const EACH: usize = 8;
    let limits = [("shard_hard_bytes", 8 << 20), ("silent_data_ms", 400)];
    with_image(&limits, 16 * MIB, |target| {
        let data = pattern(1, 256 << 10);
        let mut it = target.login(&small_bursts(1));
        it.ping();
        let mut holders: Vec<Initiator> = (0..HOLDERS).map(|k| target.login(&small_bursts(100 + k as u64))).collect();
        for holder in &mut holders {
            for k in 0..EACH {
                let bhs = holder.command(0xa1, 256 << 10, write10(k as u32 * 512, 512));
                holder.send(bhs, &[]);
            }
        }
        let bhs = it.command(0xa1, 256 << 10, write10(0, 512));
        it.send(bhs, &[]);
        let r2t = it.recv();
        assert_eq!((r2t.opcode(), r2t.itt()), (0x31, itt(bhs)));
        let asked: usize = holders.iter_mut().map(Initiator::at_hand).sum();
        assert!(asked < ROOM + HOLDERS + 6 * ROOM, "{asked} R2Ts of {} came first", HOLDERS * EACH);
        it.data_out(r2t.itt(), r2t.word(20), 0, 0, true, &data);
        assert_eq!(it.answer(r2t.itt()).1.status(), 0);
    });
}

#[test]
fn who_is_promised_room_and_sends_nothing_gives_it_to_those_who_have_less() {
    with_image(&[("shard_hard_bytes", 8 << 20), ("silent_data_ms", 200)], 16 * MIB, |target| {
        let data = pattern(1, 256 << 10);
        let ask = |it: &mut Initiator| {
            let bhs = it.command(0xa1, 256 << 10, write10(0, 512));
            it.send(bhs, &[]);
            let r2t = it.recv();
            assert_eq!((r2t.opcode(), r2t.itt()), (0x31, itt(bhs)));
            r2t
        };
        let mut holder = target.login(&small_bursts(10));
        let r2ts: Vec<Pdu> = (0..8).map(|_| ask(&mut holder)).collect();
        let mut firsts: Vec<Initiator> = (11..19).map(|session| target.login(&small_bursts(session))).collect();
        firsts.iter_mut().for_each(|it| drop(ask(it)));
        // Who has none waits until somebody has been silent for long, which nothing but a clock says.
        let mut it = target.login(&small_bursts(1));
        assert_eq!(it.write(0, &data, 65_536).status(), 0);
        // Soon several at a time are not refused, either.
        let mut announce = || {
            let announced = (0..4).map(|k| {
                let bhs = it.command(0x21, 65_536, write10(k * 128, 128));
                it.send(bhs, &[]);
                itt(bhs)
            });
            let announced: Vec<u32> = announced.collect();
            let statuses: Vec<u8> = announced
                .into_iter()
                .map(|tag| {
                    it.data_out(tag, 0xffff_ffff, 0, 0, true, &data[..65_536]);
                    it.answer(tag).1.status()
                })
                .collect();
            statuses == [0; 4]
        };
        let begun = Instant::now();
        while !announce() {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        // Who gave way is told so when its data has come, and goes on; others are served.
        let late = |r2t: Pdu| {
            holder.data_out(r2t.itt(), r2t.word(20), 0, 0, true, &data);
            holder.answer(r2t.itt()).1.status()
        };
        let statuses: Vec<u8> = r2ts.into_iter().map(late).collect();
        assert!(statuses.contains(&0x28) && statuses.iter().all(|status| [0, 0x28].contains(status)), "{statuses:?}");
        assert_eq!(holder.write(0, &data, 65_536).status(), 0);
    });
}

#[test]
fn a_connection_that_is_not_read_does_not_stand_before_the_reads_of_another() {
    with_image(&[], 64 * MIB, |target| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        // More than sockets take.
        let unread = one.ask(65_535 * 512, read10(0, 65_535));
        two.cmd_sn = one.cmd_sn;
        // More than one turn's worth: it has to wait, too.
        let (data, pdu) = two.read(0, 16_384);
        assert_eq!((data.len(), pdu.status()), (8 << 20, 0));
        assert_eq!(one.answer(unread).0.len(), 65_535 * 512);
    });
}

#[test]
fn a_command_on_a_connection_that_is_not_read_does_not_hold_back_those_of_another() {
    with_image(&[], 64 * MIB, |target| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        let unread = one.ask(65_535 * 512, read10(0, 65_535));
        target.eventually("its sockets are full", |engine| {
            engine.sessions().iter().any(|shown| shown.unsent_bytes >= 256 << 10)
        });
        // It lies behind that, and the other connection's comes after it. Twice: it is looked for each time.
        let hidden: Vec<u32> = (0..2)
            .map(|_| {
                let tag = one.ask(0, [0; 16]);
                two.cmd_sn = one.cmd_sn;
                assert_eq!(two.read(0, 8).1.status(), 0);
                one.cmd_sn = two.cmd_sn;
                tag
            })
            .collect();
        // Their answers lie among its data.
        let (mut bytes, mut statuses) = (0, Vec::new());
        while bytes < 65_535 * 512 || statuses.len() < 2 {
            let pdu = one.recv();
            match pdu.itt() == unread {
                true => bytes += pdu.data.len(),
                false => statuses.push((pdu.itt(), pdu.status())),
            }
        }
        assert_eq!(statuses, hidden.into_iter().map(|tag| (tag, 0)).collect::<Vec<_>>());
    });
}

#[test]
fn what_is_read_for_others_is_bounded() {
    with_image(&[], 64 * MIB, |target| {
        let mut one = target.login(&Agreed::session(1));
        let mut two = target.login(&Agreed { joins: true, cid: 1, ..Agreed::session(1) });
        // A command is missing, and does not come: pings do, and nobody reads what is sent back.
        let missing = one.command(0x81, 0, [0; 16]);
        two.cmd_sn = one.cmd_sn;
        let early = two.ask(0, [0; 16]);
        two.ping();
        let before = buffer_bytes(target);
        let mut bhs = head(0x40, 0x80, 7);
        put(&mut bhs, 20, 0xffff_ffff);
        put(&mut bhs, 24, one.cmd_sn);
        let pings = one.bytes(bhs, &pattern(1, 4096)).repeat(4096);
        let mut stream = one.stream.try_clone().unwrap();
        let sender = std::thread::spawn(move || std::io::Write::write_all(&mut stream, &pings));
        target.eventually("no more is read", |engine| {
            let unsent = |shown: &SessionStatus| shown.unsent_bytes >= 256 << 10;
            engine.sessions().iter().any(unsent)
        });
        assert!(two.is_silent());
        let most = buffer_bytes(target);
        assert!(most < before + MIB, "{most} bytes, {before} before");
        for _ in 0..4096 {
            assert_eq!(one.recv().data.len(), 4096);
        }
        sender.join().unwrap().unwrap();
        one.send(missing, &[]);
        assert_eq!(one.answer(itt(missing)).1.status(), 0);
        assert_eq!(two.answer(early).1.status(), 0);
    });
}

/// COMPARE AND WRITE of `blocks`, 128 KiB of data for 128 of them.
fn compare_and_write(it: &mut Initiator, lba: u32, blocks: u8) -> [u8; 48] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[13]) = (0x89, blocks);
    cdb[2..10].copy_from_slice(&u64::from(lba).to_be_bytes());
    it.command(0xa1, u32::from(blocks) * 1024, cdb)
}

/// Sends what is asked for of a COMPARE AND WRITE whose first burst is out; its status.
fn compared(mut it: Initiator, tag: u32) -> u8 {
    let data = pattern(1, 128 << 10);
    loop {
        let pdu = it.recv();
        assert_eq!(pdu.itt(), tag);
        match pdu.opcode() {
            0x31 => {
                let (offset, len) = (pdu.word(40), pdu.word(44) as usize);
                it.data_out(tag, pdu.word(20), 0, offset, true, &data[offset as usize..offset as usize + len]);
            }
            _ => return pdu.status(),
        }
    }
}

#[test]
fn commands_whose_data_is_not_taken_in_parts_do_not_wait_for_one_another() {
    with_image(&[("shard_hard_bytes", 8 << 20), ("silent_data_ms", 60_000)], 16 * MIB, |target| {
        // All the room for data that is to come, which then comes back in parts that are too small for such a command.
        let holders: Vec<Initiator> = (0..64)
            .map(|session| {
                let mut one = target.login(&small_bursts(1000 + session));
                let bhs = one.command(0xa1, 65_536, write10(0, 128));
                one.send(bhs, &[]);
                assert_eq!(one.recv().opcode(), 0x31);
                one
            })
            .collect();
        let answers: Vec<_> = (0..100)
            .map(|session| {
                let mut it = target.login(&small_bursts(session + 1));
                let bhs = compare_and_write(&mut it, session as u32 * 256, 128);
                it.send(bhs, &pattern(1, 65_536));
                std::thread::spawn(move || compared(it, itt(bhs)))
            })
            .collect();
        for holder in holders {
            drop(holder);
            target.wait_lost();
        }
        // What it compares with is not there; or there was no room: TASK SET FULL.
        let statuses: Vec<u8> = answers.into_iter().map(|answer| answer.join().unwrap()).collect();
        assert!(statuses.iter().all(|status| [2, 0x28].contains(status)), "{statuses:?}");
        let mut it = target.login(&small_bursts(2000));
        let bhs = compare_and_write(&mut it, 0, 128);
        it.send(bhs, &pattern(1, 65_536));
        assert_eq!(compared(it, itt(bhs)), 2, "there is room again");
    });
}
