//! Ranges, draining and closing, on storage that hangs until told otherwise.

use super::*;
use crate::block::command::{Flags, Outcome};
use crate::shard::buffers::IoBuf;
use crate::shard::mailbox::{Mailbox, News};
use crate::shard::tasks::TaskHandle;

/// Storage with blocks of 512 bytes that hangs until told otherwise: what no real file does on demand.
#[derive(Clone, Default)]
struct Hanging {
    held: Arc<Mutex<Vec<(Request, Completion)>>>,
    closed: Arc<AtomicBool>,
    /// Held by a test: making things stable hangs.
    sync: Arc<Mutex<()>>,
}

impl Hanging {
    fn finish_first(&self) {
        let (request, done) = lock(&self.held).remove(0);
        done.post(Outcome { request, result: Ok(()) });
    }

    fn offsets(&self) -> Vec<u64> {
        lock(&self.held).iter().map(|(request, _)| request.offset).collect()
    }
}

impl Backstore for Hanging {
    fn size(&self) -> u64 {
        1 << 20
    }
    fn alignment(&self) -> u32 {
        512
    }
    fn try_now(&self, _: &mut Request) -> Attempt {
        Attempt::NotNow
    }
    fn ring_target(&self, req: &Request) -> Option<RingTarget> {
        (req.op == Op::Read).then_some(RingTarget { fd: -1, offset: 0, direct: true })
    }
    fn submit(&self, req: Request, done: Completion) {
        lock(&self.held).push((req, done));
    }
    fn note_ring_result(&self, _: &Request, _: &Result<(), Errno>) {}
    fn health(&self) -> Health {
        Health::default()
    }
    fn queue_depth(&self) -> usize {
        lock(&self.held).len()
    }
    fn expect_size(&self, _: u64) {}
    fn refresh_size(&self) -> io::Result<u64> {
        Ok(self.size())
    }
    fn check(&self) {}
    fn close(&self) -> io::Result<()> {
        drop(lock(&self.sync));
        self.closed.store(true, Ordering::SeqCst);
        Ok(())
    }
}

struct Fixture {
    volume: Arc<Volume>,
    storage: Hanging,
    mailbox: Arc<Mailbox>,
}

impl Fixture {
    fn new() -> Self {
        let storage = Hanging::default();
        let spec = VolumeSpec {
            path: PathBuf::new(),
            direct: true,
            write_through: false,
            read_only: false,
            block_size: 512,
            offset: 0,
            length: None,
            device: false,
            suspect: None,
        };
        let volume = Volume::with_backstore(1, spec, Box::new(storage.clone()));
        Fixture { volume, storage, mailbox: Mailbox::new(16).unwrap() }
    }

    /// What the shard does with what has come: what is granted goes on, what has ended is dropped.
    fn take_one(&self) {
        match self.mailbox.next_done().expect("something has come").news {
            News::Ended(outcome) => drop(outcome),
            News::Granted(request) => drop(self.volume.resume(request, false, || self.completion())),
        }
    }

    fn take_all(&self) {
        while self.mailbox.depth() > 0 {
            self.take_one();
        }
    }

    fn completion(&self) -> Completion {
        Completion::new(self.mailbox.clone(), TaskHandle(1))
    }

    fn start(&self, op: Op, offset: u64, len: usize) -> Step {
        let request = Request::with_buf(op, Flags::default(), offset, IoBuf::zeroed(len));
        self.volume.start(request, true, || self.completion())
    }
}

fn waits(step: &Step) -> bool {
    matches!(step, Step::Waiting(_))
}

