//! Rate limits on what a client sends through its tunnel.
//!
//! This is the generic cell rate algorithm: instead of a bucket that has to be refilled, one time
//! per rate says when everything that was sent is paid for. An idle client costs nothing.

use super::ended::Ended;
use super::liveness::Micros;
use crate::config::model::{RateAction, TunnelLimits};

/// What a client has sent lately, as debt: the times at which it will have kept to each rate.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Debt {
    messages: Micros,
    bytes: Micros,
}

/// What follows when a client has sent too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RateExcess {
    /// The tunnel ends.
    End(Ended),
    /// Nothing is read from the client until a sweep finds that it has kept to its rate.
    Pause,
}

/// The burst: a client may be ahead of its rate by this much time.
const BURST: Micros = 1_000_000;

impl Debt {
    /// Charges what has come from the client. Returns what follows if that exceeds a limit.
    pub(super) fn charge(
        &mut self,
        limits: &TunnelLimits,
        now: Micros,
        bytes: usize,
        messages: u32,
    ) -> Option<RateExcess> {
        let mut excess = None;
        if let Some(rate) = limits.bytes
            && !Self::add(&mut self.bytes, now, bytes as u64, rate.per_second.get())
        {
            excess = Some(match rate.action {
                RateAction::Close => RateExcess::End(Ended::ByteRate),
                // The bytes are here and go on; it is the next read that waits.
                RateAction::Throttle => RateExcess::Pause,
            });
        }
        if let Some(rate) = limits.messages
            && messages > 0
            && !Self::add(&mut self.messages, now, messages.into(), rate.get().into())
        {
            excess = Some(RateExcess::End(Ended::MessageRate));
        }
        excess
    }

    /// Whether a paused client may go on.
    //
    // While up to a burst is still owed: the client may send at its rate without stopping for every
    // read, and the next read too many pauses it again.
    pub(super) fn may_resume(&self, now: Micros) -> bool {
        self.bytes <= now.saturating_add(BURST)
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
    async fn a_client_that_sends_too_much_is_ended_or_paused() {
        let table = Rc::new(TunnelTable::<()>::default());
        let messages = paced(&table, 10, 0, RateAction::Close);
        let bytes = paced(&table, 0, 1000, RateAction::Close);
        let slowed = paced(&table, 0, 1000, RateAction::Throttle);
        for _ in 0..10 {
            messages.pace(1, 1);
            bytes.pace(100, 0);
            slowed.pace(100, 0);
        }
        assert_eq!(messages.entry().verdict(), None);
        assert_eq!(
            (bytes.entry().verdict(), slowed.entry().is_paused()),
            (None, false)
        );
        for slot in [&messages, &bytes, &slowed] {
            slot.pace(1500, 1);
        }
        assert_eq!(messages.entry().verdict(), Some(Ended::MessageRate));
        assert_eq!(bytes.entry().verdict(), Some(Ended::ByteRate));
        // 2500 bytes at 1000 a second: goes on when less than a second is owed.
        for (second, paused) in [(1, true), (2, false)] {
            table.sweep(Instant::now() + Duration::from_secs(second));
            assert_eq!(slowed.entry().is_paused(), paused, "after {second} s");
        }
        assert_eq!(slowed.entry().verdict(), None);
    }
}
