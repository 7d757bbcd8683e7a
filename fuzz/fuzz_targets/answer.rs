//! Any bytes from an endpoint are parsed and validated as a response without a panic, and without
//! reading beyond them.
#![no_main]

#[path = "../checks/answer.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
