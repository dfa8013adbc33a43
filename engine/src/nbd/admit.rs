//! What becomes of a request, judged by its header and by what was negotiated: no I/O, no state.
//!
//! This is the edge where a peer's requests are checked. What passes is in the protocol's
//! bounds; the gate then says whether the range and the access are right.

use super::wire::{cmd, error, flag, Header};
use crate::block::command::{Flags, Op};
use crate::block::gate::Refusal;
use crate::shard::limits::{Limits, PIECE_BYTES};

/// What the handshake ended in, as far as requests depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Negotiated {
    /// NBD_OPT_STRUCTURED_REPLY (implied by extended headers).
    pub structured: bool,
    /// NBD_OPT_EXTENDED_HEADERS.
    pub extended: bool,
    /// The export was shown as read-only.
    pub read_only: bool,
    /// Ids of the chosen metadata contexts; all are `base:allocation`.
    pub contexts: Vec<u32>,
    /// Advertised minimum block size, a power of two, bytes.
    pub minimum_block: u32,
    /// Longest READ or WRITE payload, bytes.
    pub payload_bytes: u64,
    /// Longest payload that is skipped to stay in step, bytes.
    pub payload_skip_bytes: u64,
}

impl Negotiated {
    /// The plain terms (simple replies, no contexts) under the engine's limits.
    pub fn plain(limits: &Limits) -> Self {
        Self {
            minimum_block: 1,
            payload_bytes: limits.payload_bytes,
            payload_skip_bytes: limits.payload_skip_bytes.max(limits.payload_bytes),
            ..Self::default()
        }
    }
}

/// An answer that says no: the protocol's error, and a reason for a human.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct No {
    pub error: u32,
    pub text: &'static str,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out. A WRITE's payload follows.
    Run { op: Op, flags: Flags, unfragmented: bool },
    /// BLOCK_STATUS with a payload of `bytes` (8 + n * 4) to collect first.
    CollectStatus { bytes: usize, flags: Flags },
    /// Skip `payload` bytes, then answer with an error.
    Refuse { no: No, payload: u64 },
    /// NBD_CMD_DISC.
    Disconnect,
    /// The stream cannot be followed any more: close.
    Fatal(&'static str),
}

/// The longest READ that is answered in one chunk when DF asks for it: four pieces, 1 MiB.
pub const UNFRAGMENTED_BYTES: u64 = 4 * PIECE_BYTES as u64;

/// Most contexts that a BLOCK_STATUS payload may name. (More than one cannot match anyway.)
const MAX_STATUS_IDS: u64 = 16;

const fn no(error: u32, text: &'static str) -> No {
    No { error, text }
}

/// Judges a request header.
pub fn admit(header: &Header, terms: &Negotiated) -> Verdict {
    if header.kind == cmd::DISC {
        return Verdict::Disconnect;
    }
    let payload = payload_of(header, terms);
    if payload > terms.payload_skip_bytes {
        return Verdict::Fatal("payload longer than any that is skipped");
    }
    let refuse = |no| Verdict::Refuse { no, payload };
    let (op, allowed) = match header.kind {
        cmd::READ => (Op::Read, if terms.structured || terms.extended { flag::DF } else { 0 }),
        cmd::WRITE => (Op::Write, if terms.extended { flag::PAYLOAD_LEN } else { 0 }),
        cmd::FLUSH => (Op::Flush, 0),
        cmd::TRIM => (Op::Discard, 0),
        cmd::CACHE => (Op::Cache, 0),
        cmd::WRITE_ZEROES => (Op::WriteZeroes, flag::NO_HOLE | flag::FAST_ZERO),
        cmd::BLOCK_STATUS => (Op::BlockStatus, flag::REQ_ONE | if terms.extended { flag::PAYLOAD_LEN } else { 0 }),
        _ => return refuse(no(error::EINVAL, "unknown command")),
    };
    // FUA is valid with every command once it has been offered, and it always is.
    if header.flags & !(allowed | flag::FUA) != 0 {
        return refuse(no(error::EINVAL, "command flag not valid here"));
    }
    let flags = Flags {
        // A READ has no write effects that it could be about.
        fua: header.has(flag::FUA) && op != Op::Read,
        no_hole: header.has(flag::NO_HOLE),
        fast_zero: header.has(flag::FAST_ZERO),
        req_one: header.has(flag::REQ_ONE),
    };
    match op {
        Op::BlockStatus if terms.contexts.is_empty() => {
            return refuse(no(error::EINVAL, "no metadata context was negotiated"));
        }
        Op::BlockStatus if header.has(flag::PAYLOAD_LEN) => {
            return admit_status_payload(payload, flags);
        }
        Op::Flush if (header.offset, header.length) != (0, 0) => {
            return refuse(no(error::EINVAL, "offset and length of a flush must be 0"));
        }
        Op::Write if terms.extended && !header.has(flag::PAYLOAD_LEN) => {
            return refuse(no(error::EINVAL, "a write carries its payload length"));
        }
        Op::Write if terms.read_only => return refuse(READ_ONLY),
        Op::Read | Op::Write if header.length > terms.payload_bytes => {
            return refuse(no(error::EINVAL, "longer than the maximum payload"));
        }
        _ => {}
    }
    let unfragmented = header.has(flag::DF);
    if unfragmented && header.length > UNFRAGMENTED_BYTES {
        return refuse(no(error::EOVERFLOW, "too long for one chunk"));
    }
    match check_range(op, header.offset, header.length, terms) {
        Ok(()) => Verdict::Run { op, flags, unfragmented },
        Err(no) => refuse(no),
    }
}

