//! What becomes of the live tunnels of an endpoint that is down, or gone, or drained.

use std::time::Duration;

/// What becomes of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum Aftermath {
    /// They stay.
    #[default]
    Keep,
    /// They are closed, at once.
    Close,
    /// They are closed one by one.
    Drain(Pace, Order),
}

/// How fast tunnels are closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// So many per second.
    PerSecond(f64),
    /// Spread evenly over so long.
    Over(Duration),
}

/// Which tunnels are closed first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The oldest.
    Oldest,
    /// Any.
    Random,
}
