//! Snapshots that shards give of themselves, and the counters behind them.

use crate::block::command::Op;

/// Upper bounds of the latency buckets, microseconds; one more bucket takes the rest.
pub const LATENCY_BOUNDS_US: [u64; 19] = [
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// The operations that are counted, each at the place of its own number.
pub const OPS: [Op; 13] = [
    Op::Read,
    Op::Write,
    Op::Flush,
    Op::Discard,
    Op::WriteZeroes,
    Op::Cache,
    Op::BlockStatus,
    Op::CompareAndWrite,
    Op::OrWrite,
    Op::Verify,
    Op::WriteSame,
    Op::WriteVerify,
    Op::Unmap,
];

/// Counters of one operation.
#[derive(Clone, Debug, Default)]
pub struct OpCount {
    pub ops: u64,
    pub bytes: u64,
    pub errors: u64,
    pub latency_sum_us: u64,
    /// Counts by bucket, not cumulative.
    pub latency: [u64; LATENCY_BOUNDS_US.len() + 1],
}

/// Counters of one session, of one export, or of one volume: one for each of [`OPS`].
#[derive(Clone, Debug, Default)]
pub struct OpCounts(pub [OpCount; OPS.len()]);

impl OpCounts {
    /// Counts a request that has ended.
    pub fn count(&mut self, op: Op, bytes: u64, failed: bool, latency_us: u64) {
        let count = &mut self.0[op as usize];
        count.ops += 1;
        count.errors += u64::from(failed);
        // Bytes are those that were moved, not those that a TRIM or a question spans.
        if !failed && matches!(op, Op::Read | Op::Write | Op::OrWrite | Op::WriteVerify | Op::CompareAndWrite) {
            count.bytes += bytes;
        }
        count.latency_sum_us += latency_us;
        let bucket = LATENCY_BOUNDS_US.partition_point(|bound| *bound < latency_us);
        count.latency[bucket] += 1;
    }

    /// Adds another shard's.
    pub fn add(&mut self, other: &OpCounts) {
        for (mine, theirs) in self.0.iter_mut().zip(&other.0) {
            mine.ops += theirs.ops;
            mine.bytes += theirs.bytes;
            mine.errors += theirs.errors;
            mine.latency_sum_us += theirs.latency_sum_us;
            for (a, b) in mine.latency.iter_mut().zip(&theirs.latency) {
                *a += b;
            }
        }
    }
}

/// Counters of one export of one volume on one shard.
#[derive(Clone, Debug)]
pub struct ExportCounters {
    pub volume: u64,
    pub export: String,
    pub counts: OpCounts,
}

/// A shard's own counters.
#[derive(Clone, Debug, Default)]
pub struct ShardCounters {
    pub connections: u64,
    pub tasks: u64,
    /// Completions posted and not handled yet.
    pub queue_depth: u64,
    pub ring_in_flight: u64,
    pub wakeups: u64,
    pub late_completions: u64,
    /// How often iSCSI put a header off, its data having no room: every try of one that waits counts.
    pub put_off: u64,
    /// Bytes of buffers, lent out and kept, and of all else that connections wait with: what was
    /// received and not parsed, replies' heads, TLS ciphertext.
    pub buffer_bytes: u64,
}

/// One connection.
#[derive(Clone, Debug, Default)]
pub struct SessionStatus {
    pub conn: u64,
    /// 0 before transmission.
    pub volume: u64,
    pub export: String,
    pub peer: String,
    /// "" without TLS, else the protocol's version.
    pub tls: String,
    /// Seconds since 1970.
    pub since: f64,
    pub in_flight: u64,
    pub unsent_bytes: u64,
    /// "handshake" or "transmission"; "login" or "full-feature".
    pub phase: &'static str,
    /// "nbd" or "iscsi".
    pub protocol: &'static str,
    /// iSCSI, full feature phase.
    pub target: String,
    pub initiator: String,
    /// 0: none.
    pub session: u64,
    /// What it has done so far; `None` before its first request has ended.
    pub counts: Option<Box<OpCounts>>,
}

/// One request in flight.
#[derive(Clone, Debug)]
pub struct TaskStatus {
    pub handle: u64,
    pub conn: u64,
    pub volume: u64,
    pub export: String,
    pub op: &'static str,
    pub offset: u64,
    pub length: u64,
    pub age_us: u64,
    /// "collecting", "queued", "waiting-range", "submitted" or "sending"; iSCSI also "handed-up", "ordered"
    /// (another task goes before it) or "held" (by a task management function).
    pub phase: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_place() {
        for (index, op) in OPS.iter().enumerate() {
            assert_eq!(*op as usize, index);
        }
    }

    #[test]
    fn latencies_fall_into_the_bucket_of_their_bound() {
        let mut counts = OpCounts::default();
        for us in [0, 10, 11, 30_000_000, 30_000_001] {
            counts.count(Op::Read, 1, false, us);
        }
        counts.count(Op::Read, 1, true, 5);
        let read = &counts.0[0];
        assert_eq!((read.ops, read.bytes, read.errors), (6, 5, 1));
        assert_eq!((read.latency[0], read.latency[1]), (3, 1));
        assert_eq!((read.latency[18], read.latency[19]), (1, 1));
        let mut sum = OpCounts::default();
        sum.add(&counts);
        sum.add(&counts);
        assert_eq!(sum.0[0].ops, 12);
    }
}
