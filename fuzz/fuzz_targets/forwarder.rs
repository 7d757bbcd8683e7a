//! Any bytes both ways, in any pieces, with a Ping or a Close of ours in between: nothing is invented,
//! what does go on is in order, and without anything of ours all of it goes on.
#![no_main]

#[path = "../checks/forwarder.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
