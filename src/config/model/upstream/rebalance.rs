//! Moving tunnels away from endpoints that have more than their share.

use std::time::Duration;

/// How tunnels are moved away from endpoints that have more than their share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RebalanceConfig {
    /// Whether tidegate only reports how many tunnels it would move.
    pub is_dry_run: bool,
    /// The multiple of its share that an endpoint may have; more than 1.
    pub factor: f64,
    /// The number of tunnels that are moved per second.
    pub rate: f64,
    /// Younger tunnels are not moved.
    pub min_age: Duration,
}
