//! What Python hands down of SCSI and iSCSI.

use std::collections::HashMap;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::iscsi::inflow::Terms;
use crate::iscsi::params::Params;
use crate::scsi::canned::Canned;
use crate::scsi::gate::{self, Alua, BlockLimits, Port};
use crate::scsi::row;
use crate::scsi::sense::{Sense, Specific};
use crate::shard::engine::LunMapSpec;

fn canned(answers: HashMap<Vec<u8>, Vec<u8>>) -> PyResult<Canned> {
    let mut canned = Canned::new();
    for (key, answer) in answers {
        if !canned.insert(&key, &answer) {
            return Err(PyValueError::new_err("a CDB key has at most 16 bytes"));
        }
    }
    Ok(canned)
}

fn block_limits(named: HashMap<String, u64>) -> PyResult<BlockLimits> {
    let mut limits = BlockLimits::default();
    for (name, value) in named {
        let range = |_| PyValueError::new_err(format!("{name} cannot be {value}"));
        match name.as_str() {
            "transfer_blocks" => limits.transfer_blocks = value.try_into().map_err(range)?,
            "compare_and_write_blocks" => limits.compare_and_write_blocks = value.try_into().map_err(range)?,
            "write_same_blocks" => limits.write_same_blocks = value,
            "write_same_nonzero" => limits.write_same_nonzero = value != 0,
            "unmap_blocks" => limits.unmap_blocks = value.try_into().map_err(range)?,
            "unmap_descriptors" => limits.unmap_descriptors = value.try_into().map_err(range)?,
            _ => return Err(PyValueError::new_err(format!("no such limit: {name}"))),
        }
    }
    Ok(limits)
}

fn needs_met(names: &[String]) -> PyResult<u8> {
    names.iter().try_fold(0, |met, name| match row::need(name) {
        Some(bit) => Ok(met | bit),
        None => Err(PyValueError::new_err(format!("no command needs {name}"))),
    })
}

/// (key, ASC, ASCQ, progress).
type NotReady = (u8, u8, u8, Option<u16>);
/// By port: (ALUA state, ready answers).
type Ports = HashMap<u64, (String, HashMap<Vec<u8>, Vec<u8>>)>;

/// A gate's part for a SCSI logical unit.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct ScsiGate(pub Arc<gate::ScsiGate>);

#[pymethods]
impl ScsiGate {
    #[new]
    #[pyo3(signature = (*, block_size, descriptor_sense = false, software_write_protect = false, not_ready = None,
        tas = false, qerr = 0, limits = HashMap::new(), needs_met = Vec::new(), canned = HashMap::new(),
        ports = HashMap::new()))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        block_size: u32,
        descriptor_sense: bool,
        software_write_protect: bool,
        not_ready: Option<NotReady>,
        tas: bool,
        qerr: u8,
        limits: HashMap<String, u64>,
        needs_met: Vec<String>,
        canned: HashMap<Vec<u8>, Vec<u8>>,
        ports: Ports,
    ) -> PyResult<Self> {
        if !block_size.is_power_of_two() || block_size < 512 {
            return Err(PyValueError::new_err("block_size is a power of two, 512 or more"));
        }
        if !matches!(qerr, 0 | 1 | 3) {
            return Err(PyValueError::new_err("qerr is 0, 1 or 3"));
        }
        let port = |(number, (alua, answers)): (u64, (String, _))| {
            let alua = Alua::of_name(&alua).ok_or_else(|| PyValueError::new_err(format!("no ALUA state {alua}")))?;
            Ok((number, Port { alua, canned: self::canned(answers)? }))
        };
        let not_ready = not_ready.map(|(key, asc, ascq, progress)| {
            let sense = Sense::new(key, asc, ascq);
            progress.map_or(sense, |progress| sense.at(Specific::Progress(progress)))
        });
        Ok(Self(Arc::new(gate::ScsiGate {
            block_size,
            descriptor_sense,
            software_write_protect,
            not_ready,
            tas,
            qerr,
            limits: block_limits(limits)?,
            needs_met: self::needs_met(&needs_met)?,
            canned: self::canned(canned)?,
            ports: ports.into_iter().map(port).collect::<PyResult<_>>()?,
        })))
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// What the LUNs of a session stand for.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct LunMap(pub LunMapSpec);

#[pymethods]
impl LunMap {
    #[new]
    #[pyo3(signature = (*, luns, report_luns = HashMap::new(), attentions = HashMap::new()))]
    fn new(
        luns: HashMap<u64, (u64, bool)>,
        report_luns: HashMap<Vec<u8>, Vec<u8>>,
        attentions: HashMap<u64, u64>,
    ) -> PyResult<Self> {
        let luns = luns.into_iter().map(|(lun, (volume, read_only))| (lun, volume, read_only)).collect();
        Ok(Self(LunMapSpec { luns, report_luns: canned(report_luns)?, attentions }))
    }

    fn __repr__(&self) -> String {
        format!("LunMap(luns={:?})", self.0.luns)
    }
}

/// What a login ended in.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct IscsiParams {
    pub params: Params,
    pub luns: Option<LunMapSpec>,
}

#[pymethods]
impl IscsiParams {
    #[new]
    #[pyo3(signature = (*, session, nexus, port, discovery, cid, initiator, target, header_digest, data_digest,
        max_send_data, max_recv_data, first_burst, max_burst, max_outstanding_r2t, initial_r2t, immediate_data,
        exp_cmd_sn, stat_sn, queue_depth, nop_interval_ms, nop_timeout_ms, luns))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        session: u64,
        nexus: u64,
        port: u64,
        discovery: bool,
        cid: u16,
        initiator: String,
        target: String,
        header_digest: bool,
        data_digest: bool,
        max_send_data: u32,
        max_recv_data: u32,
        first_burst: u32,
        max_burst: u32,
        max_outstanding_r2t: usize,
        initial_r2t: bool,
        immediate_data: bool,
        exp_cmd_sn: u32,
        stat_sn: u32,
        queue_depth: u32,
        nop_interval_ms: u64,
        nop_timeout_ms: u64,
        luns: Option<&LunMap>,
    ) -> Self {
        let terms = Terms { first_burst, max_burst, max_outstanding_r2t, initial_r2t, immediate_data };
        let params = Params {
            session,
            nexus,
            port,
            discovery,
            cid,
            initiator,
            target,
            header_digest,
            data_digest,
            max_send_data,
            max_recv_data,
            terms,
            exp_cmd_sn,
            stat_sn,
            queue_depth,
            nop_interval_ms,
            nop_timeout_ms,
            luns: None,
        };
        Self { params, luns: luns.map(|luns| luns.0.clone()) }
    }

    fn __repr__(&self) -> String {
        format!("IscsiParams({:?}, luns={:?})", self.params, self.luns.as_ref().map(|luns| &luns.luns))
    }
}

/// Puts the classes into the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ScsiGate>()?;
    module.add_class::<LunMap>()?;
    module.add_class::<IscsiParams>()
}
