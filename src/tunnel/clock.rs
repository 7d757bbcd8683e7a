//! The clock of a worker's tunnels, and when the slices of its sweep are due.
//!
//! The clock stands still while the worker does not run: what peers have sent meanwhile lies in the
//! sockets, and none of them may be judged by it.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

use super::SWEEP_INTERVAL;
use super::liveness::Micros;

/// What a slice may cost: a few hundred tunnels, a tenth of a millisecond.
const SLICE_COST: usize = 512;

/// Maximum number of slices in a round. A timer is accurate to a millisecond.
const MAX_SLICES: usize = 500;

/// A slice that comes so late was not delayed by work: the process was stopped, or the system was.
const STOPPED_AFTER: Duration = SWEEP_INTERVAL;

/// The time for which the worker has run since its table was created.
#[derive(Debug)]
pub struct TunnelClock {
    began: Instant,
    /// The time for which it was stopped.
    lost: Cell<Micros>,
    /// When it stands still, unless a slice comes before.
    halts: Cell<Instant>,
}

/// Divides a round over all tunnels, which takes [`SWEEP_INTERVAL`], into slices.
#[derive(Debug)]
pub struct SweepSchedule {
    due: Cell<Instant>,
    round_began: Cell<Instant>,
    /// The slot to continue with: 0 at the beginning of a round.
    next: Cell<usize>,
    /// The cost of a slice in this round, and the time from one to the next.
    cost: Cell<usize>,
    step: Cell<Duration>,
    was_stopped: Cell<bool>,
}

impl TunnelClock {
    /// A clock that begins now.
    pub fn new(now: Instant) -> Self {
        Self {
            began: now,
            lost: Cell::new(0),
            halts: Cell::new(now + SWEEP_INTERVAL + STOPPED_AFTER),
        }
    }

    /// The time on this clock. It never goes back.
    //
    // What runs after a stop and before the next slice must not see the time of the stop, either.
    pub fn at(&self, now: Instant) -> Micros {
        let until = now.min(self.halts.get());
        // Enough for half a million years.
        let passed = until.saturating_duration_since(self.began).as_micros() as Micros;
        passed.saturating_sub(self.lost.get())
    }

    /// Counts the time until `now`, whether or not a slice came.
    pub fn count_until(&self, now: Instant) {
        self.halts.set(self.halts.get().max(now));
    }

    /// Goes on from `now`, where it stood still, and until the slice that is `due` is too late.
    fn run(&self, now: Instant, due: Instant) {
        let stood = now.saturating_duration_since(self.halts.get());
        let lost = self.lost.get().saturating_add(stood.as_micros() as Micros);
        self.lost.set(lost);
        self.halts.set(due.max(now) + STOPPED_AFTER);
    }
}

impl SweepSchedule {
    /// The first slice is due one interval from `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            due: Cell::new(now + SWEEP_INTERVAL),
            round_began: Cell::new(now),
            next: Cell::new(0),
            cost: Cell::new(SLICE_COST),
            step: Cell::new(SWEEP_INTERVAL),
            was_stopped: Cell::new(false),
        }
    }

    /// When the next slice is due.
    pub fn due(&self) -> Instant {
        self.due.get()
    }

    /// Begins a slice, of a walk over all tunnels that costs `whole`. Returns the slot to begin with
    /// and what the slice may cost; `None` if the worker has been stopped and the sockets have to be
    /// read before anything is judged.
    pub fn begin(&self, now: Instant, clock: &TunnelClock, whole: usize) -> Option<(usize, usize)> {
        let late = now.saturating_duration_since(self.due.get());
        let is_stopped = late > STOPPED_AFTER;
        clock.run(now, self.due.get());
        // Only once in a row: a worker that is late every time is overloaded, and still has limits.
        if is_stopped && !self.was_stopped.replace(true) {
            self.due.set(now + self.step.get());
            clock.run(now, self.due.get());
            return None;
        }
        self.was_stopped.set(is_stopped);
        if self.next.get() == 0 {
            let slices = whole.div_ceil(SLICE_COST).clamp(1, MAX_SLICES);
            self.cost.set(whole.div_ceil(slices).max(SLICE_COST));
            self.step.set(SWEEP_INTERVAL / slices as u32);
            self.round_began.set(now);
        }
        Some((self.next.get(), self.cost.get()))
    }

    /// Ends a slice; the walk continues with `next`.
    pub fn end(&self, now: Instant, clock: &TunnelClock, next: Option<usize>) {
        let due = match next {
            Some(_) => self.due.get() + self.step.get(),
            None => self.round_began.get() + SWEEP_INTERVAL,
        };
        self.next.set(next.unwrap_or(0));
        // What is late is not made up for: a tunnel must not be swept twice at once.
        self.due.set(due.max(now));
        clock.run(now, self.due.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Runs slices over `slots` until `rounds` are complete; returns their number in each round.
    fn run(
        schedule: &SweepSchedule,
        clock: &TunnelClock,
        slots: usize,
        rounds: usize,
    ) -> Vec<usize> {
        let mut counts = vec![0];
        while counts.len() <= rounds {
            let now = schedule.due();
            let (from, cost) = schedule.begin(now, clock, slots).unwrap();
            let next = (from + cost < slots).then_some(from + cost);
            schedule.end(now, clock, next);
            *counts.last_mut().unwrap() += 1;
            if next.is_none() {
                counts.push(0);
            }
        }
        counts.truncate(rounds);
        counts
    }

    #[test]
    fn a_round_takes_a_second_and_its_slices_are_short() {
        for (slots, slices) in [
            (0, 1),
            (500, 1),
            (5_000, 10),
            (100_000, 196),
            (1_000_000, 500),
        ] {
            let start = Instant::now();
            let (schedule, clock) = (SweepSchedule::new(start), TunnelClock::new(start));
            assert_eq!(
                run(&schedule, &clock, slots, 3),
                [slices; 3],
                "{slots} slots"
            );
            assert_eq!(schedule.due(), start + 4 * SECOND);
            assert!(schedule.cost.get() <= SLICE_COST.max(slots / MAX_SLICES));
            assert_eq!(clock.at(schedule.due()), 4_000_000);
        }
    }

    #[test]
    fn the_clock_stands_still_while_the_worker_is_stopped_and_nothing_is_judged_at_once() {
        let start = Instant::now();
        let (schedule, clock) = (SweepSchedule::new(start), TunnelClock::new(start));
        run(&schedule, &clock, 5_000, 2);
        let stopped_at = schedule.due();
        let before = clock.at(stopped_at) + STOPPED_AFTER.as_micros() as Micros;
        let now = stopped_at + 3600 * SECOND;
        assert_eq!(clock.at(now), before, "it does not go back at the slice");
        assert_eq!(schedule.begin(now, &clock, 5_000), None);
        assert_eq!(clock.at(now), before);
        // The next slice is judged as usual, one step later.
        let now = schedule.due();
        assert!(schedule.begin(now, &clock, 5_000).is_some());
        assert_eq!(clock.at(now), before + 100_000);
    }

    #[test]
    fn a_worker_that_is_always_late_still_sweeps() {
        let start = Instant::now();
        let (schedule, clock) = (SweepSchedule::new(start), TunnelClock::new(start));
        let mut judged = 0;
        let mut time = 0;
        for _ in 0..10 {
            let now = schedule.due() + 5 * SECOND;
            assert!(clock.at(now) >= time, "the clock went back");
            time = clock.at(now);
            if schedule.begin(now, &clock, 100).is_some() {
                schedule.end(now, &clock, None);
                judged += 1;
            }
        }
        assert_eq!(judged, 9);
    }
}
