//! What happens to live tunnels of an endpoint that is down, removed or drained.

use std::time::Duration;

/// What happens to live tunnels.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum DisplacementPolicy {
    /// They stay.
    #[default]
    Keep,
    /// They are closed at once.
    Close,
    /// They are closed one by one.
    Drain(ClosePace, CloseOrder),
}

/// How fast tunnels are closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClosePace {
    /// At this rate per second.
    PerSecond(f64),
    /// Spread evenly over this time.
    Over(Duration),
}

/// Which tunnels are closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseOrder {
    /// The oldest first.
    Oldest,
    /// Random order.
    Random,
}
