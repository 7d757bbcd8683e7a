//! Any request is routed by the rule that the documentation states, and what is forwarded of it has no
//! dot segment and no field that belongs to the client's connection.
#![no_main]

#[path = "../checks/request.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
