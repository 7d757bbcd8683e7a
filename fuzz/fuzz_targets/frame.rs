//! Any bytes as a stream of frames: the same events wherever it is cut, and no panic.
#![no_main]

#[path = "../checks/frame.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
