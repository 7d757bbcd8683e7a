//! Our side of a stream of HTTP/2 reads what the client has sent, whatever either does in whatever order.
#![no_main]

#[path = "../checks/http2_stream.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
