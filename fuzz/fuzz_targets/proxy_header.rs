//! Any bytes as a PROXY header: read without a panic, and the same whatever comes behind it.
#![no_main]

#[path = "../checks/proxy_header.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
