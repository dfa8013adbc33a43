//! Block commands: what a front end asks of a volume, in no protocol's words.
//!
//! NBD and SCSI both reduce their requests to [`Request`]; a backstore
//! answers with an [`Outcome`]. Offsets and lengths are bytes from the start of
//! the volume. A request has been checked by the [gate](super::gate::Gate)
//! before it is given to a volume, so below that point its range is asserted,
//! not checked.

use std::sync::Arc;

use crate::block::volume::{Hold, Permit};
use crate::shard::buffers::IoBuf;

/// A Linux `errno` value, always positive.
pub type Errno = i32;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Fill `buf` with `len` bytes at `offset`.
    Read,
    /// Store the `len` bytes of `buf` at `offset`.
    Write,
    /// Make stable everything that was acknowledged before this was submitted.
    Flush,
    /// The range's contents are no longer needed; they may read as anything after.
    Discard,
    /// The range reads as zeroes afterwards.
    WriteZeroes,
    /// Hint: the range will be read soon.
    Cache,
    /// Describe the range's allocation in `extents`.
    BlockStatus,
    /// If the range holds the first half of `buf`, store the second half there. Atomic against every other
    /// request. `EILSEQ` and [`Request::failed_at`] if it does not.
    CompareAndWrite,
    /// Store what the range holds ORed with `buf`. Atomic against every other request.
    OrWrite,
    /// Read the range, and compare it with `buf` (repeated, where that is shorter), if there is one.
    /// `EILSEQ` and [`Request::failed_at`] where they differ.
    Verify,
    /// Store `buf`, one block, again and again over the range.
    WriteSame,
    /// Store `buf`, read it back and compare: what differs is `EILSEQ`, as with `Verify`.
    WriteVerify,
    /// The ranges in `spans` read as zeroes afterwards, and need no space where that can be had.
    Unmap,
}

impl Op {
    /// Its name in counters and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write => "write",
            Op::Flush => "flush",
            Op::Discard => "trim",
            Op::WriteZeroes => "write_zeroes",
            Op::Cache => "cache",
            Op::BlockStatus => "block_status",
            Op::CompareAndWrite => "compare_and_write",
            Op::OrWrite => "orwrite",
            Op::Verify => "verify",
            Op::WriteSame => "write_same",
            Op::WriteVerify => "write_verify",
            Op::Unmap => "unmap",
        }
    }

    /// Does the operation alter the volume (and so need write access)?
    pub const fn is_write(self) -> bool {
        !matches!(self, Op::Read | Op::Flush | Op::Cache | Op::BlockStatus | Op::Verify)
    }

    /// Must nobody else touch the range while it runs, because what it writes, or says, depends on what it reads?
    pub const fn is_exclusive(self) -> bool {
        matches!(self, Op::CompareAndWrite | Op::OrWrite | Op::WriteVerify)
    }

    /// Does the operation refer to a byte range? (`Flush` covers the volume.)
    pub const fn has_range(self) -> bool {
        !matches!(self, Op::Flush)
    }
}

/// Modifiers of a request. Which of them fit which operation is the front end's to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Force unit access: the data is stable before the request is answered.
    pub fua: bool,
    /// `WriteZeroes`, and `WriteSame` of zeroes: the range stays allocated.
    pub no_hole: bool,
    /// `WriteZeroes`: fail at once with `ENOTSUP` (`EOPNOTSUPP`) where zeroes would have to be written.
    pub fast_zero: bool,
    /// `BlockStatus`: one extent, not longer than the request.
    pub req_one: bool,
}

/// `Extent::flags`: nothing is allocated (NBD: `NBD_STATE_HOLE`).
pub const EXTENT_HOLE: u32 = 1;
/// `Extent::flags`: reads as zeroes (NBD: `NBD_STATE_ZERO`).
pub const EXTENT_ZERO: u32 = 2;

/// One piece of a `BlockStatus` answer; pieces follow one another from the request's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, never 0.
    pub length: u64,
    /// `EXTENT_HOLE | EXTENT_ZERO`, or 0 for data.
    pub flags: u32,
}

