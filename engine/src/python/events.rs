//! What comes up to Python: one frozen class for each event.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::iscsi::handed;
use crate::shard::events::Event;

/// Declares a frozen class with its fields as properties, and a repr of them.
macro_rules! frozen {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[pyclass(frozen, get_all, module = "blockgate._engine")]
        pub struct $name { $(pub $field: $type),* }

        #[pymethods]
        impl $name {
            fn __repr__(&self) -> String {
                let mut out = String::from(concat!(stringify!($name), "("));
                $(out += &format!(concat!(stringify!($field), "={:?}, "), self.$field);)*
                out.truncate(out.len() - 2);
                out + ")"
            }
        }
    };
}
pub(super) use frozen;

/// The same with fields of bytes behind the others; their content is nobody's to see in a log.
macro_rules! bytes_too {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? } $($bytes:ident)*) => {
        $(#[$doc])*
        #[pyclass(frozen, get_all, module = "blockgate._engine")]
        pub struct $name { $(pub $field: $type,)* $(pub $bytes: Py<PyBytes>),* }

        #[pymethods]
        impl $name {
            fn __repr__(&self, py: Python<'_>) -> String {
                let mut out = String::from(concat!(stringify!($name), "("));
                $(out += &format!("{}={:?}, ", stringify!($field).trim_start_matches("r#"), self.$field);)*
                $(out += &format!(
                    concat!(stringify!($bytes), "=<{} bytes>, "),
                    self.$bytes.bind(py).as_bytes().len()
                );)*
                out.truncate(out.len() - 2);
                out + ")"
            }
        }
    };
}

frozen! {
    /// A new connection.
    Accepted { conn: u64, listener: u64, label: String, peer: String }
}
frozen! {
    /// The client's handshake flags.
    ClientFlags { conn: u64, flags: u32 }
}
/// One option.
#[pyclass(frozen, get_all, module = "blockgate._engine")]
pub struct NbdOption {
    pub conn: u64,
    pub option: u32,
    pub data: Py<PyBytes>,
    pub oversize: bool,
}

#[pymethods]
impl NbdOption {
    fn __repr__(&self, py: Python<'_>) -> String {
        let (len, oversize) = (self.data.bind(py).as_bytes().len(), if self.oversize { "True" } else { "False" });
        format!("NbdOption(conn={}, option={}, data=<{len} bytes>, oversize={oversize})", self.conn, self.option)
    }
}
frozen! {
    /// STARTTLS succeeded.
    TlsEstablished { conn: u64, identity: String, kind: &'static str }
}
frozen! {
    /// A new iSCSI connection.
    IscsiAccepted { conn: u64, listener: u64, label: String, peer: String, local: String }
}
bytes_too! {
    /// A Login Request.
    LoginPdu { conn: u64 } bhs data
}
bytes_too! {
    /// A Text Request.
    TextPdu { conn: u64, session: u64, itt: u32, ttt: u32, lun: u64, r#final: bool, continued: bool } data
}
bytes_too! {
    /// A SCSI command.
    Command {
        task: u64, session: u64, conn: u64, nexus: u64, port: u64, volume: u64, lun: u64, read_only: bool,
        attribute: u8, expected_in: u32, expected_out: u32, no_room: bool, fate: Fate
    } cdb data
}
/// Whether a command has ended.
#[pyclass(frozen, module = "blockgate._engine")]
#[derive(Clone, Debug)]
pub struct Fate(handed::Fate);

#[pymethods]
impl Fate {
    fn is_over(&self) -> bool {
        self.0.is_over()
    }

    fn __repr__(&self) -> &'static str {
        if self.0.is_over() {
            "over"
        } else {
            "open"
        }
    }
}
frozen! {
    /// A task management function.
    TaskManagement {
        task: u64,
        session: u64,
        conn: u64,
        nexus: u64,
        port: u64,
        volume: u64,
        lun: u64,
        function: u8,
        referenced_task: Option<u64>,
        verdict: &'static str,
        cut: u64,
    }
}
frozen! {
    /// A Logout Request that closes its session, or a connection.
    Logout { conn: u64, session: u64, closes: u64 }
}
frozen! {
    /// An abort is over.
    Aborted { request: u64 }
}
frozen! {
    /// Commands have failed with another one.
    Abandoned { volume: u64 }
}
frozen! {
    /// The last connection of a session is gone.
    SessionEnded { session: u64 }
}
frozen! {
    /// A connection is gone.
    Lost { conn: u64, reason: String }
}
frozen! {
    /// A job is over.
    JobDone { job: u64, errno: i32, done_bytes: u64 }
}
/// The lease has lapsed.
#[pyclass(frozen, module = "blockgate._engine")]
pub struct Fenced;

#[pymethods]
impl Fenced {
    fn __repr__(&self) -> &'static str {
        "Fenced()"
    }
}
frozen! {
    /// A volume's back end failed.
    Degraded { volume: u64, reason: String, writes_refused: bool }
}

