//! The sweep: once a second a worker checks all of its tunnels for limits that have passed and for
//! sides that need a Ping.
//!
//! A tunnel has no timer of its own. A timer would have to be moved with every byte; a sweep only
//! compares each meter with its last value, so that activity costs a tunnel nothing but the
//! counting that it does anyway.

use std::time::Duration;

use tokio::time::Instant;

use super::ended::Ended;
use super::entry::{Flags, TunnelEntry};
use super::liveness::{LivenessAction, Micros};
use super::rates::BURST;
use super::side::Side;
use super::table::{Occupant, TunnelTable};

impl<O> TunnelTable<O> {
    /// Ends the tunnels whose limits have passed, and resumes paused clients that have kept to
    /// their rate.
    pub fn sweep(&self, now: Instant) {
        let now = self.micros(now);
        let (debts, deadlines) = (self.debts.borrow(), self.deadlines.borrow());
        for (key, Occupant { entry, .. }) in self.entries.borrow().iter() {
            if entry.limits.max_age.is_some()
                && deadlines.get(&key).is_some_and(|deadline| *deadline <= now)
            {
                entry.end(Ended::MaxAge);
            }
            // After the age: where two limits have passed, the reason is the one that no activity
            // moves.
            entry.sweep(now);
            self.check_liveness(key, entry, now);
            // Resumed while up to a burst is still owed: the client may send at its rate without
            // stopping for every read, and the next read too many pauses it again.
            let owed = debts.get(&key).map_or(0, |debt| debt.bytes);
            if entry.flags.has(Flags::PAUSED) && owed <= now + BURST {
                entry.flags.set(Flags::PAUSED, false);
                entry.wake();
            }
        }
    }

    /// Checks whether the sides of a tunnel are alive, if its route has `ping`.
    fn check_liveness(&self, key: usize, entry: &TunnelEntry, now: Micros) {
        // A tunnel that is ending sends no Pings: its Close frames ask for an answer already.
        let Some(times) = entry.limits.ping.filter(|_| entry.verdict().is_none()) else {
            return;
        };
        let mut table = self.liveness.borrow_mut();
        let Some(liveness) = table.get_mut(&key) else {
            return;
        };
        for side in [Side::Client, Side::Endpoint] {
            let gone = match side {
                Side::Client => Ended::DeadClient,
                Side::Endpoint => Ended::DeadUpstream,
            };
            let stalled = entry.stalls.time(side);
            match liveness.check(side, entry.meter.bytes(side), stalled, (now, times)) {
                LivenessAction::Wait => {}
                LivenessAction::Ping => {
                    // Only the task knows where in the stream a frame may stand: it is woken and
                    // sees to it.
                    entry.flags.set(Flags::PING[side as usize], true);
                    entry.wake();
                }
                LivenessAction::GiveUp => entry.end(gone),
            }
        }
    }
}

impl TunnelEntry {
    /// Checks the limits of one tunnel.
    fn sweep(&self, now: Micros) {
        if self.verdict().is_some() {
            self.overdue.set(self.overdue.get().saturating_add(1));
            // The task may be waiting for a side that will never answer: it has to give up.
            if self.is_overdue() {
                self.wake();
            }
        } else if let Some(reason) = self
            .stalls
            .sweep(self.limits.slow_reader)
            .or_else(|| self.expired(now))
        {
            self.end(reason);
        }
    }

