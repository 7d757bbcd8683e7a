//! The frames of a client, several in a buffer and cut anywhere, with limits on: exactly those before the
//! first that violates one go on, and both sides can still be closed in order.
#![no_main]

#[path = "../checks/limits.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
