//! Any forwarding header: either the address that a trusted proxy has added at its end is the client, or
//! the header is refused.
#![no_main]

#[path = "../checks/forwarded.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
