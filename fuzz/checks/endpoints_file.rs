//! Any bytes as a file of endpoints: what is wrong is told, and what is taken is not empty.

use tidegate::config::endpoints_file::{MAX_ENDPOINTS, parse};

/// Panics where it does not hold.
pub(crate) fn check(bytes: &[u8]) {
    match parse(bytes) {
        Ok(endpoints) => assert!((1..=MAX_ENDPOINTS).contains(&endpoints.len())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
