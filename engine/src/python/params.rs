//! What Python hands down.

use std::collections::HashMap;
use std::path::PathBuf;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::iscsi::ScsiGate;
use crate::block::gate;
use crate::block::volume;
use crate::shard::engine::Transmit;

/// Where a volume's bytes are, and how they are reached.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct VolumeSpec(pub volume::VolumeSpec);

#[pymethods]
impl VolumeSpec {
    #[new]
    #[pyo3(signature = (*, path, direct, write_through, read_only, block_size, offset = 0, length = None, device = false, suspect = None))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        path: PathBuf,
        direct: bool,
        write_through: bool,
        read_only: bool,
        block_size: u32,
        offset: u64,
        length: Option<u64>,
        device: bool,
        suspect: Option<String>,
    ) -> PyResult<Self> {
        if !block_size.is_power_of_two() {
            return Err(PyValueError::new_err("block_size is a power of two"));
        }
        Ok(Self(volume::VolumeSpec {
            path,
            direct,
            write_through,
            read_only,
            block_size,
            offset,
            length,
            device,
            suspect,
        }))
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// An immutable snapshot of what may be done with a volume.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct Gate(pub gate::Gate);

fn situation(number: u8) -> PyResult<gate::Situation> {
    gate::Situation::of_number(number).ok_or_else(|| PyValueError::new_err("there are situations 0 to 3"))
}

#[pymethods]
impl Gate {
    #[new]
    #[pyo3(signature = (*, generation, size, read_only, access = HashMap::new(), default_access = 0, scsi = None))]
    fn new(
        generation: u64,
        size: u64,
        read_only: bool,
        access: HashMap<u64, u8>,
        default_access: u8,
        scsi: Option<&ScsiGate>,
    ) -> PyResult<Self> {
        let access: PyResult<_> = access.into_iter().map(|(nexus, is)| Ok((nexus, situation(is)?))).collect();
        let (access, default_access) = (access?, situation(default_access)?);
        let scsi = scsi.map(|scsi| scsi.0.clone());
        Ok(Self(gate::Gate { generation, size, read_only, access, default_access, scsi }))
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// What a connection's handshake ended in.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct TransmitParams(pub Transmit);

#[pymethods]
impl TransmitParams {
    #[new]
    #[pyo3(signature = (*, volume, export, read_only, structured, extended, contexts, minimum_block = 1))]
    fn new(
        volume: u64,
        export: String,
        read_only: bool,
        structured: bool,
        extended: bool,
        contexts: Vec<(u32, String)>,
        minimum_block: u32,
    ) -> PyResult<Self> {
        if let Some((_, name)) = contexts.iter().find(|(_, name)| name != "base:allocation") {
            return Err(PyValueError::new_err(format!("the engine knows no metadata context {name}")));
        }
        let contexts = contexts.into_iter().map(|(id, _)| id).collect();
        Ok(Self(Transmit { volume, export, read_only, structured, extended, contexts, minimum_block }))
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// Puts the classes into the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<VolumeSpec>()?;
    module.add_class::<Gate>()?;
    module.add_class::<TransmitParams>()
}
