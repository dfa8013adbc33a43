//! A peer's bytes against the parser and the judgement of requests, without any I/O.
#![no_main]

#[path = "../harness/mod.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::transmission::run(data));
