//! Any lines as forwarding headers: what a trusted proxy adds behind them is the client, or they are refused.
#![no_main]

#[path = "../checks/forwarded.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
