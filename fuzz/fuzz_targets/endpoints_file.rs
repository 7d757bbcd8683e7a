//! Any bytes are read as an endpoints file without a panic: they give diagnostics, or a list that is not
//! empty.
#![no_main]

#[path = "../checks/endpoints_file.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