/// Bytes that follow the header.
fn payload_of(header: &Header, terms: &Negotiated) -> u64 {
    let follows = match terms.extended {
        true => header.has(flag::PAYLOAD_LEN),
        false => header.kind == cmd::WRITE,
    };
    if follows {
        header.length
    } else {
        0
    }
}

fn admit_status_payload(payload: u64, flags: Flags) -> Verdict {
    if !(12..=8 + 4 * MAX_STATUS_IDS).contains(&payload) || payload % 4 != 0 {
        let no = no(error::EINVAL, "the payload is 8 bytes and 4 for each context");
        return Verdict::Refuse { no, payload };
    }
    Verdict::CollectStatus { bytes: payload as usize, flags }
}

const READ_ONLY: No = no(error::EPERM, "the export is read-only");

/// What can be said of a range without knowing the volume.
pub fn check_range(op: Op, offset: u64, len: u64, terms: &Negotiated) -> Result<(), No> {
    if op.is_write() && terms.read_only {
        return Err(READ_ONLY);
    }
    let mask = u64::from(terms.minimum_block.max(1)) - 1;
    if (offset | len) & mask != 0 {
        return Err(no(error::EINVAL, "not aligned to the minimum block size"));
    }
    if op == Op::BlockStatus && len == 0 {
        return Err(no(error::EINVAL, "an empty range has no status"));
    }
    Ok(())
}

/// The effect length and the context ids of a BLOCK_STATUS payload. `EINVAL`: unknown ones or
/// duplicates (the payload has been consumed by then, as the text asks).
pub fn parse_status_payload(payload: &[u8], terms: &Negotiated) -> Result<(u64, Vec<u32>), No> {
    let (length, ids) = payload.split_first_chunk::<8>().expect("admitted with at least 12 bytes");
    let ids: Vec<u32> =
        ids.chunks_exact(4).map(|id| u32::from_be_bytes(id.try_into().expect("chunks of four"))).collect();
    for (at, id) in ids.iter().enumerate() {
        if !terms.contexts.contains(id) {
            return Err(no(error::EINVAL, "unknown metadata context"));
        }
        if ids[..at].contains(id) {
            return Err(no(error::EINVAL, "metadata context named twice"));
        }
    }
    Ok((u64::from_be_bytes(*length), ids))
}