/// The most extents that one `BlockStatus` request returns; the rest is asked for again.
pub const MAX_EXTENTS: usize = 4096;

/// A range of an `Unmap`, bytes from the volume's start; not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub offset: u64,
    pub len: u64,
}

/// The range of a command that is several requests, and one to everybody else. It is kept for as long as the command,
/// or one of its requests, has the hold.
#[derive(Debug, Default)]
pub enum Claim {
    /// There is none: a request has its own range.
    #[default]
    No,
    /// A request for the range of all, and for nothing else.
    Asks,
    /// A request within that range.
    Has(Arc<Hold>),
}

impl Claim {
    /// For one of the requests in the range.
    pub fn share(&self) -> Claim {
        match self {
            Claim::Has(hold) => Claim::Has(hold.clone()),
            Claim::No | Claim::Asks => Claim::No,
        }
    }
}

/// A request on its way through a volume. Owned by exactly one party at a time.
#[derive(Debug)]
pub struct Request {
    pub op: Op,
    pub flags: Flags,
    /// Bytes from the volume's start; 0 for `Flush`.
    pub offset: u64,
    /// Bytes; 0 for `Flush`. For `Read`, `Write`, `OrWrite` and `WriteVerify` equal to the buffer's length, for
    /// `CompareAndWrite` half of it, for `WriteSame` and `Verify` a multiple of it. For `Unmap` offset and
    /// length span all of `spans`.
    pub len: u64,
    /// The data, of those that have some. Page-aligned; comes back in the [`Outcome`].
    pub buf: Option<IoBuf>,
    /// `Unmap`: what is to be unmapped.
    pub spans: Option<Vec<Span>>,
    /// Where it failed, bytes from the range's start, if that is known: with `EILSEQ` where the data first
    /// differs, else how much is good before what could not be read.
    pub failed_at: Option<u64>,
    /// `BlockStatus`: a vector to fill (cleared first), handed in so that it can be used again.
    pub extents: Option<Vec<Extent>>,
    /// Set by the volume once the request is in flight: counts it, and holds its
    /// range in the table. Ends with the request: dropping it lets waiting ones go on.
    pub permit: Option<Permit>,
    /// What it has to do with a range that is not its own.
    pub claim: Claim,
}

impl Request {
    /// A request without data.
    pub const fn new(op: Op, flags: Flags, offset: u64, len: u64) -> Self {
        let (buf, spans, failed_at, extents) = (None, None, None, None);
        Request { op, flags, offset, len, buf, spans, failed_at, extents, permit: None, claim: Claim::No }
    }

    /// A `Read` into, or a `Write` out of, the whole of `buf`; and whatever else moves as many bytes as that.
    pub fn with_buf(op: Op, flags: Flags, offset: u64, buf: IoBuf) -> Self {
        let len = buf.len() as u64;
        Request { buf: Some(buf), ..Request::new(op, flags, offset, len) }
    }

    /// A `CompareAndWrite`: the first half of `buf` is expected, the second half is stored.
    pub fn compare_and_write(flags: Flags, offset: u64, buf: IoBuf) -> Self {
        let len = buf.len() as u64 / 2;
        Request { buf: Some(buf), ..Request::new(Op::CompareAndWrite, flags, offset, len) }
    }

    /// An `Unmap` of `spans`, which the front end has checked to be inside the volume.
    pub fn unmap(spans: Vec<Span>) -> Self {
        let offset = spans.iter().map(|span| span.offset).min().unwrap_or(0);
        let end = spans.iter().map(|span| span.offset + span.len).max().unwrap_or(offset);
        Request { spans: Some(spans), ..Request::new(Op::Unmap, Flags::default(), offset, end - offset) }
    }

    /// End of the range (exclusive). The gate has refused ranges that overflow.
    pub const fn end(&self) -> u64 {
        self.offset + self.len
    }
}

/// A finished request: everything that was handed in comes back, with the result.
#[derive(Debug)]
pub struct Outcome {
    pub request: Request,
    pub result: Result<(), Errno>,
}
