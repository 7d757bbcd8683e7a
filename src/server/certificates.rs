//! The certificates of a configuration, and what is known of them while it runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::acme::status::CertificateStatus;
use crate::config::model::{Config, ListenerCertificate, ManagedCertificate};
use crate::net::managed_certificates::ManagedCertificates;
use crate::observe::certificates::{CertificateSource, CertificateState, LifeLeft, ServedValidity};

/// What stands in place of a listener for the certificate of the admin interface.
const ADMIN: &str = "admin.tls";

/// The certificates of a configuration.
#[derive(Debug, Clone, Default)]
pub(super) struct ConfiguredCertificates {
    /// Those of the listeners and of the admin interface. Of managed ones it is not known yet what is served.
    listed: Vec<CertificateState>,
    /// Those that tidegate obtains, each once.
    pub(super) managed: Vec<ManagedCertificate>,
}

impl ConfiguredCertificates {
    pub(super) fn of(config: &Config) -> Self {
        let listeners = config.listeners.iter();
        let listeners = listeners.map(|it| (Arc::clone(&it.name), it.tls.as_ref()));
        let admin = (ADMIN.into(), config.admin.tls.as_ref());
        let mut listed = Vec::new();
        for (listener, tls) in listeners.chain([admin]) {
            let certificates = tls.into_iter().flat_map(|tls| &tls.certificates);
            listed.extend(certificates.map(|certificate| {
                let (source, served) = match certificate {
                    ListenerCertificate::Files(files) => (
                        CertificateSource::File(files.cert.display().to_string().into()),
                        Some(ServedValidity {
                            issuer: files.issuer.clone(),
                            not_before: files.not_before,
                            not_after: files.not_after,
                            is_self_signed: false,
                        }),
                    ),
                    ListenerCertificate::Managed(managed) => (
                        CertificateSource::Authority {
                            name: Arc::clone(&managed.authority.name),
                            id: managed.id(),
                        },
                        None,
                    ),
                };
                let names = certificate.names().iter().map(ToString::to_string);
                CertificateState {
                    listener: Arc::clone(&listener),
                    names: names.collect(),
                    source,
                    served,
                    next_renewal: None,
                    failure: None,
                    folder_error: None,
                    is_ordering: false,
                }
            }));
        }
        Self {
            listed,
            managed: config.managed_certificates(),
        }
    }

    /// The certificates as they are now.
    pub(super) fn now(
        &self,
        served: &ManagedCertificates,
        statuses: Vec<CertificateStatus>,
    ) -> Vec<CertificateState> {
        let statuses = statuses.into_iter();
        let statuses: HashMap<Arc<str>, CertificateStatus> =
            statuses.map(|it| (Arc::clone(&it.id), it)).collect();
        let mut states = self.listed.clone();
        for state in &mut states {
            let CertificateSource::Authority { id, .. } = &state.source else {
                continue;
            };
            // What is in the slot is what clients get, whatever else is known.
            state.served = served.slot(id).served().map(|it| ServedValidity {
                issuer: it.issuer.clone(),
                not_before: it.not_before,
                not_after: it.not_after,
                is_self_signed: it.is_self_signed,
            });
            if let Some(status) = statuses.get(id) {
                state.next_renewal = status.next_attempt;
                state.failure.clone_from(&status.failure);
                state.folder_error.clone_from(&status.folder_error);
                state.is_ordering = status.is_ordering;
            }
        }
        states
    }
}

/// Whether a listener has certificates, and none of them was issued yet: it cannot serve any client.
pub(super) fn is_any_listener_without(states: &[CertificateState]) -> bool {
    let mut has_one: HashMap<&str, bool> = HashMap::new();
    for state in states {
        *has_one.entry(&state.listener).or_default() |= state.served.is_some();
    }
    has_one.values().any(|has_one| !has_one)
}

/// The warnings about certificates that were given: each once for each certificate.
#[derive(Debug, Default)]
pub(super) struct ExpiryWarnings(HashMap<(Arc<str>, SystemTime), LifeLeft>);

impl ExpiryWarnings {
    /// The certificates that have less of their life left than when they were last warned of.
    pub(super) fn due<'a>(
        &mut self,
        states: &'a [CertificateState],
        now: SystemTime,
    ) -> Vec<(&'a CertificateState, LifeLeft)> {
        let mut due = Vec::new();
        let mut known = HashMap::new();
        for state in states {
            let Some(served) = state.served.as_ref().filter(|it| !it.is_self_signed) else {
                continue;
            };
            let key = (Arc::clone(state.source.label()), served.not_after);
            let left = served.life_left(now);
            let before = self.0.get(&key).copied().unwrap_or(LifeLeft::Enough);
            // Listeners may share one.
            if left > before && !known.contains_key(&key) {
                due.push((state, left));
            }
            known.insert(key, left.max(before));
        }
        self.0 = known;
        due
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// A certificate of this listener with a life of ten days; `None` if there is none yet.
    fn state(listener: &str, file: &str, from: Option<SystemTime>) -> CertificateState {
        CertificateState {
            listener: listener.into(),
            names: Arc::default(),
            source: CertificateSource::File(file.into()),
            served: from.map(|from| ServedValidity {
                issuer: "a CA".into(),
                not_before: from,
                not_after: from + 10 * DAY,
                is_self_signed: false,
            }),
            next_renewal: None,
            failure: None,
            folder_error: None,
            is_ordering: false,
        }
    }

    #[test]
    fn a_listener_needs_one_certificate() {
        let some = Some(SystemTime::UNIX_EPOCH);
        for (states, expected) in [
            (vec![], false),
            (vec![state("a", "1", None)], true),
            (vec![state("a", "1", None), state("a", "2", some)], false),
            (vec![state("a", "1", None), state("b", "2", some)], true),
        ] {
            assert_eq!(is_any_listener_without(&states), expected, "{states:?}");
        }
    }

    #[test]
    fn each_warning_is_given_once_for_each_certificate() {
        let start = SystemTime::UNIX_EPOCH + 1000 * DAY;
        let first = [state("a", "1", Some(start)), state("b", "1", Some(start))];
        let second = [state("a", "1", Some(start + 9 * DAY))];
        let mut warnings = ExpiryWarnings::default();
        for (states, day, expected) in [
            (&first[..], 1.0, None),
            (&first, 8.5, Some(LifeLeft::Little)),
            (&first, 8.6, None),
            // The clock was wrong for a while.
            (&first, 1.0, None),
            (&first, 8.7, None),
            (&first, 9.9, Some(LifeLeft::VeryLittle)),
            (&second, 10.1, None),
            (&second, 17.5, Some(LifeLeft::Little)),
            (&second, 20.0, Some(LifeLeft::Expired)),
        ] {
            let due = warnings.due(states, start + DAY.mul_f64(day));
            let due: Vec<LifeLeft> = due.into_iter().map(|(_, left)| left).collect();
            assert_eq!(due, Vec::from_iter(expected), "day {day}");
        }
    }
}
