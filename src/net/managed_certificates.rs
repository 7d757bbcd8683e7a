//! The certificates that tidegate obtains by itself, as listeners serve them, and its answers to the challenges
//! of a certificate authority.
//!
//! Workers read both in the middle of handshakes and requests, from memory. Who obtains certificates and opens
//! challenges is the matter of the layer `acme`.

use std::collections::HashMap;
use std::iter;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

/// The protocol of a `tls-alpn-01` validation in ALPN (RFC 8737 section 4).
pub const ALPN_ACME: &[u8] = b"acme-tls/1";

/// The path below which authorities ask for the answers of `http-01` (RFC 8555 section 8.3).
pub const HTTP_CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// Whether the client wants to validate a name by `tls-alpn-01`, and nothing else.
pub fn asks_for_challenge(hello: &ClientHello<'_>) -> bool {
    let offered = hello.alpn();
    offered.is_some_and(|offered| offered.eq(iter::once(ALPN_ACME)))
}

/// All managed certificates and open challenges of the process. They outlive reloads.
#[derive(Debug, Default)]
pub struct ManagedCertificates {
    slots: Mutex<HashMap<Arc<str>, Arc<CertificateSlot>>>,
    /// The challenges that are open.
    pub challenges: OpenChallenges,
}

impl ManagedCertificates {
    /// The slot of the certificate with this id, which is empty at first.
    pub fn slot(&self, id: &Arc<str>) -> Arc<CertificateSlot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(Arc::clone(id)).or_default())
    }

    /// Forgets the slots of all certificates but these.
    pub fn retain(&self, mut is_wanted: impl FnMut(&str) -> bool) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|id, _| is_wanted(id));
    }
}

/// The place of one managed certificate: a renewal replaces what is in it, for new handshakes.
#[derive(Debug, Default)]
pub struct CertificateSlot(ArcSwapOption<ServedCertificate>);

impl CertificateSlot {
    /// What is served; `None` if nothing was issued yet.
    pub fn served(&self) -> Option<Arc<ServedCertificate>> {
        self.0.load_full()
    }

    /// Serves this from now on.
    pub fn set(&self, served: ServedCertificate) {
        self.0.store(Some(Arc::new(served)));
    }
}

/// A managed certificate that is served.
#[derive(Debug)]
pub struct ServedCertificate {
    /// The chain and the signing key.
    pub certified: Arc<CertifiedKey>,
    /// The common name of the issuer, as far as it is readable.
    pub issuer: Box<str>,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
    /// Whether it only stands in for one that was not issued yet.
    pub is_self_signed: bool,
}

/// The challenges that are open: what authorities may ask for, and what they are answered.
#[derive(Debug, Default)]
pub struct OpenChallenges {
    /// Key authorizations, by token.
    http: ArcSwap<HashMap<Box<str>, Arc<str>>>,
    /// Certificates with the extension of RFC 8737, by name.
    tls: ArcSwap<HashMap<Box<str>, Arc<CertifiedKey>>>,
}

impl OpenChallenges {
    /// The answer to `http-01` at this path of a request; `None` if no such challenge is open.
    pub fn http_answer(&self, path: &str) -> Option<Arc<str>> {
        let token = path.strip_prefix(HTTP_CHALLENGE_PATH)?;
        self.http.load().get(token).cloned()
    }

    /// The certificate that answers `tls-alpn-01` for this name; `None` if no such challenge is open.
    pub fn tls_answer(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.tls.load().get(name).cloned()
    }

    /// From now on, exactly these answers are given.
    pub fn replace(
        &self,
        http: HashMap<Box<str>, Arc<str>>,
        tls: HashMap<Box<str>, Arc<CertifiedKey>>,
    ) {
        self.http.store(Arc::new(http));
        self.tls.store(Arc::new(tls));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_challenges_are_answered() {
        let open = OpenChallenges::default();
        let path = "/.well-known/acme-challenge/abc";
        assert!(open.http_answer(path).is_none());
        open.replace(
            HashMap::from([("abc".into(), "abc.key".into())]),
            HashMap::new(),
        );
        assert_eq!(open.http_answer(path).as_deref(), Some("abc.key"));
        for other in [
            "/abc",
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/abc/",
        ] {
            assert!(open.http_answer(other).is_none(), "{other}");
        }
        open.replace(HashMap::new(), HashMap::new());
        assert!(open.http_answer(path).is_none());
    }

    #[test]
    fn slots_are_shared_by_id_until_nobody_wants_them() {
        let managed = ManagedCertificates::default();
        let id: Arc<str> = "ca/a.example.com".into();
        let slot = managed.slot(&id);
        assert!(Arc::ptr_eq(&slot, &managed.slot(&id)));
        managed.retain(|known| known != &*id);
        assert!(!Arc::ptr_eq(&slot, &managed.slot(&id)));
    }
}
