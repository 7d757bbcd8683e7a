//! What only some tunnels need, out of the way of the others: a tunnel without such limits has none
//! of it.

use std::cell::{Cell, OnceCell};
use std::num::NonZeroU64;
use std::rc::Rc;

use super::ended::CloseMessage;
use super::liveness::{Liveness, Micros};
use super::rates::Debt;
use crate::config::model::TunnelLimits;

/// The additional state of a tunnel.
//
// What takes more than two words is in a box of its own: a tunnel with `max_age` alone should not
// pay for `ping`.
#[derive(Debug, Default)]
pub(super) struct TunnelExtras {
    /// When the tunnel reaches `max_age`.
    pub(super) deadline: Option<NonZeroU64>,
    /// When the sides were last heard and asked, if the route has `ping`.
    pub(super) liveness: Option<Box<Cell<Liveness>>>,
    /// What the client owes, if its rate is limited.
    pub(super) debt: Option<Box<Cell<Debt>>>,
    /// What the Close frame is to say, once the tunnel is closed on purpose.
    pub(super) close_message: OnceCell<Rc<CloseMessage>>,
}

impl TunnelExtras {
    /// What a tunnel with these limits needs; `None` if that is nothing. `now` is when it opened.
    pub(super) fn of(limits: &TunnelLimits, now: Micros) -> Option<Box<Self>> {
        let has_rate = limits.messages.is_some() || limits.bytes.is_some();
        if limits.max_age.is_none() && limits.ping.is_none() && !has_rate {
            return None;
        }
        // The jitter is drawn once, so that tunnels opened together do not end together.
        let deadline = limits.max_age.and_then(|max_age| {
            let age = max_age.of(fastrand::f64()).as_micros() as Micros;
            NonZeroU64::new(now.saturating_add(age).max(1))
        });
        let alive = || Box::new(Cell::new(Liveness::new(now, fastrand::u16(..))));
        Some(Box::new(Self {
            deadline,
            liveness: limits.ping.map(|_| alive()),
            debt: has_rate.then(Box::default),
            close_message: OnceCell::new(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extras_are_small() {
        let (extras, liveness) = (size_of::<TunnelExtras>(), size_of::<Liveness>());
        assert!(
            extras <= 32 && liveness <= 64,
            "{extras} and {liveness} bytes"
        );
    }
}
