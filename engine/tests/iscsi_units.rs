//! Units of one session: one whose disk hangs has no more of the session than its share.

mod support;

use std::sync::Arc;

use _engine::shard::engine::{AbortOrder, LunMapSpec};
use support::iscsi::*;
use support::*;

const MIB: u64 = 1 << 20;
const LUN_2: u64 = 2 << 48;

/// A disk that hangs, and one that does not, with a session of the first one only.
fn with_two_disks(limits: &[(&str, u64)], agreed: &Agreed, test: impl Fn(&Target, &mut Initiator, &Arc<Held>, u64)) {
    for path in paths() {
        let (held, image) = (Held::new(16 * MIB), Image::new(16 * MIB));
        let target = Target::start(path, limits, 1, |engine| {
            let volume = held.volume(engine);
            engine.swap_gate(volume, scsi_gate(2, 16 * MIB)).unwrap();
            volume
        });
        let sound = target.engine.open_volume(image.spec()).unwrap();
        target.engine.swap_gate(sound, scsi_gate(2, 16 * MIB)).unwrap();
        let mut it = target.login(agreed);
        it.ping();
        test(&target, &mut it, &held, sound);
        drop(it);
        target.eventually("all has ended", |engine| {
            held.finish(Err(libc::EIO));
            engine.tasks().is_empty()
        });
    }
}

/// Terms on which data comes unasked: the window promises memory for it.
fn unasked() -> Agreed {
    let mut agreed = Agreed { queue_depth: 64, ..Agreed::session(1) };
    agreed.terms.initial_r2t = false;
    agreed
}

/// Terms on which none does: the window has no bound but the queue's depth.
fn asked(session: u64) -> Agreed {
    let mut agreed = Agreed { queue_depth: 64, ..Agreed::session(session) };
    agreed.terms.immediate_data = false;
    agreed
}

/// A session with the disk that hangs behind LUN 1, and the other one behind LUN 2.
fn with_two_units(test: impl Fn(&mut Initiator, &Arc<Held>)) {
    with_two_disks(&[("session_bytes", 512 << 10)], &unasked(), |target, it, held, sound| {
        map_both(target, sound);
        test(it, held);
    });
}

fn map_both(target: &Target, sound: u64) {
    let luns = vec![(LUN_1, target.volume, false), (LUN_2, sound, false)];
    target.engine.set_luns(1, LunMapSpec { luns, ..LunMapSpec::default() }).unwrap();
}

/// Sends a command to a LUN; gives its tag.
fn send_to(it: &mut Initiator, lun: u64, mut bhs: [u8; 48], data: &[u8]) -> u32 {
    bhs[8..16].copy_from_slice(&lun.to_be_bytes());
    it.send(bhs, data);
    u32::from_be_bytes(bhs[16..20].try_into().unwrap())
}

fn read_from(it: &mut Initiator, lun: u64, lba: u32, blocks: u16) -> u32 {
    let bhs = it.command(0xc1, u32::from(blocks) * 512, read10(lba, blocks));
    send_to(it, lun, bhs, &[])
}

fn write_to(it: &mut Initiator, lun: u64, lba: u32, data: &[u8]) -> u32 {
    let bhs = it.command(0xa1, data.len() as u32, write10(lba, (data.len() / 512) as u16));
    send_to(it, lun, bhs, data)
}

#[test]
fn a_unit_whose_disk_hangs_does_not_take_the_memory_for_another_ones_reads() {
    with_two_units(|it, held| {
        for k in 0..4 {
            read_from(it, LUN_1, k * 512, 512);
        }
        let tag = read_from(it, LUN_2, 0, 1024);
        let (data, pdu) = it.answer(tag);
        assert_eq!((data.len(), pdu.status(), held.count()), (512 << 10, 0, 1));
    });
}

/// Each of many sessions is promised memory for first bursts by its window, all together more than their shard has.
#[test]
fn a_disk_that_hangs_does_not_take_its_shards_memory_with_the_first_bursts_of_many_sessions() {
    let limits = [("shard_hard_bytes", 8 << 20), ("shard_soft_bytes", 4 << 20), ("session_bytes", 1 << 20)];
    with_two_disks(&limits, &unasked(), |target, it, held, sound| {
        map_both(target, sound);
        let hosts = 10..26;
        let login = |session| target.login(&Agreed { terms: unasked().terms, ..Agreed::session(session) });
        let mut hosts: Vec<Initiator> = hosts.map(login).collect();
        for host in &mut hosts {
            for k in 0..12 {
                write_to(host, LUN_1, k * 128, &[1; 65_536]);
            }
        }
        target.eventually("they wait for the disk", |_| held.count() > 0);
        for k in 0..32 {
            let tag = write_to(it, LUN_2, k * 128, &[2; 65_536]);
            assert_eq!(it.answer(tag).1.status(), 0);
        }
        let tag = read_from(it, LUN_2, 0, 512);
        assert_eq!(it.answer(tag).0, [2; 256 << 10]);
        // What fences those hosts off brings its parameters unasked, too.
        let mut preempt = [0; 16];
        preempt[..9].copy_from_slice(&[0x5f, 5, 0, 0, 0, 0, 0, 0, 24]);
        let bhs = it.command(0xa1, 24, preempt);
        let tag = send_to(it, LUN_1, bhs, &[3; 24]);
        let (task, _, parameters) = target.wait_command();
        assert_eq!(parameters, [3; 24]);
        target.engine.complete(task, 0, vec![], vec![]);
        assert_eq!(it.answer(tag).1.status(), 0);
        drop(hosts);
    });
}

