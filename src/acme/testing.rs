//! What unit tests of this layer share.

use std::sync::Arc;

use crate::config::model::{
    AcmeConfig, ChallengeKind, HostPattern, KeyType, ManagedCertificate, Roots, UntilIssued,
};

/// An authority that does not exist.
pub(super) fn authority() -> AcmeConfig {
    AcmeConfig {
        name: "ca".into(),
        directory: "https://ca.invalid/dir".into(),
        roots: Roots::Given(Vec::new()),
        email: None,
        profile: None,
        challenges: vec![ChallengeKind::TlsAlpn01, ChallengeKind::Http01],
        dns: None,
        external_account: None,
        state: "/nonexistent".into(),
        until_issued: UntilIssued::Refuse,
        key_type: KeyType::EcdsaP256,
        shared: None,
    }
}

/// A certificate for these names, from [`authority`].
pub(super) fn certificate(names: &[&str]) -> ManagedCertificate {
    let names = names.iter().map(|name| match name.strip_prefix("*.") {
        Some(parent) => HostPattern::Wildcard(parent.into()),
        None => HostPattern::Exact((*name).into()),
    });
    ManagedCertificate {
        names: names.collect(),
        authority: Arc::new(authority()),
    }
}
