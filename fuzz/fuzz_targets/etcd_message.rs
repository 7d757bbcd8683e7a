//! Any bytes are read as messages of etcd without a panic: a copy that follows them has what they say and no more, and
//! what is a record of a member is written as it was read.
#![no_main]

#[path = "../checks/etcd_message.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
