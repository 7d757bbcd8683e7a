//! Any bytes are read as a list of EndpointSlices (the first line) and as the events of a watch (the others) without
//! a panic. The endpoints are ordered, distinct and not too many.
#![no_main]

#[path = "../checks/endpoint_slices.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
