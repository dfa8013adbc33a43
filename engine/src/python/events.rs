//! What comes up to Python: one frozen class for each event.

use pyo3::prelude::*;
use pyo3::types::PyBytes;

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
    /// A connection is gone.
    Lost { conn: u64, reason: String }
}
frozen! {
    /// A volume's back end failed.
    Degraded { volume: u64, reason: String }
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
        Event::Lost { conn, reason } => Py::new(py, Lost { conn, reason })?.into_any(),
        Event::Degraded { volume, reason } => Py::new(py, Degraded { volume, reason })?.into_any(),
    })
}

/// Puts the classes into the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Accepted>()?;
    module.add_class::<ClientFlags>()?;
    module.add_class::<NbdOption>()?;
    module.add_class::<TlsEstablished>()?;
    module.add_class::<Lost>()?;
    module.add_class::<Degraded>()
}
