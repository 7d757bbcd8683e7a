//! The requests to all services that the process depends on, by the name that operators see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::counters::ClientCounters;
use crate::quota::failure_reports::FailureReports;

/// Services that nothing asks any more are forgotten when there are more than this.
const MAX_SERVICES: usize = 256;

/// The requests to each service. They are counted under a name such as `acme/letsencrypt`: the
/// kind of table in the configuration, and the name of the table.
#[derive(Debug, Default)]
pub struct ServiceTraffic {
    services: Mutex<BTreeMap<Arc<str>, Arc<ClientCounters>>>,
    reports: Arc<FailureReports>,
}

impl ServiceTraffic {
    /// The counters of a service.
    pub fn of(&self, service: &str) -> Arc<ClientCounters> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = services.get(service) {
            return Arc::clone(known);
        }
        if services.len() >= MAX_SERVICES {
            services.retain(|_, counters| Arc::strong_count(counters) > 1);
        }
        let name: Arc<str> = service.into();
        let counters = ClientCounters::new(&name, &self.reports);
        let counters = services.entry(name).or_insert_with(|| Arc::new(counters));
        Arc::clone(counters)
    }

    /// All services, by name.
    pub fn all(&self) -> Vec<Arc<ClientCounters>> {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.values().map(Arc::clone).collect()
    }
}

impl ClientCounters {
    /// Reports a failure, once per cause and minute.
    pub(super) fn report(&self, error: &str) {
        if let Some(unreported) = self
            .reports
            .admit(&format!("{} {error}", self.service), Instant::now())
        {
            tracing::warn!(
                service = &*self.service,
                error,
                unreported,
                "request to a service failed; each cause is logged at most once a minute"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_the_same_counters_as_long_as_it_is_asked() {
        let traffic = ServiceTraffic::default();
        let asked = traffic.of("acme/ca");
        assert!(Arc::ptr_eq(&asked, &traffic.of("acme/ca")));
        for number in 0..2 * MAX_SERVICES {
            traffic.of(&format!("acme/{number}"));
            assert!(traffic.all().len() <= MAX_SERVICES);
        }
        assert!(Arc::ptr_eq(&asked, &traffic.of("acme/ca")));
    }
}
