//! Any text is checked as a configuration without a panic, and an invalid one gets diagnostics.
#![no_main]

#[path = "../checks/config.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
