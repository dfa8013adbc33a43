//! Jobs on real files, among others that use them.

use super::*;
use crate::block::volume::{Step, VolumeSpec};
use crate::shard::mailbox::{Completion, Mailbox, News};
use crate::shard::tasks::TaskHandle;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{channel, Receiver};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(60);

struct Image(PathBuf);

impl Image {
    fn new(bytes: &[u8]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("blockgate-jobs-{}-{}.img", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new("/var/tmp").join(name);
        std::fs::write(&path, bytes).unwrap();
        Image(path)
    }

    fn open(&self, id: u64, direct: bool) -> Arc<Volume> {
        let spec = VolumeSpec {
            path: self.0.clone(),
            direct,
            write_through: false,
            read_only: false,
            block_size: 512,
            offset: 0,
            length: None,
            device: false,
            suspect: None,
        };
        Volume::open(id, spec, Box::new(|_, _| ())).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.0).unwrap()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn jobs() -> (Jobs, Receiver<(u64, Errno, u64)>) {
    let (tell, told) = channel();
    let on_done = move |job, errno, done| tell.send((job, errno, done)).unwrap();
    (Jobs::new(Box::new(on_done), Arc::default()), told)
}

fn numbers(len: usize) -> Vec<u8> {
    (0..len as u32 / 4).flat_map(u32::to_le_bytes).collect()
}

#[test]
fn copies_between_volumes_and_within_one() {
    const LEN: usize = 1 << 20;
    let content = numbers(LEN);
    let (from, to) = (Image::new(&content), Image::new(&vec![7; LEN]));
    for direct in [false, true] {
        let (source, target) = (from.open(1, direct), to.open(2, direct));
        let (jobs, told) = jobs();
        let work = Work::Copy { source, source_offset: 512, target: target.clone(), offset: 1024, len: 700_000 };
        jobs.start(5, work).unwrap();
        assert_eq!(told.recv_timeout(WAIT).unwrap(), (5, 0, 700_000));
        let mut wanted = vec![7; LEN];
        wanted[1024..1024 + 700_000].copy_from_slice(&content[512..512 + 700_000]);
        assert!(to.bytes() == wanted);
        // Overlapping, to the front and to the back.
        for (source_offset, offset) in [(1024, 512), (512, 66_048)] {
            let (source, target) = (target.clone(), target.clone());
            jobs.start(6, Work::Copy { source, source_offset, target, offset, len: 600_000 }).unwrap();
            assert_eq!(told.recv_timeout(WAIT).unwrap(), (6, 0, 600_000));
            let (start, to_start) = (source_offset as usize, offset as usize);
            wanted.copy_within(start..start + 600_000, to_start);
            assert!(to.bytes() == wanted, "{source_offset} -> {offset}");
        }
        target.close(WAIT).unwrap();
        std::fs::write(&to.0, vec![7; LEN]).unwrap();
    }
}

#[test]
fn fills_and_zeroes() {
    let image = Image::new(&vec![7; 1 << 20]);
    let volume = image.open(1, false);
    let (jobs, told) = jobs();
    let pattern = b"seven b".to_vec();
    jobs.start(1, Work::Fill { volume: volume.clone(), offset: 100, len: 600_000, pattern: pattern.clone() }).unwrap();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), (1, 0, 600_000));
    let mut wanted = vec![7; 1 << 20];
    wanted[100..600_100].iter_mut().zip(pattern.iter().cycle()).for_each(|(byte, with)| *byte = *with);
    assert!(image.bytes() == wanted);
    for punch in [false, true] {
        jobs.start(2, Work::Zero { volume: volume.clone(), offset: 4096, len: 8192, punch }).unwrap();
        assert_eq!(told.recv_timeout(WAIT).unwrap(), (2, 0, 8192));
        wanted[4096..12_288].fill(0);
        assert!(image.bytes() == wanted);
    }
    jobs.start(3, Work::Flush { volume }).unwrap();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), (3, 0, 0));
    let (image, empty) = (Image::new(b""), Vec::new());
    let nothing = Work::Fill { volume: image.open(2, false), offset: 0, len: 0, pattern: empty };
    assert_eq!(jobs.start(4, nothing), Err(libc::EINVAL), "a pattern has bytes");
}

#[test]
fn an_error_ends_a_job_and_says_how_far_it_was() {
    let image = Image::new(&vec![7; 1 << 20]);
    let volume = image.open(1, false);
    let (jobs, told) = jobs();
    let beyond = Work::Fill { volume: volume.clone(), offset: 512 << 10, len: 1 << 20, pattern: vec![1] };
    jobs.start(1, beyond).unwrap();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), (1, libc::ENOSPC, 512 << 10));
    volume.close(WAIT).unwrap();
    jobs.start(1, Work::Zero { volume, offset: 0, len: 1, punch: true }).unwrap();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), (1, libc::ESHUTDOWN, 0));
}

/// Holds a range of a volume, by a request that has ended and is not let go of.
fn hold(volume: &Arc<Volume>, offset: u64, mailbox: &Arc<Mailbox>) -> Request {
    let completion = || Completion::new(mailbox.clone(), TaskHandle(1));
    let wait = |step| match step {
        Step::Pending => loop {
            if let Some(done) = mailbox.next_done() {
                match done.news {
                    News::Ended(outcome) => return outcome.request,
                    News::Granted(_) => unreachable!("it did not wait"),
                }
            }
            thread::yield_now();
        },
        step => panic!("{step:?}"),
    };
    // Stable, so that it does not end inline; what has ended keeps its range until it is dropped.
    let flags = Flags { fua: true, ..Flags::default() };
    wait(volume.start(Request::with_buf(Op::Write, flags, offset, IoBuf::zeroed(512)), false, completion))
}