#[test]
fn a_part_of_a_block_waits_for_whole_ones_and_they_for_it() {
    let on = Fixture::new();
    assert!(!waits(&on.start(Op::Write, 0, 512)));
    assert!(waits(&on.start(Op::Write, 100, 5)));
    assert!(waits(&on.start(Op::Write, 0, 1024)), "behind the one that waits");
    assert!(waits(&on.start(Op::Read, 511, 1)), "reads too");
    assert!(!waits(&on.start(Op::Write, 1024, 5)), "but nobody beside them");
    assert_eq!(on.storage.offsets(), [0, 1024]);
    assert_eq!(on.volume.in_flight(), 5);
    on.storage.finish_first();
    assert_eq!(on.storage.offsets(), [1024], "the range is held until the outcome has been taken");
    on.take_one();
    assert_eq!(on.storage.offsets(), [1024], "it comes back to its shard first");
    on.take_all();
    assert_eq!(on.storage.offsets(), [1024, 100]);
    on.storage.finish_first();
    on.storage.finish_first();
    on.take_all();
    assert_eq!(on.storage.offsets(), [0, 511], "both together, in their order");
    on.storage.finish_first();
    on.storage.finish_first();
    on.take_all();
    assert_eq!(on.volume.in_flight(), 0);
}

#[test]
fn a_ring_request_ends_with_its_permit() {
    let on = Fixture::new();
    let Step::Ring(request, _) = on.start(Op::Read, 0, 4096) else { panic!("not for the ring") };
    assert!(waits(&on.start(Op::Write, 1, 1)));
    on.volume.ring_done(&request, &Ok(()));
    drop(request);
    on.take_all();
    assert_eq!(on.storage.offsets(), [1]);
}

