//! Any bytes are taken for TLS without a panic, as rustls takes them, wherever they are cut.
#![no_main]

#[path = "../checks/tls_records.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