#[test]
fn a_job_waits_for_ranges_and_can_be_stopped_while_it_does() {
    let image = Image::new(&vec![7; 1 << 20]);
    let volume = image.open(1, false);
    let mailbox = Mailbox::new(4).unwrap();
    let held = hold(&volume, 512 << 10, &mailbox);
    let (jobs, told) = jobs();
    let fill = || Work::Fill { volume: volume.clone(), offset: 0, len: 1 << 20, pattern: vec![1] };
    jobs.start(1, fill()).unwrap();
    assert_eq!(jobs.start(1, fill()), Err(libc::EEXIST));
    while jobs.progress(1) != Some(512 << 10) {
        thread::yield_now();
    }
    assert!(told.recv_timeout(Duration::from_millis(100)).is_err());
    jobs.cancel(1);
    assert_eq!(told.recv_timeout(WAIT).unwrap(), (1, libc::ECANCELED, 512 << 10));
    assert_eq!(jobs.progress(1), None);
    jobs.cancel(1);
    drop(held);
    assert_eq!(volume.in_flight(), 0);
    jobs.start(1, fill()).unwrap();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), (1, 0, 1 << 20));
}

fn fill(volume: &Arc<Volume>) -> Work {
    Work::Fill { volume: volume.clone(), offset: 0, len: 512, pattern: vec![1] }
}

fn copy(source: &Arc<Volume>, target: &Arc<Volume>) -> Work {
    Work::Copy { source: source.clone(), source_offset: 0, target: target.clone(), offset: 0, len: 512 }
}

/// The next so many ends, by their numbers.
fn ends(told: &Receiver<(u64, Errno, u64)>, count: usize) -> Vec<(u64, Errno, u64)> {
    let mut ends: Vec<_> = (0..count).map(|_| told.recv_timeout(WAIT).unwrap()).collect();
    ends.sort_unstable();
    ends
}

fn running(jobs: &Jobs) -> usize {
    let state = jobs.0.lock();
    state.all.len() - state.waiting.len()
}

#[test]
fn few_of_a_volume_run_at_a_time_and_the_others_follow() {
    let image = Image::new(&vec![7; 1 << 20]);
    let volume = image.open(1, false);
    let mailbox = Mailbox::new(4).unwrap();
    let held = hold(&volume, 0, &mailbox);
    let (jobs, told) = jobs();
    for number in 0..20 {
        jobs.start(number, fill(&volume)).unwrap();
    }
    assert_eq!(running(&jobs), Place::Within(1).room());
    assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
    drop(held);
    assert_eq!(ends(&told, 20), (0..20).map(|number| (number, 0, 512)).collect::<Vec<_>>());
}

#[test]
fn a_volume_that_hangs_holds_neither_others_nor_its_own_flush() {
    let images = [(); 3].map(|()| Image::new(&vec![7; 1 << 20]));
    let [hung, sound, third] = [0, 1, 2].map(|n| images[n].open(n as u64 + 1, false));
    let mailbox = Mailbox::new(4).unwrap();
    let held = hold(&hung, 0, &mailbox);
    let (jobs, told) = jobs();
    for number in 0..10 {
        jobs.start(number, fill(&hung)).unwrap();
        jobs.start(number + 10, copy(&sound, &hung)).unwrap();
    }
    for (number, work) in [
        (20, fill(&sound)),
        (21, copy(&sound, &sound)),
        (22, copy(&third, &sound)),
        (23, Work::Flush { volume: hung.clone() }),
    ] {
        jobs.start(number, work).unwrap();
        assert_eq!(told.recv_timeout(WAIT).unwrap().0, number);
    }
    drop(held);
    assert_eq!(ends(&told, 20), (0..20).map(|number| (number, 0, 512)).collect::<Vec<_>>());
}

#[test]
fn a_job_that_waits_for_its_turn_is_stopped_at_once() {
    let image = Image::new(&vec![7; 1 << 20]);
    let volume = image.open(1, false);
    let mailbox = Mailbox::new(4).unwrap();
    let held = hold(&volume, 0, &mailbox);
    let (jobs, told) = jobs();
    let run = Place::Within(1).room() as u64;
    for number in 0..run + 3 {
        jobs.start(number, fill(&volume)).unwrap();
    }
    jobs.cancel(run + 1);
    assert_eq!(told.try_recv(), Ok((run + 1, libc::ECANCELED, 0)));
    jobs.cancel(run + 1);
    jobs.start(run + 1, fill(&volume)).unwrap(); // the number is free again
    jobs.cancel_all();
    assert_eq!(ends(&told, run as usize + 3), (0..run + 3).map(|n| (n, libc::ECANCELED, 0)).collect::<Vec<_>>());
    drop(held);
}

#[test]
fn a_volume_with_too_many_jobs_gets_no_more_but_others_do() {
    let images = [Image::new(&[7; 512]), Image::new(&[7; 512])];
    let (busy, idle) = (images[0].open(1, false), images[1].open(2, false));
    let mailbox = Mailbox::new(4).unwrap();
    let held = hold(&busy, 0, &mailbox);
    let (jobs, told) = jobs();
    for number in 0..MAX_JOBS as u64 {
        jobs.start(number, fill(&busy)).unwrap();
    }
    assert_eq!(jobs.start(5000, fill(&busy)), Err(libc::EAGAIN));
    assert_eq!(jobs.start(5000, copy(&idle, &busy)), Err(libc::EAGAIN));
    jobs.start(5000, fill(&idle)).unwrap();
    assert_eq!(told.recv_timeout(WAIT).unwrap(), (5000, 0, 512));
    jobs.cancel_all();
    ends(&told, MAX_JOBS);
    drop(held);
}