#[test]
fn close_waits_for_what_is_in_flight_and_says_when_it_cannot() {
    let on = Fixture::new();
    on.start(Op::Write, 0, 512);
    on.start(Op::Write, 7, 7);
    let error = on.volume.close(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    assert!(!on.storage.closed.load(Ordering::SeqCst), "its fate is not known: the lock stays");
    assert!(matches!(on.start(Op::Read, 0, 512), Step::Done(_, Err(libc::ESHUTDOWN))));
    assert_eq!(on.volume.in_flight(), 2);
    std::thread::scope(|scope| {
        let closing = scope.spawn(|| on.volume.close(Duration::from_secs(60)));
        on.storage.finish_first();
        on.take_all();
        on.storage.finish_first();
        on.take_all();
        closing.join().unwrap().unwrap();
    });
    assert!(on.storage.closed.load(Ordering::SeqCst));
}

#[test]
fn close_does_not_wait_for_storage_that_hangs() {
    let on = Fixture::new();
    let hung = lock(&on.storage.sync);
    for _ in 0..2 {
        let start = Instant::now();
        let error = on.volume.close(Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    drop(hung);
    on.volume.close(Duration::from_secs(60)).unwrap();
    assert!(on.storage.closed.load(Ordering::SeqCst));
    on.volume.close(Duration::ZERO).unwrap();
}

#[test]
fn many_close_at_the_same_time() {
    let all: Vec<_> = (0..8).map(|_| Fixture::new()).collect();
    let hung: Vec<_> = all.iter().map(|on| lock(&on.storage.sync)).collect();
    all[7].start(Op::Write, 0, 512);
    all.iter().for_each(|on| on.volume.begin_close());
    drop(hung);
    let soon = Instant::now() + Duration::from_secs(60);
    for on in &all[..7] {
        on.volume.close_by(Instant::now(), soon).unwrap();
    }
    assert!(all[7].volume.close_by(Instant::now(), soon).is_err(), "a request in flight has no time left");
}

#[test]
fn a_write_waits_for_an_earlier_one_to_the_same_bytes() {
    let on = Fixture::new();
    on.start(Op::Write, 0, 1024);
    assert!(waits(&on.start(Op::Write, 512, 512)));
    assert!(!waits(&on.start(Op::Write, 1024, 512)));
    assert!(!waits(&on.start(Op::Verify, 512, 512)), "reads see one or the other");
}

#[test]
fn nobody_comes_between_the_requests_of_a_claim() {
    let on = Fixture::new();
    let ask = |offset, len| Request { claim: Claim::Asks, ..Request::new(Op::OrWrite, Flags::default(), offset, len) };
    let start = |request| on.volume.start(request, true, || on.completion());
    let Step::Done(mut granted, Ok(())) = start(ask(0, 4096)) else { panic!("nobody is in the way") };
    let permit = granted.permit.take().expect("it has its range");
    let claim = Claim::Has(Arc::new(permit.into_hold()));
    assert_eq!(on.volume.in_flight(), 0, "a range alone is nothing in flight");
    let buf = IoBuf::zeroed(512);
    let first = Request { claim: claim.share(), ..Request::with_buf(Op::OrWrite, Flags::default(), 512, buf) };
    assert!(!waits(&start(first)));
    assert!(waits(&on.start(Op::Write, 0, 512)), "of a part that is not begun, too");
    assert!(waits(&on.start(Op::Read, 3584, 512)));
    assert!(!waits(&on.start(Op::Write, 4096, 512)));
    assert!(waits(&start(ask(0, 8192))), "another one");
    drop(claim);
    assert_eq!(on.storage.offsets(), [512, 4096], "what has been begun has the range, too");
    on.storage.finish_first();
    on.take_all();
    assert_eq!(on.storage.offsets(), [4096, 0, 3584]);
    (0..3).for_each(|_| on.storage.finish_first());
    on.take_all();
    assert_eq!(on.volume.in_flight(), 0);
}

#[test]
fn what_is_withdrawn_never_starts() {
    let on = Fixture::new();
    on.start(Op::Write, 0, 512);
    let Step::Waiting(place) = on.start(Op::Write, 0, 512) else { panic!("it may go") };
    assert!(waits(&on.start(Op::Write, 0, 512)));
    let given_up = on.volume.withdraw(place).expect("it waits");
    assert_eq!(on.volume.in_flight(), 3);
    drop(given_up);
    assert_eq!(on.volume.in_flight(), 2);
    assert!(on.volume.withdraw(place).is_none());
    on.storage.finish_first();
    on.take_all();
    assert_eq!(on.storage.offsets(), [0], "the third");
    on.storage.finish_first();
    on.take_all();
    assert_eq!(on.volume.in_flight(), 0);
}

#[test]
fn what_is_granted_can_be_dropped_instead() {
    let on = Fixture::new();
    on.start(Op::Write, 0, 512);
    let Step::Waiting(place) = on.start(Op::Write, 0, 512) else { panic!("it may go") };
    on.start(Op::Write, 0, 512);
    on.storage.finish_first();
    on.take_one();
    assert!(on.volume.withdraw(place).is_none(), "it is on its way to its shard");
    let granted = on.mailbox.next_done().expect("granted").news;
    assert!(matches!(granted, News::Granted(_)));
    drop(granted);
    on.take_all();
    assert_eq!(on.storage.offsets().len(), 1, "the third has its turn");
}

#[test]
fn a_shard_that_ends_lets_go_of_all_that_waits_for_one_block() {
    let on = Fixture::new();
    on.start(Op::Write, 0, 512);
    for _ in 0..10_000 {
        on.start(Op::Write, 0, 512);
    }
    on.mailbox.close();
    on.storage.finish_first();
    assert_eq!(on.volume.in_flight(), 0, "each was dropped, and none of them inside another");
}

#[test]
fn ranges_are_rounded_outwards_and_kinds_follow_alignment() {
    let range = |start, end| Range { start, end };
    assert_eq!(range_of(Op::Write, 512, 512, 512), Some((range(512, 1024), Kind::Write)));
    assert_eq!(range_of(Op::Write, 511, 2, 512), Some((range(0, 1024), Kind::Exclusive)));
    assert_eq!(range_of(Op::Read, 511, 2, 512), Some((range(0, 1024), Kind::Read)));
    assert_eq!(range_of(Op::WriteZeroes, 0, 1, 4096), Some((range(0, 4096), Kind::Exclusive)));
    assert_eq!(range_of(Op::Discard, 1, 1, 512), Some((range(0, 512), Kind::Write)));
    assert_eq!(range_of(Op::Flush, 0, 0, 512), None);
    assert_eq!(range_of(Op::Read, 512, 0, 512), None, "nothing");
}
