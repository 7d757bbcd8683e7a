//! Any head of a request: judged, routed and written on without a panic, and what is written is one
//! whole head again.
#![no_main]

#[path = "../checks/handshake.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
