//! The state of one open tunnel that its own task and its worker's table share.
//!
//! There may be a hundred thousand of these, so what fits into a bit or a small integer is one, and
//! what only some tunnels need is in their extras.

use std::cell::{Cell, OnceCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::ended::{CloseMessage, Ended};
use super::extras::TunnelExtras;
use super::liveness::{Liveness, Micros};
use super::meter::Meter;
use super::rates::Debt;
use super::side::Side;
use super::slow_reader::Stalls;
use crate::config::model::TunnelLimits;
use crate::net::hangup::Hangup;

/// Sweeps for which a tunnel may go on after its end was decided: to finish the frame that is under
/// way and for the closing handshakes. After that it is cut off.
const SWEEPS_TO_CLOSE: u8 = 3;

/// Sweeps that do not count as such for a tunnel that is closed at a pace, as long as a message under
/// way moves. One that takes longer is cut off.
const SWEEPS_TO_FINISH: u8 = 60;

/// How long a message may stand still and count as moving. The kernel takes bytes for a slow reader in
/// large pieces, several seconds apart.
const STANDSTILL: Duration = Duration::from_secs(10);

/// How long a side may accept nothing after the other one has reset its connection, where `half_closed`
/// is off.
const RESET_LIMIT: Duration = Duration::from_secs(10);

/// One open tunnel, as seen from outside of its task.
pub struct TunnelEntry {
    /// Bytes and messages so far.
    pub meter: Meter,
    /// The limits of its route when it opened; a reload does not change them.
    pub limits: Arc<TunnelLimits>,
    /// How long bytes have been waiting for each side.
    pub(super) stalls: Stalls,
    pub(super) flags: Flags,
    /// The activity mark at the last sweep that saw it change, and the time of that sweep.
    seen: Cell<(u32, Hundredths)>,
    extras: OnceCell<Box<TunnelExtras>>,
    /// The reason with which the tunnel is to end, once there is one. The first one stands, unless
    /// the second is in a hurry.
    verdict: Cell<Option<Ended>>,
    /// Sweeps that have passed since the verdict.
    pub(super) overdue: Overdue,
    waker: Cell<Option<Waker>>,
}

/// Sweeps since a verdict: those that count in the two highest bits, those that do not in the others.
#[derive(Debug, Default)]
pub(super) struct Overdue(Cell<u8>);

impl Overdue {
    const ONE: u8 = 64;

    fn count(&self) {
        self.0.set(self.0.get().saturating_add(Self::ONE));
    }

    /// Lets a sweep not count. Returns whether it may be so.
    fn grant(&self) -> bool {
        let may = self.0.get() % Self::ONE < SWEEPS_TO_FINISH;
        self.0.set(self.0.get() + u8::from(may));
        may
    }

    /// The number of sweeps that count.
    pub(super) fn counted(&self) -> u8 {
        self.0.get() / Self::ONE
    }
}

/// Hundredths of a second on the clock of the table: a number of 32 bits lasts for more than a year.
pub(super) type Hundredths = u32;

fn hundredths(time: Micros) -> Hundredths {
    (time / 10_000) as Hundredths
}

/// A time in hundredths of a second; the longest there is, if it is longer.
pub(super) fn hundredths_of(time: Duration) -> Hundredths {
    Hundredths::try_from(time.as_millis() / 10).unwrap_or(Hundredths::MAX)
}

/// The time from `since` to `now`; zero if that is ahead.
fn elapsed(since: Hundredths, now: Hundredths) -> Duration {
    let passed = now.wrapping_sub(since);
    // More than half of what a number can hold is a time ahead.
    let is_ahead = passed > Hundredths::MAX / 2;
    match is_ahead {
        true => Duration::ZERO,
        false => Duration::from_millis(u64::from(passed) * 10),
    }
}

/// Yes-or-no state of a tunnel, packed into two bytes.
#[derive(Debug, Default)]
pub(super) struct Flags(Cell<u16>);

impl Flags {
    pub(super) const HALF_CLOSED: u16 = 1;
    /// Reading from the client is paused until a sweep resumes it.
    pub(super) const PAUSED: u16 = 2;
    /// A Ping is to be sent to the client, to the endpoint: indexed by [`Side`].
    pub(super) const PING: [u16; 2] = [4, 8];
    /// What the client, the endpoint has sent was not read to its end: indexed by [`Side`].
    pub(super) const UNREAD: [u16; 2] = [16, 32];
    /// A side has ended its stream, or reset it, behind bytes that are not read: indexed by [`Side`].
    const LEFT: [u16; 2] = [64, 128];
    const RESET: [u16; 2] = [256, 512];
    /// The tunnel waits in line for a turn; it has been let on.
    pub(super) const IN_LINE: u16 = 1024;
    pub(super) const ADMITTED: u16 = 2048;
    /// What waits for the client, the endpoint is to be pushed into the kernel: indexed by [`Side`].
    pub(super) const PUSH: [u16; 2] = [4096, 8192];
    /// A side has accepted bytes that had been waiting for it.
    pub(super) const DELIVERED: u16 = 16384;
    /// Closing the tunnel in order waits for a message under way.
    const UNFINISHED: u16 = 32768;

    pub(super) fn has(&self, flag: u16) -> bool {
        self.0.get() & flag != 0
    }

    /// Clears the flag; returns whether it was set.
    pub(super) fn take(&self, flag: u16) -> bool {
        let was_set = self.has(flag);
        self.set(flag, false);
        was_set
    }

    pub(super) fn set(&self, flag: u16, is_so: bool) {
        let others = self.0.get() & !flag;
        self.0.set(if is_so { others | flag } else { others });
    }
}

impl fmt::Debug for TunnelEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelEntry")
            .field("meter", &self.meter)
            .field("verdict", &self.verdict)
            .finish_non_exhaustive()
    }
}

