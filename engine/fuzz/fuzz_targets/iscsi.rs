//! An initiator's bytes in full feature phase, against a real session on a socket pair.
#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::iscsi::run(data));
