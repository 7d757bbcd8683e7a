//! The state of one open tunnel that its own task and its worker's table share.
//!
//! There may be a hundred thousand of these, so what fits into a bit or a small integer is one, and
//! what only some tunnels need is in the table's maps.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::ended::Ended;
use super::liveness::Micros;
use super::meter::Meter;
use super::side::Side;
use super::slow_reader::Stalls;
use crate::config::model::TunnelLimits;

/// Sweeps for which a tunnel may go on after its end was decided: to finish the frame that is under
/// way and for the closing handshakes. After that it is cut off.
pub(super) const SWEEPS_TO_CLOSE: u8 = 3;

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
    pub(super) seen: Cell<(u64, Micros)>,
    /// The reason with which the tunnel is to end, once there is one. The first one stands.
    verdict: Cell<Option<Ended>>,
    /// Sweeps that have passed since the verdict.
    pub(super) overdue: Cell<u8>,
    waker: Cell<Option<Waker>>,
}

/// Yes-or-no state of a tunnel, packed into a byte.
#[derive(Debug, Default)]
pub(super) struct Flags(Cell<u8>);

impl Flags {
    pub(super) const HALF_CLOSED: u8 = 1;
    /// Reading from the client is paused until a sweep resumes it.
    pub(super) const PAUSED: u8 = 2;
    /// A Ping is to be sent to the client, to the endpoint: indexed by [`Side`].
    pub(super) const PING: [u8; 2] = [4, 8];

    pub(super) fn has(&self, flag: u8) -> bool {
        self.0.get() & flag != 0
    }

    pub(super) fn set(&self, flag: u8, is_so: bool) {
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
        Self {
            meter: Meter::default(),
            limits,
            stalls: Stalls::default(),
            flags: Flags::default(),
            seen: Cell::new((0, now)),
            verdict: Cell::new(None),
            overdue: Cell::new(0),
            waker: Cell::default(),
        }
    }

    /// The reason with which the tunnel has to end, if it has to.
    pub fn verdict(&self) -> Option<Ended> {
        self.verdict.get()
    }

    /// Whether the time for an orderly end is over.
    pub fn is_overdue(&self) -> bool {
        self.overdue.get() >= SWEEPS_TO_CLOSE
    }

    /// Notes that one side has ended: from the next sweep on, `half_closed` is the limit.
    pub fn set_half_closed(&self) {
        self.flags.set(Flags::HALF_CLOSED, true);
    }

    /// Whether reading from the client is paused.
    pub fn is_paused(&self) -> bool {
        self.flags.has(Flags::PAUSED)
    }

    /// Whether a Ping to `side` was requested since the last call.
    pub fn take_ping_request(&self, side: Side) -> bool {
        let flag = Flags::PING[side as usize];
        let asks = self.flags.has(flag);
        self.flags.set(flag, false);
        asks
    }

    /// Sets the task to wake when there is a verdict.
    pub fn set_waker(&self, waker: &Waker) {
        // Cloning a waker counts references, and this runs with every poll: keep the one there is.
        let current = self.waker.take();
        let current = current.filter(|current| current.will_wake(waker));
        self.waker
            .set(Some(current.unwrap_or_else(|| waker.clone())));
    }

    /// Ends the tunnel for this reason, unless it already has one.
    pub fn end(&self, reason: Ended) {
        if self.verdict.get().is_none() {
            self.verdict.set(Some(reason));
            self.wake();
        }
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
            true => Duration::from_micros(now.saturating_sub(since)),
            false => Duration::ZERO,
        }
    }

    /// A number that changes with every sign of activity.
    pub(super) fn moved(&self) -> u64 {
        // Becoming half-closed counts as activity, because the clock of that limit starts there.
        self.meter.total() * 2 + u64::from(self.flags.has(Flags::HALF_CLOSED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