fn bytes(py: Python<'_>, bytes: &[u8]) -> Py<PyBytes> {
    PyBytes::new(py, bytes).unbind()
}

/// The Python object of an event.
pub fn to_python(py: Python<'_>, event: Event) -> PyResult<Py<PyAny>> {
    Ok(match event {
        Event::Accepted { conn, listener, label, peer } => {
            Py::new(py, Accepted { conn, listener, label, peer })?.into_any()
        }
        Event::ClientFlags { conn, flags } => Py::new(py, ClientFlags { conn, flags })?.into_any(),
        Event::NbdOption { conn, option, data, oversize } => {
            let data = PyBytes::new(py, &data).unbind();
            Py::new(py, NbdOption { conn, option, data, oversize })?.into_any()
        }
        Event::TlsEstablished { conn, identity, kind } => {
            Py::new(py, TlsEstablished { conn, identity, kind })?.into_any()
        }
        Event::IscsiAccepted { conn, listener, label, peer, local } => {
            Py::new(py, IscsiAccepted { conn, listener, label, peer, local })?.into_any()
        }
        Event::Login { conn, bhs, data } => {
            let (bhs, data) = (bytes(py, &bhs), bytes(py, &data));
            Py::new(py, LoginPdu { conn, bhs, data })?.into_any()
        }
        Event::Text(it) => {
            let data = bytes(py, &it.data);
            let (conn, session, itt, ttt, lun) = (it.conn, it.session, it.itt, it.ttt, it.lun);
            let (r#final, continued) = (it.last, it.continued);
            Py::new(py, TextPdu { conn, session, itt, ttt, lun, r#final, continued, data })?.into_any()
        }
        Event::Command(it) => Py::new(
            py,
            Command {
                task: it.task,
                session: it.session,
                conn: it.conn,
                nexus: it.nexus,
                port: it.port,
                volume: it.volume,
                lun: it.lun,
                read_only: it.read_only,
                attribute: it.attribute,
                expected_in: it.expected_in,
                expected_out: it.expected_out,
                no_room: it.no_room,
                fate: Fate(it.fate.clone()),
                cdb: bytes(py, &it.cdb),
                data: bytes(py, &it.data),
            },
        )?
        .into_any(),
        Event::TaskManagement(it) => Py::new(
            py,
            TaskManagement {
                task: it.task,
                session: it.session,
                conn: it.conn,
                nexus: it.nexus,
                port: it.port,
                volume: it.volume,
                lun: it.lun,
                function: it.function,
                referenced_task: it.referenced_task,
                verdict: it.verdict,
                cut: it.cut,
            },
        )?
        .into_any(),
        Event::Logout { conn, session, closes } => Py::new(py, Logout { conn, session, closes })?.into_any(),
        Event::Aborted { request } => Py::new(py, Aborted { request })?.into_any(),
        Event::Abandoned { volume } => Py::new(py, Abandoned { volume })?.into_any(),
        Event::SessionEnded { session } => Py::new(py, SessionEnded { session })?.into_any(),
        Event::Lost { conn, reason } => Py::new(py, Lost { conn, reason })?.into_any(),
        Event::JobDone { job, errno, done_bytes } => Py::new(py, JobDone { job, errno, done_bytes })?.into_any(),
        Event::Fenced => Py::new(py, Fenced)?.into_any(),
        Event::Degraded { volume, reason, writes_refused } => {
            Py::new(py, Degraded { volume, reason, writes_refused })?.into_any()
        }
    })
}

/// Puts the classes into the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Accepted>()?;
    module.add_class::<ClientFlags>()?;
    module.add_class::<NbdOption>()?;
    module.add_class::<TlsEstablished>()?;
    module.add_class::<Lost>()?;
    module.add_class::<IscsiAccepted>()?;
    module.add_class::<LoginPdu>()?;
    module.add_class::<TextPdu>()?;
    module.add_class::<Command>()?;
    module.add_class::<Fate>()?;
    module.add_class::<TaskManagement>()?;
    module.add_class::<Logout>()?;
    module.add_class::<Aborted>()?;
    module.add_class::<Abandoned>()?;
    module.add_class::<SessionEnded>()?;
    module.add_class::<JobDone>()?;
    module.add_class::<Fenced>()?;
    module.add_class::<Degraded>()
}
