//! Whatever is answered as stable, while somebody else's sync fails.

use super::super::fault::Fault;
use super::super::File;
use super::*;
use crate::block::command::Span;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;

/// Longer than whole blocks, so that there is a tail.
const SIZE: usize = (64 << 10) + 100;

fn opened(spec: &VolumeSpec) -> File {
    File::open(spec, Box::new(|_, _| ())).unwrap()
}

fn with_data(op: Op, offset: u64, len: usize, data: usize) -> Request {
    let mut buf = IoBuf::zeroed(data);
    // What is compared is what the file holds.
    buf.fill(if op == Op::WriteSame { 7 } else { 1 });
    Request { buf: Some(buf), ..Request::new(op, plain(), offset, len as u64) }
}

/// Requests of each kind that writes, in all the ways in which that is done.
fn writes() -> Vec<(&'static str, Request)> {
    let span = |offset| Span { offset, len: 4096 };
    vec![
        ("write", with_data(Op::Write, 4096, 8192, 8192)),
        ("a part of a block", with_data(Op::Write, 4100, 10, 10)),
        ("the tail", with_data(Op::Write, (SIZE - 50) as u64, 50, 50)),
        ("blocks and the tail", with_data(Op::Write, 61440, SIZE - 61440, SIZE - 61440)),
        ("compare and write", with_data(Op::CompareAndWrite, 4096, 4096, 8192)),
        ("or", with_data(Op::OrWrite, 4096, 4096, 4096)),
        ("write and verify", with_data(Op::WriteVerify, 4096, 4096, 4096)),
        ("write same", with_data(Op::WriteSame, 0, 8192, 512)),
        ("zeroes", Request::new(Op::WriteZeroes, plain(), 4096, 8192)),
        ("zeroes without a hole", Request::new(Op::WriteZeroes, Flags { no_hole: true, ..plain() }, 4100, 8000)),
        ("discard", Request::new(Op::Discard, plain(), 4096, 8192)),
        ("unmap", Request::unmap(vec![span(0), span(16384)])),
    ]
}

/// What is about the medium in either cache mode.
fn of_the_medium() -> Vec<(&'static str, Request)> {
    vec![
        ("write and verify", with_data(Op::WriteVerify, 4096, 4096, 4096)),
        ("flush", Request::new(Op::Flush, plain(), 0, 0)),
        ("verify", Request::new(Op::Verify, plain(), 0, 4096)),
        ("read", Request { flags: FUA, ..with_data(Op::Read, 4096, 4096, 4096) }),
    ]
}

/// Carries out `request`; somebody else's sync has begun before, and fails when that is waited for, or when the request
/// is answered without.
fn beside_a_sync_that_fails(file: &File, mut request: Request) -> Result<(), Errno> {
    let (tell, begun) = mpsc::channel();
    let is_answered = AtomicBool::new(false);
    thread::scope(|scope| {
        let sync = || {
            tell.send(()).unwrap();
            while file.underway.waiting() == 0 && !is_answered.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            Err(Fault::Sync(libc::EIO))
        };
        scope.spawn(move || file.sync_by("write", sync));
        begun.recv().unwrap();
        let result = file.execute(&mut request);
        is_answered.store(true, Ordering::SeqCst);
        result
    })
}

#[test]
fn nothing_is_stable_when_a_sync_that_ran_beside_it_fails() {
    for place in PLACES {
        for (direct, write_through, dsync) in
            [(false, false, false), (false, true, true), (true, false, true), (true, true, false)]
        {
            for (what, mut request) in writes().into_iter().chain(of_the_medium()) {
                let case = format!("{what}: {place} direct={direct} write_through={write_through} dsync={dsync}");
                let temp = TempFile::new(place, &[1; SIZE]);
                let mut file = opened(&VolumeSpec { direct, write_through, ..spec(&temp.0) });
                file.traits.dsync = dsync;
                request.flags.fua |= !write_through && request.op.is_write() && request.op != Op::WriteVerify;
                let begun = file.underway.begun();
                assert_eq!(beside_a_sync_that_fails(&file, request), Err(libc::EIO), "{case}");
                assert!(file.health.writes_refused(), "{case}");
                assert!(file.underway.begun() >= begun + 2, "its own sync is one that others wait for: {case}");
            }
        }
    }
}

#[test]
fn what_is_not_promised_waits_for_nobody() {
    for direct in [false, true] {
        for (what, request) in writes().into_iter().filter(|(_, request)| request.op != Op::WriteVerify) {
            let temp = TempFile::new(DISK, &[1; SIZE]);
            let file = opened(&VolumeSpec { direct, ..spec(&temp.0) });
            assert_eq!(beside_a_sync_that_fails(&file, request), Ok(()), "{what} direct={direct}");
            assert_eq!(file.underway.begun(), 1, "and is no sync: {what} direct={direct}");
            assert_eq!(file.flush(), Err(Fault::Refused(libc::EIO)), "the next FLUSH tells: {what} direct={direct}");
        }
    }
}
