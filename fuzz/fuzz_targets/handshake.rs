//! Any request head is validated, routed and written to the endpoint without a panic, and what is written
//! is one complete head.
#![no_main]

#[path = "../checks/handshake.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
