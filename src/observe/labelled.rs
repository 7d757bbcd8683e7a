//! Series by label: made when they are first needed, forgotten when they have been unused for long.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Series by label, made when they are first needed.
#[derive(Debug)]
pub struct Labelled<K, V>(Mutex<HashMap<K, TrackedSeries<V>>>);

#[derive(Debug)]
struct TrackedSeries<V> {
    series: Arc<V>,
    /// Sweeps for which the series has been unused.
    unused: u32,
}

impl<K, V> Default for Labelled<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// Sweeps after which an unused series is forgotten. Ten minutes: longer than any scrape interval,
/// so that the last values are still read.
pub(super) const FORGET_AFTER: u32 = 60;

impl<K: Eq + Hash, V> Labelled<K, V> {
    /// The series with this label.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, label: &Q, new: impl FnOnce() -> (K, V)) -> Arc<V>
    where
        K: Borrow<Q>,
    {
        let mut series_by_label = self.lock();
        if let Some(tracked) = series_by_label.get(label) {
            return Arc::clone(&tracked.series);
        }
        let (label, series) = new();
        let series = Arc::new(series);
        let tracked = TrackedSeries {
            series: Arc::clone(&series),
            unused: 0,
        };
        series_by_label.insert(label, tracked);
        series
    }

    /// All series.
    pub fn all(&self) -> Vec<Arc<V>> {
        let series_by_label = self.lock();
        series_by_label
            .values()
            .map(|tracked| Arc::clone(&tracked.series))
            .collect()
    }

    /// Forgets the series that are not in use and have not been `wanted` for some time: endpoints
    /// come and go, and their series would accumulate. Returns them, because what they have counted
    /// still belongs to sums.
    #[must_use]
    pub fn sweep(&self, wanted: impl Fn(&V) -> bool) -> Vec<Arc<V>> {
        let mut series_by_label = self.lock();
        let forgotten = series_by_label.extract_if(|_, tracked| {
            // A tunnel holds its series for as long as it lives, and counts into it when it ends.
            let used = Arc::strong_count(&tracked.series) > 1 || wanted(&tracked.series);
            tracked.unused = if used { 0 } else { tracked.unused + 1 };
            tracked.unused > FORGET_AFTER
        });
        forgotten.map(|(_, tracked)| tracked.series).collect()
    }

    /// Takes out the series whose labels are `due`.
    pub(super) fn take(&self, due: impl Fn(&K) -> bool) -> Vec<(K, Arc<V>)> {
        let mut series_by_label = self.lock();
        let taken = series_by_label.extract_if(|label, _| due(label));
        taken.map(|(label, it)| (label, it.series)).collect()
    }

    /// Whether the labels of all series meet a condition.
    pub(super) fn all_labels(&self, condition: impl Fn(&K) -> bool) -> bool {
        self.lock().keys().all(condition)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, TrackedSeries<V>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::counter::Counter;

    #[test]
    fn unused_series_are_forgotten_in_the_end() {
        let labelled = Labelled::<u64, Counter>::default();
        let get = |label| labelled.get(&label, || (label, Counter::default()));
        let held = get(1);
        get(2).add(1);
        get(3).add(3);
        assert_eq!(get(2).get(), 1, "the same each time");
        let sweep = || labelled.sweep(|series| series.get() == 3);
        for _ in 0..FORGET_AFTER {
            assert!(sweep().is_empty());
        }
        assert_eq!(labelled.all().len(), 3);
        let forgotten: Vec<u64> = sweep().iter().map(|it| it.get()).collect();
        assert_eq!((forgotten, labelled.all().len()), (vec![1], 2));
        assert_eq!((get(1).get(), get(2).get()), (held.get(), 0));
    }
}
