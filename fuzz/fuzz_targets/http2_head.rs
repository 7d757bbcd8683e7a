//! A head of HTTP/2 becomes a head of HTTP/1.1 that everybody reads alike, or it is rejected.
#![no_main]

#[path = "../checks/http2_head.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
