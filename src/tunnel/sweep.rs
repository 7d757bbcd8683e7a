//! The sweep: about once a second a worker checks each of its tunnels for limits that have passed
//! and for sides that need a Ping.
//!
//! A tunnel has no timer of its own. A timer would have to be moved with every byte; a sweep only
//! compares each meter with its last value, so that activity costs a tunnel nothing but the
//! counting that it does anyway. A worker with many tunnels sweeps them in slices, so that no
//! message waits for all of them.

use std::time::SystemTime;

use tokio::time::Instant;

use super::ended::Ended;
use super::entry::{Flags, TunnelEntry};
use super::liveness::{LivenessAction, Micros, SideState};
use super::side::Side;
use super::table::TunnelTable;
use crate::auth::revocations::{UnixSeconds, unix_seconds};

impl<O> TunnelTable<O> {
    /// Sweeps the next tunnels. Returns when to call this again.
    pub fn sweep_slice(&self, now: Instant) -> Instant {
        let entries = self.entries.borrow();
        let (schedule, clock) = (&self.schedule, &self.clock);
        if let Some((from, cost)) = schedule.begin(now, clock, entries.walk_cost()) {
            let time = clock.at(now);
            let unix = unix_now();
            let next = entries.walk(from, cost, |slot, occupant| {
                self.check_binding(slot, &occupant.entry, unix);
                occupant.entry.sweep(time);
            });
            schedule.end(now, clock, next);
        }
        schedule.due()
    }

    /// Sweeps all tunnels at once.
    pub fn sweep(&self, now: Instant) {
        self.clock.count_until(now);
        let time = self.clock.at(now);
        let entries = self.entries.borrow();
        let unix = unix_now();
        entries.for_each(|slot, occupant| {
            self.check_binding(slot, &occupant.entry, unix);
            occupant.entry.sweep(time);
        });
    }

    /// Ends the tunnel if its credential expires. This comes before the other limits: from then on it must not
    /// carry anything, whatever else has passed.
    fn check_binding(&self, slot: usize, entry: &TunnelEntry, unix: UnixSeconds) {
        let ends = self.bindings.get(slot).ends;
        if ends.is_some_and(|ends| ends.get() <= unix) {
            entry.end(Ended::CredentialExpired);
        }
    }
}

fn unix_now() -> UnixSeconds {
    unix_seconds(SystemTime::now())
}

