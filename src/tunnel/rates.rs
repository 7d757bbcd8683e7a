//! Rate limits on what a client sends through its tunnel.
//!
//! This is the generic cell rate algorithm: instead of a bucket that has to be refilled, one time
//! per rate says when everything that was sent is paid for. An idle client costs nothing.

use super::framing::{Allowance, MESSAGE_COST};
use super::liveness::Micros;
use crate::config::model::{RateAction, TunnelLimits};

/// What a client has sent lately, as debt: the times at which it will have kept to each rate.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Debt {
    messages: Micros,
    bytes: Micros,
}

/// The burst: a client may be ahead of its rate by this much time.
const BURST: Micros = 1_000_000;

impl Debt {
    /// What may pass of the client's next bytes. More than that ends the tunnel.
    pub(super) fn allowance(&self, limits: &TunnelLimits, now: Micros) -> Allowance {
        let mut allowance = Allowance::UNLIMITED;
        if let Some(rate) = limits.messages {
            let rate = u64::from(rate.get()) * u64::from(MESSAGE_COST);
            allowance.cost = Self::left(self.messages, now, rate);
        }
        if let Some(rate) = limits.bytes
            && rate.action == RateAction::Close
        {
            allowance.bytes = Self::left(self.bytes, now, rate.per_second.get());
        }
        allowance
    }

    /// Charges what has come from the client. Returns whether nothing is to be read from it until a
    /// sweep finds that it has kept to its rate.
    pub(super) fn charge(
        &mut self,
        limits: &TunnelLimits,
        now: Micros,
        bytes: usize,
        cost: u32,
    ) -> bool {
        if let Some(rate) = limits.messages {
            let rate = u64::from(rate.get()) * u64::from(MESSAGE_COST);
            Self::add(&mut self.messages, now, cost.into(), rate);
        }
        // The bytes are here and go on; it is the next read that waits.
        limits.bytes.is_some_and(|rate| {
            !Self::add(&mut self.bytes, now, bytes as u64, rate.per_second.get())
                && rate.action == RateAction::Throttle
        })
    }

    /// Whether a paused client may go on.
    //
    // While up to a burst is still owed: the client may send at its rate without stopping for every
    // read, and the next read too many pauses it again.
    pub(super) fn may_resume(&self, now: Micros) -> bool {
        self.bytes <= now.saturating_add(BURST)
    }

    /// How many events are left of the burst, at the rate `per_second`.
    fn left(owed: Micros, now: Micros, per_second: u64) -> u64 {
        let time = (now + BURST).saturating_sub(owed.max(now));
        // At most a second of a rate with 64 bits.
        (u128::from(time) * u128::from(per_second) / 1_000_000) as u64
    }

    /// Adds the time that `count` events take at the rate `per_second`. Returns whether the debt is
    /// still within the burst.
    fn add(owed: &mut Micros, now: Micros, count: u64, per_second: u64) -> bool {
        // A rate is never 0: the configuration has it as a NonZero.
        let time = count.saturating_mul(1_000_000) / per_second;
        *owed = (*owed).max(now).saturating_add(time);
        // Never below `now`, so this cannot underflow.
        *owed - now <= BURST
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::ByteRate;
    use crate::tunnel::table::{TableSlot, TunnelTable};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::Instant;

    fn paced(table: &Rc<TunnelTable>, messages: u32, bytes: u64, action: RateAction) -> TableSlot {
        table.enter(
            Arc::new(TunnelLimits {
                messages: messages.try_into().ok(),
                bytes: bytes
                    .try_into()
                    .ok()
                    .map(|per_second| ByteRate { per_second, action }),
                ..TunnelLimits::default()
            }),
            Rc::default(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_a_second_of_the_rate_and_grows_again_with_time() {
        let table = Rc::new(TunnelTable::<()>::default());
        let messages = paced(&table, 10, 0, RateAction::Close);
        let bytes = paced(&table, 0, 1000, RateAction::Close);
        let message = u64::from(MESSAGE_COST);
        for sent in 0..10 {
            assert_eq!(messages.allowance().cost, (10 - sent) * message);
            assert_eq!(bytes.allowance().bytes, 1000 - sent * 100);
            messages.charge(1, MESSAGE_COST);
            bytes.charge(100, 0);
        }
        assert_eq!(messages.allowance().cost, 0);
        assert_eq!(bytes.allowance().bytes, 0);
        assert_eq!(messages.allowance().bytes, u64::MAX);
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(messages.allowance().cost, 5 * message);
        assert_eq!(bytes.allowance().bytes, 500);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_too_much_is_paused() {
        let table = Rc::new(TunnelTable::<()>::default());
        let slowed = paced(&table, 0, 1000, RateAction::Throttle);
        for _ in 0..10 {
            slowed.charge(100, 0);
        }
        assert!(!slowed.entry().is_paused());
        assert_eq!(slowed.allowance(), Allowance::UNLIMITED);
        slowed.charge(1500, 0);
        // 2500 bytes at 1000 a second: goes on when less than a second is owed.
        for (second, paused) in [(1, true), (2, false)] {
            table.sweep(Instant::now() + Duration::from_secs(second));
            assert_eq!(slowed.entry().is_paused(), paused, "after {second} s");
        }
        assert_eq!(slowed.entry().verdict(), None);
    }
}