    /// The reason to end, if the tunnel has been quiet for too long.
    fn expired(&self, now: Micros) -> Option<Ended> {
        let moved = self.moved();
        let (seen, since) = self.seen.get();
        if moved != seen {
            self.seen.set((moved, now));
            return None;
        }
        let (limit, reason) = if self.flags.has(Flags::HALF_CLOSED) {
            (self.limits.half_closed?, Ended::HalfClosed)
        } else {
            (self.limits.idle?, Ended::Idle)
        };
        (Duration::from_micros(now.saturating_sub(since)) >= limit).then_some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{MaxAge, TunnelLimits};
    use crate::tunnel::table::TableSlot;
    use std::rc::Rc;
    use std::sync::Arc;

    const IDLE: Duration = Duration::from_secs(10);
    const HALF_CLOSED: Duration = Duration::from_secs(3);

    fn slot(table: &Rc<TunnelTable>) -> TableSlot {
        table.enter(
            Arc::new(TunnelLimits {
                idle: Some(IDLE),
                half_closed: Some(HALF_CLOSED),
                ..TunnelLimits::default()
            }),
            Rc::default(),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_tunnel_is_ended_and_a_busy_one_is_not() {
        let table = Rc::new(TunnelTable::<()>::default());
        let (quiet, busy) = (slot(&table), slot(&table));
        let start = Instant::now();
        for second in 1..=10 {
            busy.entry().meter.count(Side::Client, 1);
            assert_eq!(quiet.entry().verdict(), None, "after {second} s");
            table.sweep(start + Duration::from_secs(second));
        }
        assert_eq!(quiet.entry().verdict(), Some(Ended::Idle));
        assert_eq!(busy.entry().verdict(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_is_old_is_ended_however_busy_and_not_all_at_once() {
        let table = Rc::new(TunnelTable::default());
        let aging = || {
            let limits = TunnelLimits {
                max_age: Some(MaxAge {
                    age: Duration::from_secs(100),
                    jitter: 500,
                }),
                ..TunnelLimits::default()
            };
            table.enter(Arc::new(limits), Rc::default())
        };
        let tunnels: Vec<TableSlot<()>> = (0..100).map(|_| aging()).collect();
        let start = Instant::now();
        let ended_by = |second| {
            for tunnel in &tunnels {
                tunnel.entry().meter.count(Side::Client, 1);
            }
            table.sweep(start + Duration::from_secs(second));
            let verdicts = tunnels.iter().map(|tunnel| tunnel.entry().verdict());
            verdicts
                .filter(|verdict| *verdict == Some(Ended::MaxAge))
                .count()
        };
        assert_eq!(ended_by(49), 0);
        // Chance has it: half of them, give or take five standard deviations.
        let half = ended_by(75);
        assert!((25..=75).contains(&half), "{half}");
        assert_eq!(ended_by(100), 100);
        drop(tunnels);
        assert!(table.deadlines.borrow().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn half_closed_runs_from_the_last_activity() {
        let table = Rc::new(TunnelTable::<()>::default());
        let tunnel = slot(&table);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        table.sweep(at(5));
        tunnel.entry().set_half_closed();
        table.sweep(at(6));
        tunnel.entry().meter.count(Side::Endpoint, 1);
        table.sweep(at(8));
        table.sweep(at(10));
        assert_eq!(tunnel.entry().verdict(), None);
        table.sweep(at(11));
        assert_eq!(tunnel.entry().verdict(), Some(Ended::HalfClosed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_accepts_nothing_for_too_long_is_slow() {
        let table = Rc::new(TunnelTable::<()>::default());
        let limited = || {
            table.enter(
                Arc::new(TunnelLimits {
                    slow_reader: Some(Duration::from_secs(3)),
                    ..TunnelLimits::default()
                }),
                Rc::default(),
            )
        };
        let (client, endpoint, slow, done) = (limited(), limited(), limited(), limited());
        client.entry().stalls.set(Side::Client, true, false);
        endpoint.entry().stalls.set(Side::Endpoint, true, false);
        done.entry().stalls.set(Side::Client, true, false);
        done.entry().stalls.set(Side::Client, false, true);
        for second in 1..=4 {
            // This one accepts a little now and then.
            slow.entry().stalls.set(Side::Client, true, second % 2 == 0);
            assert_eq!(client.entry().verdict(), None, "after {second} s");
            table.sweep(Instant::now() + Duration::from_secs(second));
        }
        assert_eq!(client.entry().verdict(), Some(Ended::SlowClient));
        assert_eq!(endpoint.entry().verdict(), Some(Ended::SlowUpstream));
        assert_eq!(
            (slow.entry().verdict(), done.entry().verdict()),
            (None, None)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_a_tunnel_is_never_ended() {
        let table = Rc::new(TunnelTable::<()>::default());
        let tunnel = table.enter(Arc::default(), Rc::default());
        table.sweep(Instant::now() + Duration::from_secs(1_000_000));
        assert_eq!(tunnel.entry().verdict(), None);
    }
}
