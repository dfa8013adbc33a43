//! Command descriptor blocks and parameter lists against a model of their bounds, without any I/O.
#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::cdb::run(data));
