//! The class `Engine`. Calls that may wait let go of the interpreter lock.

use std::collections::HashMap;
use std::os::fd::RawFd;

use pyo3::prelude::*;

use super::events::to_python;
use super::params::{Gate, TransmitParams, VolumeSpec};
use super::status::{Counters, SessionStatus, TaskStatus, VolumeStatus};
use crate::shard::control::Then;
use crate::shard::engine::{self, Refused};
use crate::shard::limits::Limits;
use crate::shard::poller::IoPath;
use crate::shard::status::LATENCY_BOUNDS_US;
use crate::shard::tls_config::{TlsConfig, TlsSettings};

/// The shards with everything that they own.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct Engine(engine::Engine);

fn invalid(text: impl Into<String>) -> PyErr {
    Refused::new(libc::EINVAL, text).into()
}

#[pymethods]
impl Engine {
    #[classattr]
    #[allow(non_snake_case)]
    fn LATENCY_BOUNDS_US() -> Vec<u64> {
        LATENCY_BOUNDS_US.to_vec()
    }

    #[new]
    #[pyo3(signature = (*, shards = 0, io = "auto", limits = None))]
    fn new(py: Python<'_>, shards: usize, io: &str, limits: Option<HashMap<String, u64>>) -> PyResult<Self> {
        let path = match io {
            "auto" => IoPath::Auto,
            "io_uring" => IoPath::Uring,
            "epoll" => IoPath::Epoll,
            _ => return Err(invalid(format!("io is auto, io_uring or epoll, not {io}"))),
        };
        let mut bounds = Limits::default();
        for (name, value) in limits.unwrap_or_default() {
            bounds.set(&name, value).map_err(invalid)?;
        }
        Ok(Self(py.detach(|| engine::Engine::start(shards, path, bounds))?))
    }

    #[getter]
    fn io(&self) -> &'static str {
        self.0.io()
    }

    #[getter]
    fn shards(&self) -> usize {
        self.0.shards()
    }

    #[getter]
    fn event_fd(&self) -> RawFd {
        self.0.event_fd()
    }

    #[pyo3(signature = (limit = 256))]
    fn next_events(&self, py: Python<'_>, limit: usize) -> PyResult<Vec<Py<PyAny>>> {
        self.0.next_events(limit).into_iter().map(|event| to_python(py, event)).collect()
    }

    fn limits(&self) -> HashMap<&'static str, u64> {
        self.0.limits().entries().into_iter().collect()
    }

    fn stop(&self, py: Python<'_>, drain_ms: u64) -> Vec<String> {
        py.detach(|| self.0.stop(drain_ms))
    }

    #[getter]
    fn silent_shards(&self) -> usize {
        self.0.silent_shards()
    }

    fn open_volume(&self, py: Python<'_>, spec: &VolumeSpec) -> PyResult<u64> {
        let spec = spec.0.clone();
        Ok(py.detach(|| self.0.open_volume(spec))?)
    }

    fn close_volume(&self, py: Python<'_>, volume: u64, drain_ms: u64) -> PyResult<()> {
        Ok(py.detach(|| self.0.close_volume(volume, drain_ms))?)
    }

    fn swap_gate(&self, py: Python<'_>, volume: u64, gate: &Gate) -> PyResult<()> {
        let gate = gate.0.clone();
        Ok(py.detach(|| self.0.swap_gate(volume, gate))?)
    }

    fn resize_volume(&self, py: Python<'_>, volume: u64) -> PyResult<u64> {
        Ok(py.detach(|| self.0.resize_volume(volume))?)
    }

    fn check_volume(&self, py: Python<'_>, volume: u64) -> PyResult<()> {
        Ok(py.detach(|| self.0.check_volume(volume))?)
    }

    fn volumes(&self, py: Python<'_>) -> Vec<VolumeStatus> {
        py.detach(|| self.0.volumes().iter().map(|volume| VolumeStatus::of(volume)).collect())
    }

    fn add_listener(&self, fd: RawFd, label: &str) -> PyResult<u64> {
        Ok(self.0.add_listener(fd, label)?)
    }

    fn remove_listener(&self, py: Python<'_>, listener: u64) {
        py.detach(|| self.0.remove_listener(listener));
    }

    fn nbd_reply(&self, conn: u64, data: Vec<u8>, then: &str) -> PyResult<()> {
        let then = match then {
            "option" => Then::Option,
            "tls" => Then::Tls,
            "close" => Then::Close,
            "abort" => Then::Abort,
            _ => return Err(invalid(format!("then is option, tls, close or abort, not {then}"))),
        };
        self.0.reply(conn, data, then);
        Ok(())
    }

    fn nbd_transmit(&self, conn: u64, data: Vec<u8>, params: &TransmitParams) -> PyResult<()> {
        Ok(self.0.transmit(conn, data, params.0.clone())?)
    }

    #[pyo3(signature = (*, cert_chain_pem, key_pem, ca_pem, verify_client, psk))]
    fn set_tls(
        &self,
        py: Python<'_>,
        cert_chain_pem: Option<Vec<u8>>,
        key_pem: Option<Vec<u8>>,
        ca_pem: Option<Vec<u8>>,
        verify_client: bool,
        psk: Option<HashMap<String, Vec<u8>>>,
    ) -> PyResult<()> {
        let settings = TlsSettings { cert_chain_pem, key_pem, ca_pem, verify_client, psk: psk.unwrap_or_default() };
        py.detach(|| {
            let config = TlsConfig::new(settings).map_err(|why| invalid(why.to_string()))?;
            self.0.set_tls(Some(config));
            Ok(())
        })
    }

    fn clear_tls(&self, py: Python<'_>) {
        py.detach(|| self.0.set_tls(None));
    }

    fn disconnect(&self, py: Python<'_>, conn: u64) -> bool {
        py.detach(|| self.0.disconnect(conn))
    }

    fn sessions(&self, py: Python<'_>) -> Vec<SessionStatus> {
        py.detach(|| self.0.sessions().into_iter().map(Into::into).collect())
    }

    fn tasks(&self, py: Python<'_>) -> Vec<TaskStatus> {
        py.detach(|| self.0.tasks().into_iter().map(Into::into).collect())
    }

    fn counters(&self, py: Python<'_>) -> PyResult<Counters> {
        let (shards, exports) = py.detach(|| self.0.counters());
        Counters::new(py, shards, exports)
    }
}
