//! What endpoints that have too much give up.

use std::time::Duration;

/// How tunnels are moved from endpoints that have more than their share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RebalanceConfig {
    /// Whether it is only told how many would be moved.
    pub is_dry_run: bool,
    /// What an endpoint may have, relative to its share; more than 1.
    pub factor: f64,
    /// So many per second.
    pub rate: f64,
    /// Younger ones stay.
    pub min_age: Duration,
}
