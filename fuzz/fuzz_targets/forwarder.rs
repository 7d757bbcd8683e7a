//! Bytes in both directions, in pieces of any size, with Pings and Closes of tidegate in between: all goes
//! on but our answers and what a Close cuts off, and our frames stand between frames.
#![no_main]

#[path = "../checks/forwarder.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
