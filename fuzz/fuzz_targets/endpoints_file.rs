//! Any bytes as a file of endpoints: what is wrong is told, and what is taken is not empty.
#![no_main]

#[path = "../checks/endpoints_file.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
