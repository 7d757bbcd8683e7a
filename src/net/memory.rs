//! The memory of the process against its limit.
//!
//! The control thread measures; workers only look at a flag.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Percent of the limit from which no further tunnel is opened.
const FULL: u64 = 90;

/// Percent of the limit below which tunnels are opened again.
const AMPLE: u64 = 85;

/// Percent of the limit from which tunnels are closed: with this much left, the kernel may kill the
/// process within seconds.
const CRITICAL: u64 = 95;

/// A measurement of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryFigures {
    /// The limit, in bytes.
    pub limit: u64,
    /// The memory in use that counts towards it, in bytes.
    pub used: u64,
}

/// What a measurement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryState {
    /// There is enough, or no limit.
    Ample,
    /// No further tunnel is opened.
    Full,
    /// Tunnels have to be closed until memory of this size is free, in bytes.
    Critical(u64),
}

/// The memory of the process, as last measured.
#[derive(Debug, Default)]
pub struct MemoryGauge {
    /// 0 for no limit.
    limit: AtomicU64,
    used: AtomicU64,
    full: AtomicBool,
}

impl MemoryFigures {
    fn is_above(self, percent: u64) -> bool {
        self.used >= self.part(percent)
    }

    fn part(self, percent: u64) -> u64 {
        self.limit / 100 * percent
    }
}

impl MemoryGauge {
    /// Records a measurement; `None` if there is no limit.
    pub fn record(&self, figures: Option<MemoryFigures>) -> MemoryState {
        let MemoryFigures { limit, used } = figures.unwrap_or(MemoryFigures { limit: 0, used: 0 });
        self.limit.store(limit, Ordering::Relaxed);
        self.used.store(used, Ordering::Relaxed);
        // Full until clearly below, so that it does not change with every second.
        let from = if self.is_full() { AMPLE } else { FULL };
        let state = match figures {
            Some(figures) if figures.is_above(CRITICAL) => {
                MemoryState::Critical(used.saturating_sub(figures.part(FULL)))
            }
            Some(figures) if figures.is_above(from) => MemoryState::Full,
            _ => MemoryState::Ample,
        };
        self.full
            .store(state != MemoryState::Ample, Ordering::Relaxed);
        state
    }

    /// Whether no further tunnel may be opened.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// The last measurement; `None` if there is no limit.
    pub fn figures(&self) -> Option<MemoryFigures> {
        let limit = self.limit.load(Ordering::Relaxed);
        let used = self.used.load(Ordering::Relaxed);
        (limit > 0).then_some(MemoryFigures { limit, used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_from_nine_tenths_on_and_until_clearly_below() {
        let gauge = MemoryGauge::default();
        let limit = 1000;
        for (used, state) in [
            (0, MemoryState::Ample),
            (899, MemoryState::Ample),
            (900, MemoryState::Full),
            (949, MemoryState::Full),
            (950, MemoryState::Critical(50)),
            (5000, MemoryState::Critical(4100)),
            (890, MemoryState::Full),
            (850, MemoryState::Full),
            (849, MemoryState::Ample),
            (899, MemoryState::Ample),
        ] {
            let figures = MemoryFigures { limit, used };
            assert_eq!(gauge.record(Some(figures)), state, "{used}");
            assert_eq!(gauge.is_full(), state != MemoryState::Ample);
            assert_eq!(gauge.figures(), Some(figures));
        }
        gauge.record(Some(MemoryFigures { limit, used: 999 }));
        assert_eq!(gauge.record(None), MemoryState::Ample);
        assert!(!gauge.is_full() && gauge.figures().is_none());
    }
}
