//! Any bytes are read as a report of an endpoint without a panic, and one that is accepted stays within its bounds.
#![no_main]

#[path = "../checks/load_report.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