impl TunnelEntry {
    pub(super) fn new(limits: Arc<TunnelLimits>, now: Micros) -> Self {
        let extras = OnceCell::new();
        if let Some(needed) = TunnelExtras::of(&limits, now) {
            let _ = extras.set(needed);
        }
        Self {
            meter: Meter::default(),
            limits,
            extras,
            stalls: Stalls::default(),
            flags: Flags::default(),
            seen: Cell::new((0, hundredths(now))),
            verdict: Cell::new(None),
            overdue: Overdue::default(),
            waker: Cell::default(),
        }
    }

    /// The reason with which the tunnel has to end, if it has to.
    pub fn verdict(&self) -> Option<Ended> {
        self.verdict.get()
    }

    /// Whether the time for an orderly end is over.
    pub fn is_overdue(&self) -> bool {
        self.overdue.counted() >= SWEEPS_TO_CLOSE
    }

    /// Gives the tunnel no more time for an orderly end.
    pub(super) fn cut_off(&self) {
        self.overdue.0.set(SWEEPS_TO_CLOSE * Overdue::ONE);
        self.wake();
    }

    /// Notes whether closing the tunnel in order waits for a message under way.
    pub fn set_unfinished(&self, is_unfinished: bool) {
        self.flags.set(Flags::UNFINISHED, is_unfinished);
    }

    /// Counts a sweep since the verdict, unless the tunnel is closed at a pace and has a message under
    /// way that moves.
    pub(super) fn count_overdue(&self, now: Micros) {
        let quiet = self.note_activity(now);
        // Bytes that wait for the client count as well: while they do, nothing is read for it.
        let _ = self.stalls.sweep(None);
        let accepts =
            self.stalls.is_waiting(Side::Client) && self.stalls.time(Side::Client) < STANDSTILL;
        let moves = quiet < STANDSTILL || accepts;
        let is_paced = self.verdict().is_some_and(Ended::is_paced);
        let waits = is_paced && moves && self.flags.has(Flags::UNFINISHED);
        if !(waits && self.overdue.grant()) {
            self.overdue.count();
        }
    }

    /// Notes that one side has ended: from the next sweep on, `half_closed` is the limit.
    pub fn set_half_closed(&self) {
        self.flags.set(Flags::HALF_CLOSED, true);
    }

    /// Whether one side has ended.
    pub(super) fn is_half_closed(&self) -> bool {
        self.flags.has(Flags::HALF_CLOSED)
    }

    /// Whether reading from the client is paused.
    pub fn is_paused(&self) -> bool {
        self.flags.has(Flags::PAUSED)
    }

    /// Notes what `side` has done with its connection while it is not read.
    pub fn set_hangup(&self, side: Side, hangup: Option<Hangup>) {
        match hangup {
            None => {}
            Some(Hangup::Ended) => self.flags.set(Flags::LEFT[side as usize], true),
            Some(Hangup::Reset) => self.flags.set(Flags::RESET[side as usize], true),
        }
    }

    /// The limit on quiet time, and the reason to end, if a side has left and the other one accepts
    /// nothing of what it sent before.
    pub(super) fn abandoned(&self) -> Option<(Duration, Ended)> {
        let limit = |side: Side| {
            let (limit, reason) = if self.flags.has(Flags::RESET[side as usize]) {
                let reason = match side {
                    Side::Client => Ended::ClientReset,
                    Side::Endpoint => Ended::UpstreamReset,
                };
                (self.limits.half_closed.unwrap_or(RESET_LIMIT), reason)
            } else if self.flags.has(Flags::LEFT[side as usize]) {
                (self.limits.half_closed?, Ended::HalfClosed)
            } else {
                return None;
            };
            (self.stalls.time(side.other()) >= limit).then_some((limit, reason))
        };
        limit(Side::Client).or_else(|| limit(Side::Endpoint))
    }

