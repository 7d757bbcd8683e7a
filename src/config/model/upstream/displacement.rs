//! What becomes of the live tunnels of an endpoint that is down, or gone, or drained.

use std::time::Duration;

/// What becomes of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum DisplacementPolicy {
    /// They stay.
    #[default]
    Keep,
    /// They are closed, at once.
    Close,
    /// They are closed one by one.
    Drain(ClosePace, CloseOrder),
}

/// How fast tunnels are closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ClosePace {
    /// So many per second.
    PerSecond(f64),
    /// Spread evenly over so long.
    Over(Duration),
}

/// Which tunnels are closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseOrder {
    /// The oldest.
    Oldest,
    /// Any.
    Random,
}