/// The protocol's word for a gate's refusal.
pub fn refusal(op: Op, refusal: Refusal) -> No {
    match refusal {
        Refusal::BeyondEnd if matches!(op, Op::Write | Op::WriteZeroes) => {
            no(error::ENOSPC, "beyond the end of the export")
        }
        Refusal::BeyondEnd => no(error::EINVAL, "beyond the end of the export"),
        Refusal::ReadOnly => READ_ONLY,
        Refusal::Protected => no(error::EPERM, "an initiator has write protected the medium"),
        // NBD has no word for what will pass: ESHUTDOWN says that this connection has no future.
        Refusal::NotReady => no(error::EIO, "the medium is not ready: an initiator has stopped it, or erases it"),
        Refusal::Conflict => no(error::EPERM, "a reservation keeps this client out"),
        Refusal::Closed => no(error::ESHUTDOWN, "the volume is being closed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Negotiated {
        Negotiated::plain(&Limits::default())
    }

    fn extended() -> Negotiated {
        Negotiated { structured: true, extended: true, contexts: vec![1], ..terms() }
    }

    fn header(kind: u16, flags: u16, offset: u64, length: u64) -> Header {
        Header { flags, kind, cookie: 1, offset, length }
    }

    fn error_of(verdict: Verdict) -> (u32, u64) {
        match verdict {
            Verdict::Refuse { no, payload } => (no.error, payload),
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn every_command_runs() {
        let terms = Negotiated { structured: true, contexts: vec![1], ..terms() };
        for (kind, op) in [
            (cmd::READ, Op::Read),
            (cmd::WRITE, Op::Write),
            (cmd::TRIM, Op::Discard),
            (cmd::CACHE, Op::Cache),
            (cmd::WRITE_ZEROES, Op::WriteZeroes),
            (cmd::BLOCK_STATUS, Op::BlockStatus),
        ] {
            let verdict = admit(&header(kind, flag::FUA, 512, 512), &terms);
            let flags = Flags { fua: op != Op::Read, ..Flags::default() };
            assert_eq!(verdict, Verdict::Run { op, flags, unfragmented: false });
        }
        let flush = admit(&header(cmd::FLUSH, 0, 0, 0), &terms);
        assert!(matches!(flush, Verdict::Run { op: Op::Flush, .. }));
        assert_eq!(admit(&header(cmd::DISC, 0xffff, 1, 1), &terms), Verdict::Disconnect);
    }

    #[test]
    fn flags_that_do_not_fit_are_einval() {
        for (kind, flags) in [
            (cmd::READ, flag::DF), // needs structured replies
            (cmd::READ, flag::NO_HOLE),
            (cmd::TRIM, flag::FAST_ZERO),
            (cmd::CACHE, flag::REQ_ONE),
            (cmd::FLUSH, flag::DF),
            (cmd::WRITE_ZEROES, flag::PAYLOAD_LEN),
            (cmd::READ, 1 << 9),
        ] {
            assert_eq!(error_of(admit(&header(kind, flags, 0, 0), &terms())), (22, 0));
        }
        // In compact requests a WRITE's payload follows whatever its flags say.
        assert_eq!(error_of(admit(&header(cmd::WRITE, flag::PAYLOAD_LEN, 0, 10), &terms())), (22, 10));
        assert_eq!(error_of(admit(&header(99, 0, 0, 10), &terms())), (22, 0));
    }

    #[test]
    fn payload_bounds() {
        let (max, skip) = (32 << 20, 64 << 20);
        assert_eq!(error_of(admit(&header(cmd::READ, 0, 0, max + 1), &terms())), (22, 0));
        assert_eq!(error_of(admit(&header(cmd::WRITE, 0, 0, max + 1), &terms())), (22, max + 1));
        let fatal = admit(&header(cmd::WRITE, 0, 0, skip + 1), &terms());
        assert!(matches!(fatal, Verdict::Fatal(_)));
        let fatal = admit(&header(cmd::TRIM, flag::PAYLOAD_LEN, 0, u64::MAX), &extended());
        assert!(matches!(fatal, Verdict::Fatal(_)));
        assert_eq!(error_of(admit(&header(cmd::TRIM, flag::PAYLOAD_LEN, 0, 9), &extended())), (22, 9));
        assert_eq!(error_of(admit(&header(cmd::WRITE, 0, 0, 9), &extended())), (22, 0));
        // An effect length has no such bound.
        let huge = admit(&header(cmd::WRITE_ZEROES, 0, 0, 1 << 50), &extended());
        assert!(matches!(huge, Verdict::Run { .. }));
    }

    #[test]
    fn df_is_kept_or_refused() {
        let terms = Negotiated { structured: true, ..terms() };
        let run = admit(&header(cmd::READ, flag::DF, 0, 1 << 20), &terms);
        assert!(matches!(run, Verdict::Run { unfragmented: true, .. }));
        assert_eq!(error_of(admit(&header(cmd::READ, flag::DF, 0, (1 << 20) + 1), &terms)), (75, 0));
    }

    #[test]
    fn read_only_and_alignment() {
        let terms = Negotiated { read_only: true, minimum_block: 512, ..terms() };
        for kind in [cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES] {
            assert_eq!(error_of(admit(&header(kind, 0, 0, 512), &terms)).0, 1);
        }
        assert_eq!(error_of(admit(&header(cmd::READ, 0, 1, 512), &terms)).0, 22);
        assert_eq!(error_of(admit(&header(cmd::READ, 0, 512, 511), &terms)).0, 22);
    }

    #[test]
    fn a_status_payload_filters_contexts() {
        let verdict = admit(&header(cmd::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, 12), &extended());
        assert_eq!(verdict, Verdict::CollectStatus { bytes: 12, flags: Flags::default() });
        for bytes in [0, 8, 11, 13, 1 << 20] {
            let verdict = admit(&header(cmd::BLOCK_STATUS, flag::PAYLOAD_LEN, 0, bytes), &extended());
            assert_eq!(error_of(verdict), (22, bytes));
        }
        let payload = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(parse_status_payload(&payload, &extended()), Ok((8 << 30, vec![1])));
        let twice = [&payload[..], &[0, 0, 0, 1]].concat();
        assert_eq!(parse_status_payload(&twice, &extended()).unwrap_err().error, 22);
        let other = [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7];
        assert_eq!(parse_status_payload(&other, &extended()).unwrap_err().error, 22);
    }

    #[test]
    fn a_gate_speaks_the_protocols_errors() {
        assert_eq!(refusal(Op::Write, Refusal::BeyondEnd).error, error::ENOSPC);
        assert_eq!(refusal(Op::WriteZeroes, Refusal::BeyondEnd).error, error::ENOSPC);
        assert_eq!(refusal(Op::Read, Refusal::BeyondEnd).error, error::EINVAL);
        assert_eq!(refusal(Op::Discard, Refusal::BeyondEnd).error, error::EINVAL);
        assert_eq!(refusal(Op::Write, Refusal::ReadOnly).error, error::EPERM);
        assert_eq!(refusal(Op::Read, Refusal::Conflict).error, error::EPERM);
        assert_eq!(refusal(Op::Write, Refusal::Protected).error, error::EPERM);
        assert_eq!(refusal(Op::Read, Refusal::NotReady).error, error::EIO);
        assert_eq!(refusal(Op::Read, Refusal::Closed).error, error::ESHUTDOWN);
    }
}
