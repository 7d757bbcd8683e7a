//! Any bytes are tracked as a stream of frames without a panic, with the same events wherever the stream
//! is cut.
#![no_main]

#[path = "../checks/frame.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
