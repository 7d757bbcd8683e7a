//! Any `Cookie` field: a request names an endpoint only if the field has a cookie that was signed for it and has not
//! expired, and what comes before such a cookie hides it only if it is a cookie of the same name.
#![no_main]

#[path = "../checks/endpoint_cookie.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| check::check(bytes));
