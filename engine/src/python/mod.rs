//! `blockgate._engine`: the Python module. `_engine.pyi` says what each name means.

mod engine;
mod events;
mod iscsi;
mod params;
mod status;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::shard::engine::Refused;

pyo3::create_exception!(_engine, EngineError, PyOSError, "What the engine refuses, or the system refused it.");

impl From<Refused> for PyErr {
    fn from(refused: Refused) -> Self {
        EngineError::new_err((refused.errno, refused.text))
    }
}

#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("EngineError", module.py().get_type::<EngineError>())?;
    module.add_class::<engine::Engine>()?;
    params::register(module)?;
    events::register(module)?;
    iscsi::register(module)?;
    status::register(module)
}