    /// Whether a Ping to `side` was requested since the last call.
    pub fn take_ping_request(&self, side: Side) -> bool {
        self.flags.take(Flags::PING[side as usize])
    }

    /// Sets the task to wake when there is a verdict.
    pub fn set_waker(&self, waker: &Waker) {
        // Cloning a waker counts references, and this runs with every poll: keep the one there is.
        let current = self.waker.take();
        let current = current.filter(|current| current.will_wake(waker));
        self.waker
            .set(Some(current.unwrap_or_else(|| waker.clone())));
    }

    /// Ends the tunnel for this reason, unless it already has one. Returns whether it does.
    //
    // A tunnel that is closed at a pace has a minute for that: an operator need not wait for it, nor
    // can the memory of the process. Its Close, and what is reported, keep the first reason.
    pub fn end(&self, reason: Ended) -> bool {
        let ends = self.may_end(reason);
        if ends {
            self.verdict.set(Some(reason));
            self.wake();
        }
        ends
    }

    /// Whether [`TunnelEntry::end`] for this reason would change anything.
    pub(super) fn may_end(&self, reason: Ended) -> bool {
        let verdict = self.verdict.get();
        verdict.is_none_or(|first| first.gives_way_to(reason))
    }

    pub(super) fn wake(&self) {
        // The task sets it again when it runs.
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// For how long nothing has come from either side. Accurate to a sweep, which is what notices.
    pub(super) fn quiet(&self, now: Micros) -> Duration {
        let (seen, since) = self.seen.get();
        match self.moved() == seen {
            true => elapsed(since, hundredths(now)),
            false => Duration::ZERO,
        }
    }

    /// Notes activity since the last call. Returns for how long there has been none.
    pub(super) fn note_activity(&self, now: Micros) -> Duration {
        let delivered = self.flags.take(Flags::DELIVERED);
        let quiet = match delivered {
            true => Duration::ZERO,
            false => self.quiet(now),
        };
        if quiet.is_zero() {
            self.seen.set((self.moved(), hundredths(now)));
        }
        quiet
    }

    /// A number that changes with every sign of activity.
    //
    // Half of the bits are enough: nothing moves as many bytes as they count between two sweeps.
    fn moved(&self) -> u32 {
        // Becoming half-closed counts as activity, because the clock of that limit starts there.
        (self.meter.total() as u32) << 1 | u32::from(self.flags.has(Flags::HALF_CLOSED))
    }

    /// What this tunnel has and most do not.
    pub(super) fn extras(&self) -> Option<&TunnelExtras> {
        self.extras.get().map(|extras| &**extras)
    }

    /// Sets what the Close frame is to say. The first message stands.
    pub(super) fn set_close_message(&self, message: &Rc<CloseMessage>) {
        let extras = self.extras.get_or_init(Box::default);
        let _ = extras.close_message.set(Rc::clone(message));
    }

    /// What the Close frame is to say, if the tunnel is being closed on purpose.
    pub(super) fn close_message(&self) -> Option<&Rc<CloseMessage>> {
        self.extras()?.close_message.get()
    }

    /// Changes what the client owes, if its rate is limited.
    pub(super) fn with_debt<T>(&self, change: impl FnOnce(&mut Debt) -> T) -> Option<T> {
        let cell = self.extras()?.debt.as_ref()?;
        let mut debt = cell.get();
        let result = change(&mut debt);
        cell.set(debt);
        Some(result)
    }

    /// Changes the liveness of the sides, if the route has `ping`.
    pub(super) fn with_liveness<T>(&self, change: impl FnOnce(&mut Liveness) -> T) -> Option<T> {
        let cell = self.extras()?.liveness.as_ref()?;
        let mut liveness = cell.get();
        let result = change(&mut liveness);
        cell.set(liveness);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_ahead_of_the_clock_is_no_time() {
        assert_eq!(elapsed(500, 300), Duration::ZERO);
        assert_eq!(elapsed(300, 500), Duration::from_secs(2));
        assert_eq!(elapsed(Hundredths::MAX - 99, 100), Duration::from_secs(2));
    }

    #[test]
    fn a_tunnels_entry_is_small() {
        // With the counts of its `Rc`, a size class of the allocator.
        assert!(
            size_of::<TunnelEntry>() <= 80,
            "{} bytes",
            size_of::<TunnelEntry>()
        );
    }
}