#[test]
fn a_nexus_that_is_held_back_at_one_unit_has_the_others() {
    with_two_disks(&[], &asked(1), |target, it, held, sound| {
        map_both(target, sound);
        let nexus = Agreed::session(1).nexus;
        target.engine.hold(target.volume, nexus);
        target.engine.attend(1, None, 0); // comes behind the hold, and is waited for
        let held_back = read_from(it, LUN_1, 0, 1);
        let tag = read_from(it, LUN_2, 0, 1);
        assert_eq!(it.answer(tag).1.status(), 0);
        target.engine.let_go(target.volume, nexus + 1);
        target.engine.let_go(sound, nexus);
        it.ping();
        assert_eq!((held.count(), target.engine.tasks()[0].phase), (0, "held"));
        target.engine.let_go(target.volume, nexus);
        target.eventually("it goes on", |_| held.count() == 1);
        held.finish(Ok(()));
        assert_eq!(it.answer(held_back).1.status(), 0);
    });
}

/// A unit that is busy has its share, and what waits for a part of that gets the next one.
#[test]
fn what_waits_for_its_unit_s_share_has_it_before_what_comes_later() {
    with_two_units(|it, held| {
        let mut tags: Vec<u32> = (0..6).map(|k| read_from(it, LUN_1, k * 128, 128)).collect();
        it.ping();
        assert_eq!(held.count(), 4, "half of what its session may hold");
        for k in 6..12 {
            held.finish_first(Ok(()));
            let first = tags.remove(0);
            assert!(it.answer(first).0 == pattern(u64::from(k - 6) << 16, 65_536), "in their order");
            tags.push(read_from(it, LUN_1, k * 128, 128));
            it.ping();
            assert_eq!(held.count(), 4);
        }
    });
}

/// A READ of 256 KiB, of a unit that is busy with smaller ones: `at_once` of them are all that there is room for.
fn see_a_large_read_have_its_turn(it: &mut Initiator, held: &Held, at_once: usize) {
    let small = |it: &mut Initiator, k: usize| read_from(it, LUN_1, k as u32 * 128, 128);
    let before: Vec<u32> = (0..at_once).map(|k| small(it, k)).collect();
    let large = read_from(it, LUN_1, 0, 512);
    it.ping();
    assert_eq!(held.count(), at_once);
    let mut later = Vec::new();
    for (k, tag) in before.iter().take(4).enumerate() {
        later.push(small(it, at_once + k));
        it.ping();
        held.finish_first(Ok(()));
        it.answer(*tag);
        later.push(small(it, at_once + k));
        it.ping();
        assert_eq!(held.count(), if k < 3 { at_once - 1 - k } else { at_once - 4 + 1 }, "none goes before it");
    }
    for tag in before.iter().skip(4).chain([&large]).chain(&later) {
        held.finish_first(Ok(()));
        assert_eq!(it.answer(*tag).1.status(), 0, "in their order");
        it.ping();
    }
}

#[test]
fn a_large_read_has_its_unit_s_share_before_smaller_ones_that_come_later() {
    with_two_units(|it, held| see_a_large_read_have_its_turn(it, held, 4));
}

#[test]
fn a_large_read_has_its_session_s_memory_before_smaller_ones_that_come_later() {
    with_two_disks(&[("session_bytes", 512 << 10)], &asked(1), |_, it, held, _| {
        see_a_large_read_have_its_turn(it, held, 8)
    });
}

#[test]
fn a_write_asks_for_no_data_while_an_older_read_waits_for_memory() {
    with_two_disks(&[("session_bytes", 512 << 10)], &asked(1), |_, it, held, _| {
        let before: Vec<u32> = (0..8).map(|k| read_from(it, LUN_1, k * 128, 128)).collect();
        let large = read_from(it, LUN_1, 0, 512);
        it.ping();
        held.finish_first(Ok(()));
        it.answer(before[0]);
        // There is room for this one, but not for the large one.
        let bhs = it.command(0xa1, 65_536, write10(0, 128));
        let write = send_to(it, LUN_1, bhs, &[]);
        for (k, tag) in before.iter().enumerate().take(4).skip(1) {
            it.ping();
            assert_eq!(held.count(), 8 - k);
            held.finish_first(Ok(()));
            it.answer(*tag);
        }
        it.ping();
        assert_eq!(held.count(), 5, "the large one has what four small ones had");
        held.finish_first(Ok(()));
        it.answer(before[4]);
        let r2t = it.recv();
        assert_eq!((r2t.opcode(), r2t.itt()), (0x31, write));
        held.finish(Ok(()));
        assert_eq!(it.answer(large).0.len(), 256 << 10);
    });
}

