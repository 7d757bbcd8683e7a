//! One live tunnel, as its worker's table and its own task share it.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::ended::Ended;
use super::liveness::Micros;
use super::meter::Meter;
use super::side::Side;
use crate::config::model::TunnelLimits;

/// How often limits are looked at, and so how late a tunnel may be ended.
pub const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Sweeps that a tunnel may go on after its end was decided: for the last frame to come to its end,
/// and for closing handshakes. After that it ends as it is.
pub(super) const SWEEPS_TO_CLOSE: u8 = 3;

/// One live tunnel, as seen from outside of it.
pub struct TunnelEntry {
    /// What went through it.
    pub meter: Meter,
    /// What holds for it.
    pub limits: Arc<TunnelLimits>,
    /// Whether what goes to each side is stuck, and since how many sweeps.
    pub(super) to_client: Stall,
    pub(super) to_endpoint: Stall,
    pub(super) flags: Flags,
    /// What the meter showed at the last sweep that saw it move, and when that was.
    pub(super) seen: Cell<(u64, Micros)>,
    /// Set from outside: the tunnel is to end, as this.
    verdict: Cell<Option<Ended>>,
    /// Sweeps that have seen the verdict.
    pub(super) overdue: Cell<u8>,
    waker: Cell<Option<Waker>>,
}

/// What is so of a tunnel or not, in a byte.
#[derive(Debug, Default)]
pub(super) struct Flags(Cell<u8>);

impl Flags {
    pub(super) const HALF_CLOSED: u8 = 1;
    /// Nothing is read from the client until the next sweep allows it.
    pub(super) const PAUSED: u8 = 2;
    /// The client is to be pinged; the endpoint is.
    pub(super) const PING: [u8; 2] = [4, 8];

    pub(super) fn has(&self, flag: u8) -> bool {
        self.0.get() & flag != 0
    }

    pub(super) fn set(&self, flag: u8, is_so: bool) {
        let others = self.0.get() & !flag;
        self.0.set(if is_so { others | flag } else { others });
    }
}

/// How long what goes to one side has been stuck, in sweeps: 0 if it is not.
#[derive(Debug, Default)]
pub(super) struct Stall(Cell<u16>);

impl Stall {
    fn set(&self, stuck: bool, moved: bool) {
        let seen = self.0.get();
        self.0.set(match stuck {
            true if moved || seen == 0 => 1,
            true => seen,
            false => 0,
        });
    }

    /// For how long it has been stuck at least.
    pub(super) fn time(&self) -> Duration {
        // It may have begun right before the first sweep.
        SWEEP_INTERVAL * u32::from(self.0.get().saturating_sub(1))
    }

    /// One more sweep: for how long it has been stuck at least.
    pub(super) fn sweep(&self) -> Duration {
        let seen = self.0.get();
        if seen > 0 {
            self.0.set(seen.saturating_add(1));
        }
        SWEEP_INTERVAL * u32::from(seen.saturating_sub(1))
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
            to_client: Stall::default(),
            to_endpoint: Stall::default(),
            flags: Flags::default(),
            seen: Cell::new((0, now)),
            verdict: Cell::new(None),
            overdue: Cell::new(0),
            waker: Cell::default(),
        }
    }

    /// The tunnel has to be ended, as this.
    pub fn verdict(&self) -> Option<Ended> {
        self.verdict.get()
    }

    /// Whether the tunnel has had its time to end in order.
    pub fn is_overdue(&self) -> bool {
        self.overdue.get() >= SWEEPS_TO_CLOSE
    }

    /// One side has ended: from the next sweep on, `half_closed` is the limit.
    pub fn set_half_closed(&self) {
        self.flags.set(Flags::HALF_CLOSED, true);
    }

    /// Whether something is left that `side` has not taken; `moved` if it has taken some.
    pub fn set_stuck(&self, side: Side, left: bool, moved: bool) {
        let stall = match side {
            Side::Client => &self.to_client,
            Side::Endpoint => &self.to_endpoint,
        };
        stall.set(left, moved);
    }

    /// Whether nothing is to be read from the client now.
    pub fn is_paused(&self) -> bool {
        self.flags.has(Flags::PAUSED)
    }

    /// Whether `side` is to be pinged, as was not told before.
    pub fn take_ping_request(&self, side: Side) -> bool {
        let flag = Flags::PING[side as usize];
        let asks = self.flags.has(flag);
        self.flags.set(flag, false);
        asks
    }

    /// Whom to wake when there is a verdict.
    pub fn set_waker(&self, waker: &Waker) {
        let known = self.waker.take();
        let known = known.filter(|known| known.will_wake(waker));
        self.waker.set(Some(known.unwrap_or_else(|| waker.clone())));
    }

    /// Ends the tunnel, unless something else already has.
    pub fn end(&self, reason: Ended) {
        if self.verdict.get().is_none() {
            self.verdict.set(Some(reason));
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        // It sets another one when it runs.
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// How long nothing has come from either side, to the second: it is the sweep that notices.
    pub(super) fn quiet(&self, now: Micros) -> Duration {
        let (seen, since) = self.seen.get();
        match self.moved() == seen {
            true => Duration::from_micros(now.saturating_sub(since)),
            false => Duration::ZERO,
        }
    }

    /// What changes with every sign of life.
    pub(super) fn moved(&self) -> u64 {
        // Moving from open to half-closed is one, too: its clock starts there.
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
