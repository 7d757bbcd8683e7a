//! How the tests' certificate authority behaves, and what it has seen.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{PublicKeyData, SignatureAlgorithm};
use serde_json::Value;
use x509_parser::prelude::{FromDer, X509CertificationRequest};

/// How the authority behaves. It may be changed at any time.
#[derive(Default)]
pub(crate) struct CaSettings {
    /// The life of certificates.
    pub(crate) lifetime: Option<Duration>,
    /// The start and end of the renewal window, in seconds from now; without it there is no ARI.
    pub(crate) window: Option<(i64, i64)>,
    /// The profiles in the directory.
    pub(crate) profiles: Vec<&'static str>,
    /// The key that new accounts must be bound to.
    pub(crate) external_account: Option<&'static str>,
    /// The challenges that are offered; all if it is empty.
    pub(crate) challenges: Vec<&'static str>,
    /// Each nonce with this number in its order is rejected once.
    pub(crate) rejects_every: Option<usize>,
    /// What the next new orders are answered instead.
    pub(crate) failures: VecDeque<CannedFailure>,
    /// Where names are asked for by http-01 and tls-alpn-01, on loopback.
    pub(crate) http_port: u16,
    pub(crate) tls_port: u16,
    /// The file in which a hook notes TXT records: a name and a value per line.
    pub(crate) records: PathBuf,
    /// Nothing is validated before this is unset.
    pub(crate) holds_validations: bool,
}

/// An error response.
pub(crate) struct CannedFailure {
    pub(crate) status: u16,
    pub(crate) problem: Option<&'static str>,
    pub(crate) retry_after: Option<u32>,
}

/// What has happened so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct CaHistory {
    pub(crate) accounts: usize,
    pub(crate) orders: usize,
    pub(crate) issued: usize,
    pub(crate) rejected_nonces: usize,
    pub(crate) window_polls: usize,
    /// The payload of the latest new order.
    pub(crate) last_order: Value,
    /// The contacts that accounts were changed to.
    pub(crate) contacts: Vec<Value>,
    /// How names were validated.
    pub(crate) validated: Vec<String>,
}

/// The public key in a request for a certificate.
pub(crate) struct RequestKey {
    bytes: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl RequestKey {
    pub(crate) fn of(request: &[u8]) -> Option<Self> {
        let (_, parsed) = X509CertificationRequest::from_der(request).ok()?;
        let key = &parsed.certification_request_info.subject_pki;
        let algorithm = match key.algorithm.algorithm.to_id_string().as_str() {
            "1.2.840.10045.2.1" => &rcgen::PKCS_ECDSA_P256_SHA256,
            "1.2.840.113549.1.1.1" => &rcgen::PKCS_RSA_SHA256,
            _ => return None,
        };
        Some(Self {
            bytes: key.subject_public_key.data.to_vec(),
            algorithm,
        })
    }
}

impl PublicKeyData for RequestKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}
