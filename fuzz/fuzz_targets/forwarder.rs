//! Bytes in both directions, in pieces of any size, with Pings and Closes of tidegate in between: nothing
//! is made up, the order is kept, and without these frames every byte is forwarded.
#![no_main]

#[path = "../checks/forwarder.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
