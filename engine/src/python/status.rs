//! Snapshots and counters, as Python sees them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pyo3::prelude::*;

use super::events::frozen;
use crate::block::volume::Volume;
use crate::shard::status::{self, OpCount, OpCounts, OPS};

frozen! {
    /// One open volume.
    VolumeStatus {
        handle: u64,
        size: u64,
        in_flight: usize,
        health: &'static str,
        reason: String,
        degraded_since: Option<f64>,
        writes_refused: bool,
        worker_queue: usize,
    }
}

impl VolumeStatus {
    /// A volume as it is now.
    pub fn of(volume: &Volume) -> Self {
        let health = volume.health();
        Self {
            handle: volume.id(),
            size: volume.size(),
            in_flight: volume.in_flight(),
            health: health.summary(),
            degraded_since: health.reason.is_some().then_some(health.degraded_since_s as f64),
            writes_refused: health.writes_refused,
            reason: health.reason.unwrap_or_default(),
            worker_queue: volume.queue_depth(),
        }
    }
}

frozen! {
    /// One connection.
    SessionStatus {
        conn: u64,
        volume: u64,
        export: String,
        peer: String,
        tls: String,
        since: f64,
        in_flight: u64,
        unsent_bytes: u64,
        phase: &'static str,
        counters: Option<OpCounters>,
        protocol: &'static str,
        target: String,
        initiator: String,
        session: u64,
    }
}

impl From<status::SessionStatus> for SessionStatus {
    fn from(from: status::SessionStatus) -> Self {
        Self {
            conn: from.conn,
            volume: from.volume,
            export: from.export,
            peer: from.peer,
            tls: from.tls,
            since: from.since,
            in_flight: from.in_flight,
            unsent_bytes: from.unsent_bytes,
            phase: from.phase,
            counters: from.counts.map(|counts| OpCounters(Arc::from(counts))),
            protocol: from.protocol,
            target: from.target,
            initiator: from.initiator,
            session: from.session,
        }
    }
}

frozen! {
    /// One request in flight, or stuck.
    TaskStatus {
        handle: u64,
        conn: u64,
        volume: u64,
        export: String,
        op: &'static str,
        offset: u64,
        length: u64,
        age_us: u64,
        phase: &'static str,
    }
}

impl From<status::TaskStatus> for TaskStatus {
    fn from(from: status::TaskStatus) -> Self {
        let status::TaskStatus { handle, conn, volume, export, op, offset, length, age_us, phase } = from;
        Self { handle, conn, volume, export, op, offset, length, age_us, phase }
    }
}

frozen! {
    /// One shard's counters.
    ShardCounters {
        connections: u64,
        tasks: u64,
        queue_depth: u64,
        ring_in_flight: u64,
        wakeups: u64,
        late_completions: u64,
        events_dropped: u64,
        buffer_bytes: u64,
    }
}

impl From<status::ShardCounters> for ShardCounters {
    fn from(from: status::ShardCounters) -> Self {
        Self {
            connections: from.connections,
            tasks: from.tasks,
            queue_depth: from.queue_depth,
            ring_in_flight: from.ring_in_flight,
            wakeups: from.wakeups,
            late_completions: from.late_completions,
            // The lanes have room for whatever can come, see `Lanes`.
            events_dropped: 0,
            buffer_bytes: from.buffer_bytes,
        }
    }
}

/// Counters of one volume, of one export, or of one session.
#[derive(Clone, Debug)]
#[pyclass(frozen, module = "blockgate._engine")]
pub struct OpCounters(Arc<OpCounts>);

impl OpCounters {
    fn each<T>(&self, what: impl Fn(&OpCount) -> T) -> BTreeMap<&'static str, T> {
        OPS.iter().map(|op| op.name()).zip(self.0 .0.iter().map(what)).collect()
    }
}

#[pymethods]
impl OpCounters {
    #[getter]
    fn ops(&self) -> BTreeMap<&'static str, u64> {
        self.each(|count| count.ops)
    }

    #[getter]
    fn bytes(&self) -> BTreeMap<&'static str, u64> {
        self.each(|count| count.bytes)
    }

    #[getter]
    fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.each(|count| count.errors)
    }

    #[getter]
    fn latency_us(&self) -> BTreeMap<&'static str, Vec<u64>> {
        self.each(|count| count.latency.to_vec())
    }

    #[getter]
    fn latency_sum_us(&self) -> BTreeMap<&'static str, u64> {
        self.each(|count| count.latency_sum_us)
    }
}

/// All counters.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct Counters {
    volumes: HashMap<u64, Py<OpCounters>>,
    exports: HashMap<String, Py<OpCounters>>,
    shards: Vec<Py<ShardCounters>>,
}

#[pymethods]
impl Counters {
    #[getter]
    fn volumes(&self, py: Python<'_>) -> HashMap<u64, Py<OpCounters>> {
        self.volumes.iter().map(|(volume, counters)| (*volume, counters.clone_ref(py))).collect()
    }

    #[getter]
    fn exports(&self, py: Python<'_>) -> HashMap<String, Py<OpCounters>> {
        self.exports.iter().map(|(export, counters)| (export.clone(), counters.clone_ref(py))).collect()
    }

    #[getter]
    fn shards(&self, py: Python<'_>) -> Vec<Py<ShardCounters>> {
        self.shards.iter().map(|counters| counters.clone_ref(py)).collect()
    }
}

impl Counters {
    /// Sums what the shards have counted.
    pub fn new(
        py: Python<'_>,
        shards: Vec<status::ShardCounters>,
        parts: Vec<status::ExportCounters>,
    ) -> PyResult<Self> {
        let mut volumes: HashMap<u64, OpCounts> = HashMap::new();
        let mut exports: HashMap<String, OpCounts> = HashMap::new();
        for part in parts {
            volumes.entry(part.volume).or_default().add(&part.counts);
            exports.entry(part.export).or_default().add(&part.counts);
        }
        let wrap = |counts| Py::new(py, OpCounters(Arc::new(counts)));
        Ok(Self {
            volumes: volumes.into_iter().map(|(id, counts)| Ok((id, wrap(counts)?))).collect::<PyResult<_>>()?,
            exports: exports.into_iter().map(|(name, counts)| Ok((name, wrap(counts)?))).collect::<PyResult<_>>()?,
            shards: shards
                .into_iter()
                .map(|counters| Py::new(py, ShardCounters::from(counters)))
                .collect::<PyResult<_>>()?,
        })
    }
}

/// Puts the classes into the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<VolumeStatus>()?;
    module.add_class::<SessionStatus>()?;
    module.add_class::<TaskStatus>()?;
    module.add_class::<ShardCounters>()?;
    module.add_class::<OpCounters>()?;
    module.add_class::<Counters>()
}
