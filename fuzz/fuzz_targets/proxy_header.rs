//! Any bytes are parsed as a PROXY header without a panic, with the same result whatever follows them.
#![no_main]

#[path = "../checks/proxy_header.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