/// Others' READs of a disk that hangs have all that one volume may have of the shard.
#[test]
fn a_volume_that_has_its_share_of_the_shard_does_not_stop_another_one_s_reads() {
    let limits = [("session_bytes", 2 * MIB), ("shard_soft_bytes", 4 * MIB)];
    with_two_disks(&limits, &asked(1), |target, it, held, sound| {
        map_both(target, sound);
        let mut other = target.login(&asked(2));
        for k in 0..8 {
            read_from(&mut other, LUN_1, k * 512, 512);
        }
        other.ping();
        let share = held.count();
        assert!(share < 8, "it has a third");
        for k in 0..4 {
            read_from(it, LUN_1, k * 512, 512);
        }
        it.ping();
        assert_eq!(held.count(), share + 1, "who holds nothing may have one");
        // More than the session may hold: it has to wait, and to come out of that.
        let tag = read_from(it, LUN_2, 0, 16_384);
        let (data, pdu) = it.answer(tag);
        assert_eq!((data.len() as u64, pdu.status()), (8 * MIB, 0));
        assert_eq!(held.count(), share + 1);
    });
}

#[test]
fn a_unit_whose_disk_hangs_does_not_close_the_window_for_good() {
    with_two_units(|it, held| {
        let data = pattern(1, 65_536);
        let window = it.max_cmd_sn + 1 - it.cmd_sn;
        let hung: Vec<u32> = (0..window).map(|k| write_to(it, LUN_1, k * 128, &data)).collect();
        assert_eq!(window, 8, "all that memory allows");
        // A NOP-In that wants no answer opens it again.
        let news = it.recv();
        assert_eq!((news.opcode(), news.itt(), news.word(20)), (0x20, u32::MAX, u32::MAX));
        assert_eq!((held.count(), it.max_cmd_sn + 1 - it.cmd_sn), (8, 4));
        let bhs = it.command(0x81, 0, [0; 16]);
        let tag = send_to(it, LUN_2, bhs, &[]);
        assert_eq!(it.answer(tag).1.status(), 0);
        // What is for the one that has taken everything finds no room; what is for the other does, again and again.
        for _ in 0..8 {
            let tag = write_to(it, LUN_1, 2048, &data);
            assert_eq!(it.answer(tag).1.status(), 0x28, "TASK SET FULL");
            let tag = write_to(it, LUN_2, 0, &data);
            assert_eq!(it.answer(tag).1.status(), 0);
            let tag = read_from(it, LUN_2, 0, 128);
            assert!(it.answer(tag).0 == data);
            assert_eq!(it.max_cmd_sn + 1 - it.cmd_sn, 4);
        }
        held.finish(Ok(()));
        let mut ended: Vec<u32> = hung.iter().map(|_| it.recv().itt()).collect();
        ended.sort_unstable();
        assert_eq!(ended, hung);
        assert_eq!(it.ping().word(32) + 1 - it.cmd_sn, 8, "as before");
    });
}

/// What waits to be sent of a file's pages is copied when its unit is reset, for the pages may change then. That is
/// memory which the peer has not been promised: other units' are left where they are.
#[test]
fn a_reset_makes_copies_of_what_is_read_from_its_own_unit_alone() {
    for path in paths() {
        // On tmpfs, which is cached by its nature.
        let images = ["read", "reset"].map(|name| {
            let path = format!("/dev/shm/blockgate-{name}-{}-{path:?}.img", std::process::id());
            std::fs::write(&path, vec![1; 16 << 20]).unwrap();
            Image(path.into())
        });
        let mut volumes = Vec::new();
        let target = Target::start(path, &[("shard_kept_bytes", 0)], 1, |engine| {
            volumes.extend(images.iter().map(|image| engine.open_volume(image.spec()).unwrap()));
            volumes.iter().for_each(|volume| engine.swap_gate(*volume, scsi_gate(2, 16 * MIB)).unwrap());
            volumes[0]
        });
        let mut it = target.login(&Agreed::session(1));
        it.ask(32_767 * 512, read10(0, 32_767));
        target.eventually("its sockets are full", |engine| {
            engine.sessions().iter().any(|shown| shown.unsent_bytes >= 256 << 10)
        });
        let after_reset_of = |volume| {
            let order = AbortOrder {
                request: volume,
                volume,
                nexus: 0,
                task: None,
                except_task: 0,
                status: None,
                cut: 0,
                conn: 0,
            };
            target.engine.abort(order);
            target.wait_aborted(volume);
            target.engine.counters().0[0].buffer_bytes
        };
        let before = target.engine.counters().0[0].buffer_bytes;
        let others = after_reset_of(volumes[1]);
        assert!(others < before + (64 << 10), "{before} bytes, then {others}");
        let its_own = after_reset_of(volumes[0]);
        assert!(its_own >= before + (64 << 10), "{before} bytes, then {its_own}");
    }
}
