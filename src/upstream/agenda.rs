//! What the health checks have to learn from other threads: that the endpoints of an upstream changed, which
//! endpoints were ejected, and whose reports will end. With it, they look only at endpoints where something is due.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::endpoint::{EndpointState, locked};

/// Ejections that are remembered, at most, and as many reports. With more, all endpoints are looked at.
const MAX_DUE: usize = 4096;

/// An endpoint, and when its ejection or its report ends.
pub type DueEndpoint = (Instant, Weak<EndpointState>);

/// What has changed since the health checks looked last.
#[derive(Debug, Default)]
pub struct HealthAgenda {
    changes: AtomicU64,
    ejected: Mutex<Vec<DueEndpoint>>,
    reported: Mutex<Vec<DueEndpoint>>,
}

impl HealthAgenda {
    /// How often endpoints have changed.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The endpoints that were ejected since the last call.
    pub fn take_ejected(&self) -> Vec<DueEndpoint> {
        std::mem::take(&mut *locked(&self.ejected))
    }

    /// The endpoints whose reports had no appointment yet.
    pub fn take_reported(&self) -> Vec<DueEndpoint> {
        std::mem::take(&mut *locked(&self.reported))
    }

    /// The endpoints of an upstream have changed.
    pub(super) fn endpoints_changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// An endpoint is ejected until then.
    pub(super) fn ejected(&self, endpoint: &Arc<EndpointState>, until: Instant) {
        self.add(&self.ejected, endpoint, until);
    }

    /// The report of an endpoint ends then.
    pub(super) fn reported(&self, endpoint: &Arc<EndpointState>, until: Instant) {
        self.add(&self.reported, endpoint, until);
    }

    fn add(&self, due: &Mutex<Vec<DueEndpoint>>, endpoint: &Arc<EndpointState>, until: Instant) {
        let mut due = locked(due);
        if due.len() >= MAX_DUE {
            due.clear();
            self.endpoints_changed();
        }
        due.push((until, Arc::downgrade(endpoint)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejections_are_bounded_and_none_is_lost() {
        let agenda = HealthAgenda::default();
        let now = Instant::now();
        let key = (
            "chat".into(),
            "127.0.0.1:1".parse().map(crate::config::model::Address::Ip),
        );
        let endpoint = Arc::new(EndpointState::new(
            (key.0, key.1.unwrap()),
            Arc::default(),
            0,
        ));
        for _ in 0..MAX_DUE {
            agenda.ejected(&endpoint, now);
        }
        assert_eq!(agenda.changes(), 0);
        agenda.ejected(&endpoint, now);
        assert_eq!(agenda.changes(), 1, "all are looked at");
        assert_eq!(agenda.take_ejected().len(), 1);
        assert!(agenda.take_ejected().is_empty());
    }
}
