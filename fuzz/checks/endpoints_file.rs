//! Any bytes are read as an endpoints file without a panic: they give diagnostics, or a list that is not
//! empty.

use tidegate::config::endpoints_file::{MAX_ENDPOINTS, parse};

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    match parse(bytes) {
        Ok(endpoints) => assert!((1..=MAX_ENDPOINTS).contains(&endpoints.len())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
