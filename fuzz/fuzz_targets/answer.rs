//! Any bytes as an endpoint's answer: parsed and judged without a panic, within what came.
#![no_main]

#[path = "../checks/answer.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