impl TunnelEntry {
    /// Ends the tunnel if a limit has passed, requests Pings, and resumes a paused client that has
    /// kept to its rate.
    fn sweep(&self, now: Micros) {
        let deadline = self.extras().and_then(|extras| extras.deadline);
        if deadline.is_some_and(|deadline| deadline.get() <= now) {
            self.end(Ended::MaxAge);
        }
        if self.is_paused() && self.with_debt(|debt| debt.may_resume(now)) != Some(false) {
            self.flags.set(Flags::PAUSED, false);
            self.wake();
        }
        // After the age: where two limits have passed, the reason is the one that no activity
        // moves.
        if self.verdict().is_some() {
            self.count_overdue(now);
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
        self.push_stalled();
        self.check_liveness(now);
    }

    /// Has the task try to send what waits for a side, and look whether the other one has left.
    //
    // The kernel reports a socket as writable when a third of its buffer is free. A side that reads
    // slowly takes minutes for that, and all the while it would look as if it had accepted nothing.
    // Nor is the side read whose bytes have nowhere to go, so that its end wakes no task.
    fn push_stalled(&self) {
        for side in [Side::Client, Side::Endpoint] {
            if self.stalls.is_waiting(side) {
                self.flags.set(Flags::PUSH[side as usize], true);
                self.wake();
            }
        }
    }

    /// Checks whether the sides of a tunnel are alive, if its route has `ping`.
    fn check_liveness(&self, now: Micros) {
        // A tunnel that is ending sends no Pings: its Close frames ask for an answer already.
        let Some(times) = self.limits.ping.filter(|_| self.verdict().is_none()) else {
            return;
        };
        let asked = [Side::Client, Side::Endpoint].into_iter();
        for side in asked.skip(usize::from(!times.clients)) {
            let gone = match side {
                Side::Client => Ended::DeadClient,
                Side::Endpoint => Ended::DeadUpstream,
            };
            let seen = SideState {
                bytes: self.meter.bytes(side),
                is_read: !self.flags.has(Flags::UNREAD[side as usize]),
                stuck: self.stalls.time(side),
            };
            match self.with_liveness(|liveness| liveness.check(side, seen, (now, times))) {
                Some(LivenessAction::Wait) | None => {}
                Some(LivenessAction::Ping) => {
                    // Only the task knows where in the stream a frame may stand: it is woken and
                    // sees to it.
                    self.flags.set(Flags::PING[side as usize], true);
                    self.wake();
                }
                Some(LivenessAction::GiveUp) => {
                    self.end(gone);
                }
            }
        }
    }

    /// The reason to end, if the tunnel has been quiet for too long.
    fn expired(&self, now: Micros) -> Option<Ended> {
        let quiet = self.note_activity(now);
        // First: a reset counts also where a side may stay half-closed for ever.
        let (limit, reason) = if let Some(abandoned) = self.abandoned() {
            abandoned
        } else if self.flags.has(Flags::HALF_CLOSED) {
            (self.limits.half_closed?, Ended::HalfClosed)
        } else {
            (self.limits.idle?, Ended::Idle)
        };
        (quiet >= limit).then_some(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{ByteRate, MaxAge, RateAction, TunnelLimits};
    use crate::net::hangup::Hangup;
    use crate::tunnel::bindings::TunnelBinding;
    use crate::tunnel::framing::MESSAGE_COST;
    use crate::tunnel::table::TableSlot;
    use std::num::NonZeroU32;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::time::Duration;

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
    async fn a_tunnel_ends_with_its_credential_unless_that_is_extended() {
        let table = Rc::new(TunnelTable::<()>::default());
        let bound = |seconds: i64| {
            let slot = slot(&table);
            let ends = u32::try_from(i64::from(unix_now()) + seconds).unwrap();
            slot.bind(TunnelBinding {
                ends: NonZeroU32::new(ends),
                subject: None,
            });
            slot
        };
        let (past, future, extended, free) = (bound(-1), bound(1000), bound(-1), slot(&table));
        let later = NonZeroU32::new(u32::MAX).unwrap();
        assert!(!table.extend(2, later, |()| false), "it is another tunnel");
        assert!(table.extend(2, later, |()| true));
        assert!(!table.extend(3, later, |()| true), "it has no end");
        table.sweep(Instant::now());
        let verdicts = [past, future, extended, free].map(|it| it.entry().verdict());
        assert_eq!(verdicts, [Some(Ended::CredentialExpired), None, None, None]);
        assert_eq!(table.binding(0), TunnelBinding::default(), "it is gone");
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
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_that_is_closed_at_a_pace_may_finish_its_message() {
        let start = Instant::now();
        // Sweeps until the tunnel is cut off, whose message moves at first.
        let sweeps = |reason, unfinished, moving| {
            let table = Rc::new(TunnelTable::<()>::default());
            let tunnel = slot(&table);
            tunnel.entry().end(reason);
            tunnel.entry().set_unfinished(unfinished);
            (1..1000).find(|second| {
                tunnel
                    .entry()
                    .meter
                    .count(Side::Endpoint, usize::from(*second <= moving));
                table.sweep(start + Duration::from_secs(*second));
                tunnel.entry().is_overdue()
            })
        };
        for reason in [
            Ended::Drain,
            Ended::Rebalance,
            Ended::MaxAge,
            Ended::Shutdown,
        ] {
            assert_eq!(sweeps(reason, false, 1000), Some(3));
            assert_eq!(sweeps(reason, true, 20), Some(32));
            assert_eq!(sweeps(reason, true, 1000), Some(63), "it has an end");
        }
        for reason in [Ended::Killed, Ended::MessageRate, Ended::Idle] {
            assert_eq!(sweeps(reason, true, 1000), Some(3));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_at_a_pace_is_cut_short_for_an_operator_and_for_memory() {
        let start = Instant::now();
        for (reason, overdue) in [
            (Ended::Killed, true),
            (Ended::MemoryFull, true),
            (Ended::Rebalance, false),
            (Ended::SlowClient, false),
        ] {
            let table = Rc::new(TunnelTable::<()>::default());
            let tunnel = slot(&table);
            let entry = tunnel.entry();
            entry.set_unfinished(true);
            entry.end(Ended::Drain);
            for second in 1..=8 {
                entry.meter.count(Side::Endpoint, 1);
                table.sweep(start + Duration::from_secs(second));
                assert!(!entry.is_overdue() || second > 5);
                if second == 5 {
                    assert_eq!(entry.end(reason), overdue);
                    assert!(!entry.end(reason), "once");
                }
            }
            assert_eq!(entry.is_overdue(), overdue, "{reason}");
        }
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
    async fn the_age_of_the_last_byte_outlasts_the_end_of_a_stream() {
        let table = Rc::new(TunnelTable::<()>::default());
        let tunnel = table.enter(Arc::default(), Rc::default());
        let pass = |seconds| tokio::time::advance(Duration::from_secs(seconds));
        tunnel.entry().meter.count(Side::Client, 1);
        pass(1).await;
        table.sweep(Instant::now());
        pass(60).await;
        table.sweep(Instant::now());
        tunnel.set_half_closed();
        assert_eq!(tunnel.quiet(), Duration::from_secs(60));
        pass(1).await;
        // The sweep takes the end for activity.
        table.sweep(Instant::now());
        pass(5).await;
        table.sweep(Instant::now());
        tunnel.set_half_closed();
        assert_eq!(tunnel.quiet(), Duration::from_secs(65));
        tunnel.entry().meter.count(Side::Endpoint, 1);
        tunnel.forget_quiet_before_end();
        assert_eq!(tunnel.quiet(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reset_ends_a_stalled_tunnel_that_may_stay_half_closed() {
        let table = Rc::new(TunnelTable::<()>::default());
        let tunnel = table.enter(Arc::default(), Rc::default());
        let entry = tunnel.entry();
        entry.set_half_closed();
        entry.stalls.set(Side::Client, true, false);
        let start = Instant::now();
        for second in 1..=20 {
            table.sweep(start + Duration::from_secs(second));
        }
        assert_eq!(entry.verdict(), None);
        entry.set_hangup(Side::Endpoint, Some(Hangup::Reset));
        table.sweep(start + Duration::from_secs(21));
        assert_eq!(entry.verdict(), Some(Ended::UpstreamReset));
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

    #[tokio::test(start_paused = true)]
    async fn slices_see_every_tunnel_once_a_second_and_only_some_at_a_time() {
        const TUNNELS: usize = 20_000;
        let table = Rc::new(TunnelTable::<()>::default());
        let tunnels: Vec<TableSlot> = (0..TUNNELS).map(|_| slot(&table)).collect();
        let start = Instant::now();
        // A verdict is what each sweep of a tunnel adds to.
        table.end_all(Ended::Killed);
        let sweeps = || {
            let sweeps = tunnels
                .iter()
                .map(|tunnel| tunnel.entry().overdue.counted());
            sweeps.map(usize::from).sum::<usize>()
        };
        let mut due = start;
        let mut slices = 0;
        while sweeps() < 2 * TUNNELS {
            let before = sweeps();
            due = table.sweep_slice(due);
            slices += 1;
            assert!(sweeps() - before <= TUNNELS / 30, "a slice");
        }
        assert!(
            tunnels
                .iter()
                .all(|tunnel| tunnel.entry().overdue.counted() == 2)
        );
        assert!(slices >= 60, "{slices}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_was_stopped_ends_none_of_its_busy_tunnels() {
        let table = Rc::new(TunnelTable::<()>::default());
        let (busy, quiet) = (slot(&table), slot(&table));
        let mut due = Instant::now();
        for _ in 0..5 {
            due = table.sweep_slice(due);
            busy.entry().meter.count(Side::Client, 1);
        }
        // Stopped for an hour. The first slice judges nothing; then the sockets are read.
        due = table.sweep_slice(due + Duration::from_secs(3600));
        assert_eq!(
            (busy.entry().verdict(), quiet.entry().verdict()),
            (None, None)
        );
        busy.entry().meter.count(Side::Client, 1);
        for _ in 0..20 {
            due = table.sweep_slice(due);
            busy.entry().meter.count(Side::Client, 1);
        }
        // The quiet one has its whole time, and no more.
        assert_eq!(busy.entry().verdict(), None);
        assert_eq!(quiet.entry().verdict(), Some(Ended::Idle));
    }

    #[tokio::test(start_paused = true)]
    async fn what_runs_between_a_stop_and_the_sweep_is_not_ahead_of_the_clock() {
        const STOP: Duration = Duration::from_secs(3600);
        let table = Rc::new(TunnelTable::<()>::default());
        let limited = || {
            let limits = TunnelLimits {
                idle: Some(IDLE),
                messages: 10.try_into().ok(),
                bytes: 1000.try_into().ok().map(|per_second| ByteRate {
                    per_second,
                    action: RateAction::Throttle,
                }),
                ..TunnelLimits::default()
            };
            table.enter(Arc::new(limits), Rc::default())
        };
        let old = limited();
        let mut due = table.sweep_slice(Instant::now());
        tokio::time::advance(STOP).await;
        // The tasks that the stop has made ready run first.
        let new = limited();
        for tunnel in [&old, &new] {
            tunnel.charge(2500, 10 * MESSAGE_COST);
            assert!(tunnel.entry().is_paused());
        }
        due = table.sweep_slice(due.max(Instant::now()));
        for _ in 0..3 {
            tokio::time::advance(due.saturating_duration_since(Instant::now())).await;
            due = table.sweep_slice(due);
        }
        for tunnel in [old, new] {
            assert_eq!(tunnel.entry().verdict(), None);
            assert!(!tunnel.entry().is_paused(), "it has kept to its rate");
            assert_eq!(tunnel.allowance().cost, 10 * u64::from(MESSAGE_COST));
        }
    }
}
