//! What unit tests of this layer share.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use zeroize::Zeroizing;

use super::chain::stored_form;
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

/// A certificate of [`authority`] for these names, as it is stored, and as if it had been issued; its validity is in
/// days from now.
pub(super) fn issued_form(names: &[&str], begin: i64, end: i64) -> Zeroizing<Vec<u8>> {
    issued_by(&authority().directory, names, begin, end)
}

/// The same from another directory.
pub(super) fn issued_by(
    directory: &str,
    names: &[&str],
    begin: i64,
    end: i64,
) -> Zeroizing<Vec<u8>> {
    let at = |days: i64| {
        let time = Duration::from_secs(days.unsigned_abs() * 24 * 60 * 60);
        let now = SystemTime::now();
        if days < 0 { now - time } else { now + time }
    };
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(names).unwrap();
    params.not_before = at(begin).into();
    params.not_after = at(end).into();
    let chain = params.self_signed(&key).unwrap().pem();
    stored_form(directory, &key.serialize_pem(), &chain)
}
