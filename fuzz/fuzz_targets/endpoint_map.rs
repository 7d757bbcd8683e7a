//! Any bytes are read as a map of keys to endpoints without a panic: they give diagnostics, or names that endpoints may
//! have.
#![no_main]

#[path = "../checks/endpoint_map.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
