//! Any bytes are read as a map of keys to endpoints without a panic: they give diagnostics, or names that endpoints may
//! have.

use tidegate::config::endpoint_map::{MAX_KEYS, parse};
use tidegate::config::model::{RequestKey, is_endpoint_name};

/// Panics if this does not hold.
pub(crate) fn check(bytes: &[u8]) {
    for key in [
        RequestKey::Query("room".into()),
        RequestKey::Path,
        RequestKey::ClientIp,
    ] {
        match parse(bytes, &key) {
            Ok(map) => {
                assert!(map.len() <= MAX_KEYS);
                assert!(map.names().all(is_endpoint_name));
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}
