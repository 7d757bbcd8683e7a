//! A request has one token or none, and what remains of it for the endpoint has no token in a query or among the
//! subprotocols.
#![no_main]

#[path = "../checks/credential.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
