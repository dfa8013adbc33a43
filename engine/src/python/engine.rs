//! The class `Engine`. Calls that may wait let go of the interpreter lock.

use std::collections::HashMap;
use std::os::fd::RawFd;

use pyo3::prelude::*;

use super::events::to_python;
use super::iscsi::{IscsiParams, LunMap};
use super::params::{Gate, TransmitParams, VolumeSpec};
use super::status::{Counters, SessionStatus, TaskStatus, VolumeStatus};
use crate::block::jobs::Work;
use crate::iscsi::requests::{Message, TextReply};
use crate::shard::control::{Protocol, Then};
use crate::shard::engine::{self, AbortOrder, Refused};
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

    fn renew_lease(&self, ttl_ms: u64) -> bool {
        self.0.renew_lease(ttl_ms)
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

    #[pyo3(signature = (fd, label, protocol = "nbd"))]
    fn add_listener(&self, fd: RawFd, label: &str, protocol: &str) -> PyResult<u64> {
        let protocol = match protocol {
            "nbd" => Protocol::Nbd,
            "iscsi" => Protocol::Iscsi,
            _ => return Err(invalid(format!("protocol is nbd or iscsi, not {protocol}"))),
        };
        Ok(self.0.add_listener(fd, label, protocol)?)
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

    fn login_reply(&self, conn: u64, pdu: Vec<u8>, then: &str) -> PyResult<()> {
        let then = match then {
            "login" => Then::Option,
            "close" => Then::Close,
            "abort" => Then::Abort,
            _ => return Err(invalid(format!("then is login, close or abort, not {then}"))),
        };
        self.0.login_reply(conn, pdu, then);
        Ok(())
    }

    fn login_done(&self, conn: u64, pdu: Vec<u8>, params: &IscsiParams) -> PyResult<()> {
        Ok(self.0.login_done(conn, pdu, params.params.clone(), params.luns.clone())?)
    }

    fn set_luns(&self, py: Python<'_>, session: u64, luns: &LunMap) -> PyResult<()> {
        let luns = luns.0.clone();
        Ok(py.detach(|| self.0.set_luns(session, luns))?)
    }

    fn attend(&self, py: Python<'_>, session: u64, lun: Option<u64>, attentions: u64) {
        py.detach(|| self.0.attend(session, lun, attentions));
    }

    #[pyo3(signature = (task, status, data = Vec::new(), sense = Vec::new()))]
    fn complete(&self, task: u64, status: u8, data: Vec<u8>, sense: Vec<u8>) {
        self.0.complete(task, status, data, sense);
    }

    fn resume(&self, task: u64) {
        self.0.resume(task);
    }

    #[allow(clippy::too_many_arguments)] // the fields of a Text Response
    #[pyo3(signature = (conn, itt, ttt, r#final, continued, data, max_send_data = None))]
    fn text_reply(
        &self,
        conn: u64,
        itt: u32,
        ttt: u32,
        r#final: bool,
        continued: bool,
        data: Vec<u8>,
        max_send_data: Option<u32>,
    ) {
        self.0.text_reply(conn, TextReply { itt, ttt, last: r#final, continued, data, max_send_data });
    }

    #[pyo3(signature = (conn, closed = 0))]
    fn logout_done(&self, conn: u64, closed: u64) {
        self.0.logout_done(conn, closed);
    }

    fn reject(&self, conn: u64, bhs: Vec<u8>, reason: u8) {
        self.0.reject(conn, bhs, reason);
    }

    #[pyo3(signature = (request, volume, nexus, *, task = None, except_task = 0, status = None, cut = 0, conn = 0))]
    #[allow(clippy::too_many_arguments)]
    fn abort(
        &self,
        request: u64,
        volume: u64,
        nexus: u64,
        task: Option<u64>,
        except_task: u64,
        status: Option<u8>,
        cut: u64,
        conn: u64,
    ) {
        self.0.abort(AbortOrder { request, volume, nexus, task, except_task, status, cut, conn });
    }

    fn unit_done(&self, task: u64, volume: u64) {
        self.0.unit_done(task, volume);
    }

    fn management_done(&self, task: u64, response: u8) {
        self.0.management_done(task, response);
    }

    fn hold(&self, volume: u64, nexus: u64) {
        self.0.hold(volume, nexus);
    }

    fn let_go(&self, volume: u64, nexus: u64) {
        self.0.let_go(volume, nexus);
    }

    #[pyo3(signature = (session, lun, event, parameter1 = 0, parameter2 = 0, parameter3 = 0, sense = Vec::new()))]
    #[allow(clippy::too_many_arguments)]
    fn async_message(
        &self,
        session: u64,
        lun: u64,
        event: u8,
        parameter1: u16,
        parameter2: u16,
        parameter3: u16,
        sense: Vec<u8>,
    ) {
        let parameters = [parameter1, parameter2, parameter3];
        self.0.async_message(session, Message { lun, event, parameters, sense });
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

    fn settle(&self, py: Python<'_>) {
        py.detach(|| self.0.settle());
    }

    fn sessions(&self, py: Python<'_>) -> Vec<SessionStatus> {
        py.detach(|| self.0.sessions().into_iter().map(Into::into).collect())
    }

    fn tasks(&self, py: Python<'_>) -> Vec<TaskStatus> {
        py.detach(|| self.0.tasks().into_iter().map(Into::into).collect())
    }

    #[pyo3(signature = (job, kind, *, volume, offset = 0, length = 0, source = 0, source_offset = 0, pattern = None, punch = false))]
    #[allow(clippy::too_many_arguments)]
    fn start_job(
        &self,
        job: u64,
        kind: &str,
        volume: u64,
        offset: u64,
        length: u64,
        source: u64,
        source_offset: u64,
        pattern: Option<Vec<u8>>,
        punch: bool,
    ) -> PyResult<()> {
        let (target, len) = (self.0.volume(volume)?, length);
        let work = match kind {
            "copy" => Work::Copy { source: self.0.volume(source)?, source_offset, target, offset, len },
            "fill" => Work::Fill { volume: target, offset, len, pattern: pattern.unwrap_or_default() },
            "zero" => Work::Zero { volume: target, offset, len, punch },
            "flush" => Work::Flush { volume: target },
            _ => return Err(invalid(format!("kind is copy, fill, zero or flush, not {kind}"))),
        };
        self.0.jobs().start(job, work).map_err(|errno| Refused::new(errno, format!("job {job} was not started")).into())
    }

    fn job_progress(&self, job: u64) -> u64 {
        self.0.jobs().progress(job).unwrap_or(0)
    }

    fn cancel_job(&self, job: u64) {
        self.0.jobs().cancel(job);
    }

    fn counters(&self, py: Python<'_>) -> PyResult<Counters> {
        let (shards, exports) = py.detach(|| self.0.counters());
        Counters::new(py, shards, exports)
    }
}
